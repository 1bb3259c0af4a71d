"""What a policy is trained for: TIMAR's loss over windows with open turns, and what training does to the windows.

Every window is passed once as history (all turns closed, own motion given, attention causal by turns) and, beside
it in the same pass, as copies of open turns cut at random, whose newest motion is masked. A copy sees the history
before its turn and itself, which is what a hop sees live; one pass trains many hops.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from timar_ros.channels import CHANNELS, HEAD_CHANNELS
from timar_ros.learn.dataset import MOUTH, Conversation, known_channels
from timar_ros.learn.motion_units import find_ways_back
from timar_ros.learn.recipe import Recipe
from timar_ros.learn.window_attention import WindowAttention, may_attend
from timar_ros.learn.windows import Windows
from timar_ros.model.diffusion import make_schedule, training_terms
from timar_ros.model.features import log_mel
from timar_ros.model.network import FrameInputs, TimarNetwork
from timar_ros.model.precision import computes_bfloat16

JAW = CHANNELS.index("jawOpen")
# How long the diffusion's noise stays alike, as a smoothing kernel's deviation in frames.
NOISE_FRAMES = 1.0

# A part of the windows begins where no person was and comes back with this time constant.
ASTRAY_SHARE, RETURN_FRAMES, SLOW_FRAMES = 0.4, 40.0, 8

# In bits the variational term is tens of times the squared error at first and would drown it.
VARIATIONAL_WEIGHT = 0.01


@dataclass(frozen=True)
class Batch:
    """Windows as one pass of the network, over B windows of T closed frames and S slots of open turns.

    Attributes:
        inputs, frame: [B, T + S], history, then open turns.
        may: [B, T + S, T + S] bool, which frame sees which.
        target: [B, S, 55] what is to be drawn of the open turns' frames (`TimarNetwork.to_change`).
        masked: [B, S] bool, where it is.
        motion: [B, T + S, 55] what the person did, in normalised units.
        nod_ahead: [B, S] bool, where a nod is about to begin.
        nod_shown: [B, S] bool, where a frame further on in the same copy shows that one begins.
    """

    inputs: FrameInputs
    frame: Tensor
    may: Tensor
    target: Tensor
    masked: Tensor
    motion: Tensor
    nod_ahead: Tensor
    nod_shown: Tensor


def make_batch(windows: Windows, network: TimarNetwork, recipe: Recipe, random: Random, ways_back: Tensor) -> Batch:
    """Windows with what training does to them: noise on the history, histories dropped, partners' faces shown.

    `ways_back` is of `find_ways_back`.
    """
    batch, _, frames, channels = windows.motion.shape
    device = windows.motion.device
    rows = torch.arange(batch, device=device)[:, None]
    frame, lookahead = windows.frame, windows.lookahead[:, None]

    def copied(values: Tensor) -> Tensor:
        """[B, T, ...] -> [B, T + S, ...]."""
        return values[rows, frame]

    with torch.no_grad():
        speech, _ = network.speech_encoder(log_mel(windows.voices).flatten(0, 1))
    speech = speech[:, -frames:].unflatten(0, (batch, 2))
    motion, partner = network.normalise(windows.motion[:, 0]), network.normalise_partner(windows.motion[:, 1])
    strayed = network.normalise(windows.given) - motion
    drop = random.uniform(batch, 1) < recipe.history_dropped
    masked = windows.masked | drop  # where no motion is given, every frame of an open turn can be asked for
    # What was drawn may drift to where no person was; the network learns the way back, in channels that move slowly.
    astray = random.normal(batch, 1, channels) * recipe.astray * random.uniform(batch, 1, 1)
    astray = astray * ((random.uniform(batch, 1) < ASTRAY_SHARE) & ~drop)[..., None]
    way_back = torch.exp(-torch.arange(frames, device=device)[:, None] / RETURN_FRAMES)
    own = motion + astray * network.motion_kept[SLOW_FRAMES] * way_back
    # Live, what was drawn before is not quite what a person would have done; the network learns to come back from it.
    noise = random.normal(batch, frames, channels) * recipe.history_noise * random.uniform(batch, 1, 1)
    given = own + strayed + network.motion_step[1] * noise
    last = windows.basis
    known = (last >= 0) & ~drop
    lag = torch.where(known & masked, frame[:, frames:] - last, 0)
    newest, before = given[rows, last.clamp(min=0)], given[rows, (last - 1).clamp(min=0)]
    basis = torch.cat([newest, (newest - before) / network.motion_step[1]], dim=2) * known[..., None]
    # What strayed comes back as the channel's own deviations do, while the person goes on.
    last_strayed, before_strayed = strayed[rows, last.clamp(min=0)], strayed[rows, (last - 1).clamp(min=0)]
    remains = ways_back[0, lag] * last_strayed + ways_back[1, lag] * (last_strayed - before_strayed)
    nod_place = copied(windows.nod_place)
    did = copied(own)
    target = network.to_change(did[:, frames:] + remains, basis, lag, nod_place[:, frames:])
    to_draw = torch.cat([torch.zeros_like(masked[:, :1]).expand(-1, frames), masked], dim=1)
    inputs = FrameInputs(
        own_speech=copied(speech[:, 0]),
        partner_speech=copied(speech[:, 1]),
        own_heard=copied(windows.heard[:, 0]),
        partner_heard=copied(windows.heard[:, 1]),
        own_motion=copied(given),
        own_given=~to_draw & ~drop,
        basis=torch.cat([basis.new_zeros(batch, frames, basis.shape[2]), basis * masked[..., None]], dim=1),
        lag=torch.cat([lag.new_zeros(batch, frames), lag], dim=1),
        partner_motion=copied(partner),
        partner_seen=(random.uniform(batch, 1) < recipe.partner_seen).expand(-1, frame.shape[1]),
        turn_place=(frame - windows.turn_start).clamp(max=network.config.max_turn_frames - 1),
        nod_place=nod_place,
        lookahead=lookahead.expand(frame.shape),
    )
    may = may_attend(frame, windows.turn_start, windows.copy, network.config.window_frames)
    copy, begins = windows.copy[:, frames:], nod_place[:, frames:] == 1
    nod_shown = ((copy[:, :, None] == copy[:, None]) & begins[:, None]).triu(1).any(dim=2)
    return Batch(inputs, frame, may, target, masked, did, copied(windows.nod_ahead)[:, frames:], nod_shown)


class Random:
    """Random numbers of one batch, made on its device."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._made = {"generator": torch.Generator(device).manual_seed(seed), "device": device}

    def uniform(self, *shape: int) -> Tensor:
        """Between 0 and 1."""
        return torch.rand(shape, **self._made)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, **self._made)


class Objective(nn.Module):
    """TIMAR's loss: squared error of x0 as mean(head) + jaw + mean(face), plus the variational term.

    Beside it, what the error of drawn motion alone hardly leads to. Whether a nod is about to begin must be read from
    the conditions z: nods are rare, and what calls for one lies half a second back in the other's voice. And so must,
    by a linear layer that is thrown away afterwards, the mouth's shapes, of every frame and not of those to be drawn
    alone: they are not shown to the network, so that it has to hear them.

    Of channels that the conversations do not tell of nothing is learned.
    """

    def __init__(self, network: TimarNetwork, recipe: Recipe, conversations: list[Conversation]) -> None:
        super().__init__()
        self.network = network
        known, ways_back = known_channels(conversations), find_ways_back(network, conversations)
        self.lips = nn.Linear(network.config.width, len(CHANNELS))
        self.register_buffer("ways_back", ways_back)
        self._recipe = recipe
        self._schedule = make_schedule()
        self._lips = np.flatnonzero(MOUTH & known).tolist()
        channels = np.arange(len(CHANNELS))
        groups = {"head": channels < len(HEAD_CHANNELS), "jaw": channels == JAW, "face": channels >= len(HEAD_CHANNELS)}
        self._groups = {name: np.flatnonzero(group & known).tolist() for name, group in groups.items()}

    def forward(self, windows: Windows) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and its parts for the log."""
        network, schedule, draws = self.network, self._schedule, self._recipe.draws
        device = windows.motion.device
        random = Random(windows.seed, device)
        batch = make_batch(windows, network, self._recipe, random, self.ways_back)
        target, masked = batch.target, batch.masked
        history = batch.frame.shape[1] - masked.shape[1]
        mixed = computes_bfloat16(device)
        dtype = torch.bfloat16 if mixed else torch.float32
        attend = WindowAttention(batch.may, history, network.config.max_turn_frames, dtype)
        rotation = torch.from_numpy(network.rotation(np.arange(history))).to(device)[batch.frame]
        with torch.autocast(device.type, dtype=dtype, enabled=mixed):
            z = network.conditions(batch.inputs, rotation, attend=attend)
        lips = (self.lips(z.float()) - batch.motion).square().mean(dim=(0, 1))[self._lips].mean()
        # Live a nod begins with the hop that decides on it, and no frame tells of one to come.
        asked = (masked & ~batch.nod_shown)[masked]
        z = z[:, history:][masked].float()
        foreseen = binary_cross_entropy_with_logits(network.nod_ahead(z[asked]), batch.nod_ahead[masked][asked].float())
        z = z.repeat(draws, 1)
        noise = correlated_noise(random, (draws, *target.shape), NOISE_FRAMES)[:, masked].flatten(0, 1)
        target = target[masked].repeat(draws, 1)
        # The more noise, the more of the answer must come from z: step numbers are drawn with density rising linearly.
        step = (len(schedule) * random.uniform(len(target)).sqrt()).long().clamp(max=len(schedule) - 1)
        error, variational = training_terms(network.diffusion, schedule, target, z, step, noise)
        error = error.mean(dim=0)
        parts = {name: error[group].mean() for name, group in self._groups.items() if group}
        parts["variational"] = VARIATIONAL_WEIGHT * variational.mean()
        parts["nod_ahead"] = self._recipe.foresight * foreseen
        parts["lips"] = self._recipe.lips * lips
        return sum(parts.values()), {name: value.detach() for name, value in parts.items()}


def correlated_noise(random: Random, shape: tuple[int, ...], sigma: float) -> Tensor:
    """Standard normal float32, alike along the last axis but one as stream/noise.py makes it live."""
    white = random.normal(*shape)
    reach = math.ceil(4 * sigma)
    kernel = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-reach, reach + 1)]
    scale = math.sqrt(sum(weight * weight for weight in kernel))
    return sum(weight / scale * white.roll(k, -2) for k, weight in zip(range(-reach, reach + 1), kernel, strict=True))
