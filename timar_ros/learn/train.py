"""`timar train`: TIMAR's objective on conversations of two parties.

Every window is passed once as history (all turns closed, own motion given, attention causal by turns) and, beside
it in the same pass, as copies of open turns cut at random, whose newest motion is masked. A copy sees the history
before its turn and itself, which is what a hop sees live; one pass trains many hops. The batch of step n depends on
seed and n alone, so a run that is resumed gives what it would have given.

Several GPUs, or machines: torchrun --nproc-per-node 4 -m timar_ros.cli train --data ... --out ...; each worker draws
windows of its own.
"""

from __future__ import annotations

import argparse
import copy
import csv
import ctypes
import math
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from timar_ros.errors import TimarError
from timar_ros.learn.batches import Batches, batches
from timar_ros.learn.dataset import MOUTH, Conversation, known_channels, load_conversations
from timar_ros.learn.recipe import Recipe
from timar_ros.learn.speech_teaching import teach
from timar_ros.learn.wandering import settle, wander_through
from timar_ros.learn.watching import write_sample_video
from timar_ros.learn.window_attention import WindowAttention, may_attend
from timar_ros.learn.windows import Windows, draw_window
from timar_ros.model.checkpoint import Policy, load_policy, save_policy
from timar_ros.model.config import NetworkConfig
from timar_ros.model.diffusion import make_schedule, training_terms
from timar_ros.model.features import log_mel
from timar_ros.model.network import NOD_FRAMES, FrameInputs, TimarNetwork
from timar_ros.model.precision import computes_bfloat16
from timar_ros.motion.channels import CHANNELS, HEAD_CHANNELS
from timar_ros.motion.flame import ExpressionMap
from timar_ros.stream.policy import Sampling

JAW = CHANNELS.index("jawOpen")
# How long the diffusion's noise stays alike, as a smoothing kernel's deviation in frames.
NOISE_FRAMES = 1.0

# A part of the windows begins where no person was and comes back with this time constant.
ASTRAY_SHARE, RETURN_FRAMES, SLOW_FRAMES = 0.4, 40.0, 8

# From how many conversations it is learned how deviations go on.
WAYS_BACK_OF = 40

# What a run is measured by meanwhile: the same windows each time.
LOOK_WINDOWS, LOOK_SEED = 12, 0

# How a new policy draws, until that is set in its folder's config.yaml.
SAMPLING = Sampling(
    head_temperature=1.1, eyes_temperature=1.3, mouth_temperature=0.0, head_return_per_s=0.3, mouth_gain=1.1,
    nod_threshold=0.25,
)  # fmt: skip

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
    """

    inputs: FrameInputs
    frame: Tensor
    may: Tensor
    target: Tensor
    masked: Tensor
    motion: Tensor
    nod_ahead: Tensor


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
    speech = speech.unflatten(0, (batch, 2))
    motion = network.normalise(windows.motion)
    strayed = network.normalise(windows.given) - motion[:, 0]
    drop = random.uniform(batch, 1) < recipe.history_dropped
    masked = windows.masked | drop  # where no motion is given, every frame of an open turn can be asked for
    # What was drawn may drift to where no person was; the network learns the way back, in channels that move slowly.
    astray = random.normal(batch, 1, channels) * recipe.astray * random.uniform(batch, 1, 1)
    astray = astray * ((random.uniform(batch, 1) < ASTRAY_SHARE) & ~drop)[..., None]
    way_back = torch.exp(-torch.arange(frames, device=device)[:, None] / RETURN_FRAMES)
    own = motion[:, 0] + astray * network.motion_kept[SLOW_FRAMES] * way_back
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
        partner_motion=copied(motion[:, 1]),
        partner_seen=(random.uniform(batch, 1) < recipe.partner_seen).expand(-1, frame.shape[1]),
        turn_place=(frame - windows.turn_start).clamp(max=network.config.max_turn_frames - 1),
        nod_place=nod_place,
        lookahead=lookahead.expand(frame.shape),
    )
    may = may_attend(frame, windows.turn_start, windows.copy, network.config.window_frames)
    return Batch(inputs, frame, may, target, masked, did, copied(windows.nod_ahead)[:, frames:])


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
        z = z[:, history:][masked].float()
        foreseen = binary_cross_entropy_with_logits(network.nod_ahead(z), batch.nod_ahead[masked].float())
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


@dataclass(frozen=True)
class Workers:
    """The processes that train together: one, or as many as `torchrun` started."""

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")

    @classmethod
    def join(cls) -> Workers:
        """Meet the others that `torchrun` started, if it did; each takes the GPU of its number where there are GPUs."""
        rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        device = torch.device("cpu")
        if torch.cuda.is_available():
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(device)
            torch.set_float32_matmul_precision("high")  # TF32 in what is not in bfloat16
        if count > 1:
            torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(rank, count, device)

    def shared(self, objective: Objective) -> nn.Module:
        """The objective, its gradients averaged over all workers."""
        if self.count == 1:
            return objective
        return DistributedDataParallel(objective, [self.device] if self.device.type == "cuda" else None)

    def wait(self) -> None:
        """For the others. What the first does and they use afterwards, it does before this, and they behind it."""
        if self.count > 1:
            torch.distributed.barrier()

    def leave(self) -> None:
        if self.count > 1:
            torch.distributed.destroy_process_group()


def keep_memory() -> None:
    """Let the C library keep what is freed: by default it returns large blocks to the kernel, and faulting them in
    again for each activation takes a third to a half of a step on the CPU."""
    if sys.platform == "linux":
        allocator = ctypes.CDLL(None)
        if hasattr(allocator, "mallopt"):  # glibc's
            trim_threshold, mmap_max = -1, -4
            allocator.mallopt(mmap_max, 0)
            allocator.mallopt(trim_threshold, 2**31 - 1)


def set_motion_units(network: TimarNetwork, conversations: list[Conversation]) -> None:
    """Normalise each channel by its mean and standard deviation, and find how well its past predicts it (linear
    regression over 1, 2, ... frames) but for the mouth's; a floor keeps channels that hardly move from being noise.

    The course of a nod is the mean of all, from the frame before each.
    """
    motion = np.concatenate([conversation.motion.reshape(-1, len(CHANNELS)) for conversation in conversations])
    network.motion_mean.copy_(torch.from_numpy(motion.mean(axis=0)))
    network.motion_scale.copy_(torch.from_numpy(motion.std(axis=0).clip(0.02)))
    network.own_shown.copy_(torch.from_numpy(~MOUTH))
    mean, scale = network.motion_mean.numpy(), network.motion_scale.numpy()
    tracks = [(track - mean) / scale for conversation in conversations for track in conversation.motion]
    for lag in range(1, len(network.motion_step)):
        together = np.mean([np.mean(track[lag:] * track[:-lag], axis=0) for track in tracks], axis=0)
        alone = np.mean([np.mean(track[:-lag] ** 2, axis=0) for track in tracks], axis=0)
        kept = np.where(MOUTH, 0.0, (together / alone.clip(1e-6)).clip(0.0, 1.0))
        square = np.mean([np.mean((track[lag:] - kept * track[:-lag]) ** 2, axis=0) for track in tracks], axis=0)
        network.motion_kept[lag] = torch.from_numpy(kept)
        network.motion_step[lag] = torch.from_numpy(np.sqrt(square).clip(0.05))
    places = [place for conversation in conversations for place in conversation.nod_place]
    courses = [
        track[before + 1 : before + 1 + NOD_FRAMES] - track[before]
        for track, place in zip(tracks, places, strict=True)
        for before in np.flatnonzero(place[NOD_FRAMES:] == NOD_FRAMES)
    ]
    network.nod_course[1:] = torch.from_numpy(np.where(MOUTH, 0.0, np.mean(courses, axis=0) if courses else 0.0))


def find_ways_back(network: TimarNetwork, conversations: list[Conversation]) -> Tensor:
    """[2, lags, 55] how a deviation goes on after so many frames: shares of it and of its last change, by regression.

    Both are 0 for the mouth, whose past is not shown.
    """
    mean, scale = network.motion_mean.cpu().numpy(), network.motion_scale.cpu().numpy()
    tracks = [(track - mean) / scale for conversation in conversations[:WAYS_BACK_OF] for track in conversation.motion]
    ways = np.zeros((2, len(network.motion_step), len(CHANNELS)), np.float32)
    for lag in range(1, ways.shape[1]):
        value, change, later = (
            np.concatenate(parts)
            for parts in zip(*((t[1:-lag], np.diff(t[:-lag], axis=0), t[1 + lag :]) for t in tracks), strict=True)
        )
        vv, vc, cc = (value * value).mean(0), (value * change).mean(0), (change * change).mean(0)
        vl, cl, det = (value * later).mean(0), (change * later).mean(0), vv * cc - vc * vc
        solved = np.stack([cc * vl - vc * cl, vv * cl - vc * vl]) / np.maximum(det, 1e-9)
        ways[:, lag] = np.where(MOUTH | (det < 1e-6), 0.0, solved.clip(-1.0, [[1.0], [25.0]]))
    return torch.from_numpy(ways)


class Run:
    """A training run in a folder: checkpoint.pt to go on from, metrics.csv, and the policy of the EMA weights."""

    def __init__(
        self,
        folder: Path,
        config: NetworkConfig,
        recipe: Recipe,
        conversations: list[Conversation],
        workers: Workers | None = None,
        start: Policy | None = None,
    ) -> None:
        self.folder = folder
        self.recipe = recipe
        self.workers = workers or Workers()
        self.started = start is not None
        self.sampling = start.sampling if start else asdict(SAMPLING)
        torch.manual_seed(recipe.seed)
        self.network = TimarNetwork(config)
        self.network.diffusion.zero_gates()
        if start is not None:
            self.network.load_state_dict(start.network.state_dict())  # units and shown channels are set below
        self.network.speech_encoder.requires_grad_(False)
        set_motion_units(self.network, conversations)
        self.objective = Objective(self.network, recipe, conversations).to(self.workers.device)
        self.averaged = torch.optim.swa_utils.AveragedModel(
            self.network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.ema)
        )
        learning = [p for p in self.objective.parameters() if p.requires_grad]
        decayed = [p for p in learning if p.ndim > 1]
        others = [p for p in learning if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": recipe.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
            betas=(0.9, 0.95),
            fused=self.workers.device.type == "cuda",
        )
        self.step = 0

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def resume(self) -> None:
        """Go on from the folder's checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        if state["config"] != self.network.config.to_dict() or state["recipe"] != asdict(self.recipe):
            raise TimarError(f"{self.checkpoint} was made with other settings; give the same ones or another --out")
        for name in ("objective", "averaged", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]

    def save(self) -> None:
        """Write what to go on from, and the policy; the first worker does."""
        if self.workers.rank:
            return
        state = {name: getattr(self, name).state_dict() for name in ("objective", "averaged", "optimizer")}
        state |= {
            "step": self.step,
            "config": self.network.config.to_dict(),
            "recipe": asdict(self.recipe),
        }
        part = self.checkpoint.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.checkpoint)
        save_policy(self.folder / "policy", self.averaged.module, CHANNELS, self.sampling)

    def look(self, held_out: list[Conversation] | None, conversations: list[Conversation]) -> None:
        """Measure the averaged weights on conversations that are not learned from, and write a video of the first."""
        network = self.averaged.module.eval()
        if held_out:
            rng = np.random.default_rng(LOOK_SEED)
            recipe, longest = self.recipe, network.config.max_turn_frames
            windows = [
                draw_window(rng, held_out, recipe.short_window_frames, recipe.short_open_groups, longest)
                for _ in range(LOOK_WINDOWS)
            ]
            objective = Objective(network, recipe, held_out).to(self.workers.device)
            objective.lips = self.objective.lips
            with torch.no_grad():
                loss, parts = objective(Windows.stack(windows, LOOK_SEED).to(self.workers.device))
            with (self.folder / "held_out.csv").open("a", newline="", encoding="utf-8") as log:
                csv.writer(log).writerow([self.step, f"{loss:.5f}", *(f"{value:.5f}" for value in parts.values())])
        samples = self.folder / "samples"
        samples.mkdir(exist_ok=True)
        policy = Policy("training", copy.deepcopy(network).cpu(), CHANNELS, self.sampling)
        write_sample_video(policy, (held_out or conversations)[0], samples / f"step_{self.step:06d}.mp4")

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine down to a twentieth."""
        recipe = self.recipe
        if self.step < recipe.warmup_steps:
            return recipe.learning_rate * (self.step + 1) / recipe.warmup_steps
        progress = (self.step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
        return recipe.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))

    def train(
        self,
        conversations: list[Conversation],
        until: int | None = None,
        held_out: list[Conversation] | None = None,
        look_every: int = 500,
        save_every_s: float = 300.0,
    ) -> None:
        """Train to the recipe's last step, or to step `until`; Ctrl-C saves and stops.

        Every `look_every` steps the first worker measures the averaged weights' loss on `held_out` (held_out.csv) and
        writes a video of its first conversation (samples/); without `held_out`, a video of the first learned from.
        """
        recipe, first, saved = self.recipe, self.workers.rank == 0, time.monotonic()
        objective = self.workers.shared(self.objective)
        log = (self.folder / "metrics.csv" if first else Path(os.devnull)).open("a", newline="", encoding="utf-8")
        progress = tqdm(total=recipe.steps, initial=self.step, unit="step", mininterval=5.0, disable=not first)
        last_step = recipe.steps if until is None else min(until, recipe.steps)
        try:
            while self.step < last_step:
                pause = self._next_wandering(last_step)
                dataset = Batches(self._wandered(conversations), recipe, self.network.config, self.workers.rank)
                for windows in batches(dataset, self.step, pause, self.workers.device):
                    for group in self.optimizer.param_groups:
                        group["lr"] = self.learning_rate()
                    loss, parts = objective(windows)
                    self.optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(self.objective.parameters(), 1.0)
                    self.optimizer.step()
                    self.averaged.update_parameters(self.network)
                    self.step += 1
                    values = torch.stack([loss.detach(), *parts.values()]).tolist()
                    csv.writer(log).writerow([self.step, *(f"{value:.5f}" for value in values)])
                    progress.update()
                    progress.set_postfix(dict(zip(("loss", *parts), (f"{value:.3f}" for value in values), strict=True)))
                    if time.monotonic() - saved > save_every_s:
                        log.flush()
                        self.save()
                        saved = time.monotonic()
                    if first and look_every and self.step % look_every == 0:
                        self.look(held_out, conversations)
        finally:
            log.close()
            self.save()

    def _next_wandering(self, last_step: int) -> int:
        every = self.recipe.wander_every
        return min(last_step, (self.step // every + 1) * every) if self.recipe.wandering and every else last_step

    def _wandered(self, conversations: list[Conversation]) -> list[Conversation]:
        """The conversations, in the first of them what the policy drew when it last wandered.

        The first worker lets the averaged weights wander, at every `wander_every` steps and at the beginning where it
        is another policy's; what they drew is kept in the folder, for the other workers and for a run that is resumed.
        """
        recipe = self.recipe
        step = self.step // recipe.wander_every * recipe.wander_every if recipe.wander_every else 0
        if not recipe.wandering or (step == 0 and not self.started):
            return conversations
        first, kept = conversations[: recipe.wandering_conversations], self.folder / f"wandered_{step:06d}.npz"
        if self.workers.rank == 0 and not kept.exists():
            network = copy.deepcopy(self.averaged.module).cpu().eval()
            drawn = wander_through(Policy("training", network, CHANNELS, self.sampling), first, recipe.seed + step)
            part = kept.with_suffix(".part")
            with part.open("wb") as file:
                np.savez(file, *drawn)
            part.replace(kept)
        self.workers.wait()
        with np.load(kept) as arrays:
            drawn = [arrays[f"arr_{k}"] for k in range(len(first))]
        return [replace(c, drawn=motion) for c, motion in zip(first, drawn, strict=True)] + conversations[len(first) :]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, type=Path, help="folder of conversations in DualTalk's layout")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        help="folder of the run; an unfinished run there is resumed",
    )
    parser.add_argument(
        "--start", metavar="POLICY", help="begin with this policy's weights, size and sampling, not with random weights"
    )
    parser.add_argument(
        "--held-out", type=Path, metavar="DIR", help="conversations to measure by and not to learn from"
    )
    parser.add_argument(
        "--look-every", type=int, default=500, help="steps from one measurement and sample video to the next; 0: none"
    )
    parser.add_argument(
        "--expression", type=Path, metavar="CSV", help="what FLAME's expressions are as blendshapes (motion/flame.py)"
    )
    parser.add_argument(
        "--until", type=int, help="stop after this step; the same command without it goes on from there"
    )
    for name, default in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    sizes = NetworkConfig()
    for name in ("width", "blocks", "heads"):
        parser.add_argument(f"--{name}", type=int, default=getattr(sizes, name), help="size of the backbone")


def run(args: argparse.Namespace) -> int:
    recipe = Recipe(**{name: getattr(args, name) for name in asdict(Recipe())})
    if recipe.wandering and not args.start and not recipe.wander_every:
        raise TimarError("--wandering needs a policy that wanders; give it as --start, or give --wander-every")
    start = load_policy(args.start) if args.start else None
    if start is not None and start.channels != CHANNELS:
        raise TimarError(f"--start: policy {start.name} is no network of this kind; give one that `timar train` made")
    config = start.network.config if start else NetworkConfig(width=args.width, blocks=args.blocks, heads=args.heads)
    args.out.mkdir(parents=True, exist_ok=True)
    expression = ExpressionMap.load(args.expression) if args.expression else None
    keep_memory()
    workers = Workers.join()
    try:
        if workers.rank:
            workers.wait()  # the first finds the turns and keeps them beside the data
        conversations = load_conversations(args.data, expression)
        held_out = load_conversations(args.held_out, expression) if args.held_out else None
        if not workers.rank:
            workers.wait()
        training = Run(args.out, config, recipe, conversations, workers, start)
        if start is None:
            if workers.rank:
                workers.wait()
            teach(training.network.speech_encoder, conversations, recipe, args.out / "speech_encoder.pt")
            if not workers.rank:
                workers.wait()
            training.averaged.module.speech_encoder.load_state_dict(training.network.speech_encoder.state_dict())
        training.resume()
        training.train(conversations, args.until, held_out, args.look_every)
        if recipe.settle_conversations and training.step == recipe.steps and not workers.rank:
            policy = load_policy(f"{args.out / 'policy'}/")
            moved, wider = settle(policy, conversations[: recipe.settle_conversations], recipe.seed)
            save_policy(policy.folder, policy.network, policy.channels, policy.sampling)
            print("the head was moved by roll {:.2f}, pitch {:.2f}, yaw {:.2f} degrees,".format(*np.degrees(moved)))
            print("and its movement about there multiplied by {:.2f}, {:.2f} and {:.2f}".format(*wider))
    finally:
        workers.leave()
    if workers.rank == 0:
        print(f"the policy is in {args.out / 'policy'}; copy the folder to models/NAME to use it")
    return 0
