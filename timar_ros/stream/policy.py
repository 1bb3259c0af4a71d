"""The policy, hop by hop: closed turns are encoded once and kept, the open turn is encoded again at each hop.

    frames ─ features ─ tokens ─ turns of the pass ─ backbone ─┬─ z of new frames ─ diffusion head ─ motion of the hop
              (kept)   (kept)    (closing, then open)          └─ keys and values of closing turns ─ ring

One pass does both: a closing turn's tokens see the turns before it and itself, with the motion as sent; the open
turn's tokens see that turn too. The ring holds the last `window_frames` frames before the open turn's start, so the
work of a hop does not grow with the conversation. Positions are relative (model/network.py), so what is in the ring
stays exact for ever. Shapes are few and fixed, so that on CUDA each is a graph.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from timar_ros.channels import CHANNELS, HEAD_CHANNELS
from timar_ros.errors import TimarError
from timar_ros.model import diffusion
from timar_ros.model.checkpoint import Policy
from timar_ros.model.features import (
    FRAMES_BEFORE,
    OVERLAP_SAMPLES,
    beside_means,
    frame_spectra,
    over_noise,
)
from timar_ros.model.network import (
    NOD_FRAMES,
    OWN_MOTION,
    OWN_SPEECH,
    TOKENS_PER_FRAME,
    FrameInputs,
    TimarNetwork,
)
from timar_ros.model.speech_encoder import SpeechEncoder
from timar_ros.rates import FRAME_RATE, FRAME_SAMPLES
from timar_ros.stream.device import OnDevice, Packing, StepRunner, check_follows, choose_device
from timar_ros.stream.frames import Frame
from timar_ros.stream.noise import FrameNoise
from timar_ros.stream.sampling import POSTURE_S, Sampling
from timar_ros.stream.turn_memory import Turn, TurnMemory
from timar_ros.stream.turns import TurnBoundary

# On CUDA a usual pass is padded to a multiple of so many frames, so that few graphs do; the CPU computes no padding.
CUDA_FRAMES_STEP = 5
_PADDING = 2.0**30

# An own voice that is not heard for longer is silent, not missing: many synthesisers send nothing between sentences.
SILENT_AFTER_FRAMES = 12


class PassShape(NamedTuple):
    """What decides the work of a pass.

    Attributes:
        frames: in it, with padding.
        draws: frames drawn in it.
        closes: whether turns close in it.
        masked: whether some of its tokens must not see others, or places of the ring.
    """

    frames: int
    draws: int
    closes: bool
    masked: bool


class Hop(NamedTuple):
    """Frames that follow on the stream's last, and the turn boundaries that became known in them."""

    frames: Sequence[Frame]
    boundaries: Sequence[TurnBoundary]


class _Stream:
    """One conversation's open turn, and what is told of it to the network."""

    def __init__(self, noise: FrameNoise, speech_encoder: SpeechEncoder) -> None:
        self.noise = noise
        self._speech_encoder = speech_encoder
        self.reset()

    def reset(self) -> None:
        self.open: Turn | None = None
        self.own_missing = SILENT_AFTER_FRAMES  # frames since the own voice was heard
        self.next_frame: int | None = None
        self.heard_from: int | None = None  # the hop's first frame
        self.heard: dict[str, np.ndarray] = {}  # of the hop's frames, see `FrameInputs`
        self.last_motion: np.ndarray | None = None  # the newest drawn frames, at most two, normalised units
        self.posture: np.ndarray | float = 0.0  # see stream/sampling.py, normalised units
        self.nod_ahead = -np.inf  # how surely a nod is about to begin, as a logit
        self.nod_start: int | None = None  # first frame of the newest nod
        self._samples = torch.zeros(2, OVERLAP_SAMPLES)
        silence = frame_spectra(torch.zeros(2, OVERLAP_SAMPLES + FRAMES_BEFORE * FRAME_SAMPLES))
        self._means = silence.mean(dim=-2)
        self._kept: list[Tensor] | None = None  # of the speech encoder

    def hear(self, voices: np.ndarray) -> np.ndarray:
        """Both voices' next frames [2, 640 frames] -> [2, frames, heard_width] of the speech encoder."""
        samples = torch.cat([self._samples, torch.from_numpy(voices)], dim=1)
        spectra = frame_spectra(samples)
        means = torch.cat([self._means, spectra.mean(dim=-2)], dim=1)
        self._samples, self._means = samples[:, -OVERLAP_SAMPLES:], means[:, -FRAMES_BEFORE:]
        heard, self._kept = self._speech_encoder(beside_means(spectra, means[:, :-1]), self._kept)
        return heard.numpy()

    def heard_parties(self, frames: Sequence[Frame]) -> np.ndarray:
        """[2, frames] bool: whether the own voice counts as heard, and whether the partner's does."""
        heard = np.array([[frame.own_heard for frame in frames], [frame.partner_heard for frame in frames]])
        for i, own in enumerate(heard[0].tolist()):
            self.own_missing = 0 if own else self.own_missing + 1
            heard[0, i] = own or self.own_missing > SILENT_AFTER_FRAMES
        return heard

    def remember(self, motion: np.ndarray) -> None:
        known = motion if self.last_motion is None else np.concatenate([self.last_motion, motion])
        self.last_motion = known[-2:]
        for frame in motion:
            self.posture += (frame - self.posture) / (POSTURE_S * FRAME_RATE)

    def nod_place(self, frames: np.ndarray) -> np.ndarray:
        """Places of frames [n] in the newest nod, 0 after it."""
        place = np.zeros(len(frames), np.int64) if self.nod_start is None else frames - self.nod_start + 1
        return np.where(place <= NOD_FRAMES, place, 0)

    def decide_nod(self, threshold: float) -> None:
        """Begin a nod with the next frame if one is likelier than `threshold` and none is under way."""
        likely = 1.0 / (1.0 + np.exp(-self.nod_ahead)) > threshold
        if likely and not self.nod_place(np.array([self.next_frame])).any():
            self.nod_start = self.next_frame

    def basis(self, step: np.ndarray) -> np.ndarray:
        """What the next frames start from [2 dim], see model/network.py; `step` [dim] is motion_step[1]."""
        newest = self.last_motion[-1]
        return np.concatenate([newest, (newest - self.last_motion[0]) / step])


class PolicyBatch(OnDevice):
    """Several heads on one network: each stream has its own conversation, turns and noise.

    Args:
        policy: from `load_policy`. Its network is brought to the device and precision in place.
        seeds: one for each stream; equal seeds and equal inputs give equal motion.
        device: "auto", "cuda" or "cpu".
        sampling: how motion is drawn; the policy folder's settings when None.
        precision: see model/precision.py.
        hop_frames: the usual number of frames in a hop; on CUDA longer ones are all padded to the longest.
        lookahead_frames: by how many frames the own voice that `step` is given runs ahead of everything else.
    """

    def __init__(
        self,
        policy: Policy,
        seeds: Sequence[int],
        device: str = "auto",
        sampling: Sampling | None = None,
        precision: str = "auto",
        hop_frames: int = 2,
        lookahead_frames: int = 0,
    ) -> None:
        if policy.channels != CHANNELS:
            raise TimarError(
                f"policy {policy.name} has {len(policy.channels)} channels that are not head rotation and ARKit-52; "
                "such a policy cannot drive this head"
            )
        most = policy.network.config.max_lookahead_frames
        if not 0 <= lookahead_frames <= most:
            raise TimarError(
                f"the own voice runs ahead by {lookahead_frames} frames; policy {policy.name} knows 0 to {most}"
            )
        self.sampling = sampling or Sampling.from_policy(policy)
        self._lookahead_frames = lookahead_frames
        self._network: TimarNetwork = policy.network
        self._config = policy.network.config
        self._hop_frames = hop_frames
        correlation = self.sampling.correlations()
        # Two frames of two voices are heard faster on the CPU than they are brought to another device.
        ears = copy.deepcopy(policy.network.speech_encoder).cpu()
        self._streams = [_Stream(FrameNoise(seed, self._config.sampling_steps, correlation), ears) for seed in seeds]
        self._mean, self._scale = self._network.motion_mean.cpu().numpy(), self._network.motion_scale.cpu().numpy()
        self._partner_mean = self._network.partner_mean.cpu().numpy()
        self._partner_scale = self._network.partner_scale.cpu().numpy()
        self._step = self._network.motion_step[1].cpu().numpy()
        self._packings: dict[PassShape, Packing] = {}
        self._memory: TurnMemory | None = None
        super().__init__(policy.network, choose_device(device), precision)
        self.reset()

    def reset(self, stream: int | None = None) -> None:
        """Forget one conversation, or all; the next frame begins one with its own number."""
        for i in range(len(self._streams)) if stream is None else [stream]:
            self._streams[i].reset()
            self._memory.forget(i)

    @property
    def nod_starts(self) -> list[int | None]:
        """First frame of each stream's newest nod, or None."""
        return [stream.nod_start for stream in self._streams]

    @torch.inference_mode()
    def step(self, hops: Sequence[Hop | None]) -> list[np.ndarray | None]:
        """Hear a hop of each stream and draw its motion; None for a stream that waits.

        Args:
            hops: boundaries lie in the stream's open turn or in the hop, in order. Motion already sent stays as it
                is. A hop has at most as many frames as a turn can have.

        Returns:
            [frames, 55] float32 for each hop: roll, pitch, yaw in rad and 52 blendshape weights in [0, 1].
        """
        turns = [[] if hop is None else self._hear(stream, hop) for stream, hop in enumerate(hops)]
        motion: list[list[np.ndarray]] = [[] for _ in hops]
        while any(turns):
            groups = [_up_to_new_motion(waiting) for waiting in turns]
            for stream, drawn in enumerate(self._pass(groups)):
                if groups[stream]:
                    motion[stream].append(drawn)
                    # The last turn of the group has its motion now and closes with the next group, if there is one.
                    rest = turns[stream][len(groups[stream]) :]
                    turns[stream] = [groups[stream][-1], *rest] if rest else []
        for stream, hop in enumerate(hops):
            if hop is not None:
                self._streams[stream].decide_nod(self.sampling.nod_threshold)
        return [np.concatenate(parts) if parts else None for parts in motion]

    def _hear(self, stream: int, hop: Hop) -> list[Turn]:
        """Add a hop's frames to a stream's open turn, and cut it: closing turns, then the new open one."""
        state, frames = self._streams[stream], hop.frames
        longest = self._config.max_turn_frames
        if state.open is None:
            state.open = Turn(frames[0].index)
            state.next_frame = frames[0].index
        check_follows([frame.index for frame in frames], state.next_frame)
        if len(frames) > longest:
            raise ValueError(f"a hop of {len(frames)} frames; at most {longest} are possible")
        state.heard_from, state.heard = state.next_frame, self._heard(state, frames)
        state.open.frames += len(frames)
        state.next_frame += len(frames)
        turns = []
        for boundary in hop.boundaries:
            if boundary.frame > state.open.first_frame:
                closing, state.open = state.open.split(boundary.frame)
                turns.append(closing)
        turns.append(state.open)
        if too_long := [turn.frames for turn in turns if turn.frames > longest]:
            raise ValueError(f"a turn of {too_long[0]} frames; this policy knows turns of at most {longest}")
        return turns

    def _heard(self, state: _Stream, frames: Sequence[Frame]) -> dict[str, np.ndarray]:
        voices = np.stack([np.concatenate([getattr(f, party) for f in frames]) for party in ("own", "partner")])
        heard = state.heard_parties(frames)
        own_speech, partner_speech = state.hear(over_noise(voices, heard, frames[0].index))
        seen = np.array([frame.partner_motion is not None for frame in frames])
        partner_motion = np.zeros((len(frames), self._config.motion_dim), np.float32)
        for i in np.flatnonzero(seen):
            # What a tracker does not tell of a seen face stands at its mean.
            told = (frames[i].partner_motion - self._partner_mean) / self._partner_scale
            partner_motion[i] = np.nan_to_num(told, nan=0.0)
        return {
            "own_speech": own_speech,
            "partner_speech": partner_speech,
            "own_heard": heard[0],
            "partner_heard": heard[1],
            "partner_motion": partner_motion,
            "partner_seen": seen,
            "nod_place": state.nod_place(np.array([frame.index for frame in frames])),
        }

    # One pass over all streams

    def _pass(self, groups: list[list[Turn]]) -> list[np.ndarray]:
        """Draw the new motion of each group's last turn and keep the turns before it as closed."""
        shape = self._shape(groups)
        packed = self._packed(shape, groups)
        drawn = self._or_on_cpu(lambda: self._runner(shape, packed))
        motion = []
        for stream, group in enumerate(groups):
            if not group:
                motion.append(None)
                continue
            new = group[-1].frames - group[-1].drawn
            motion.append(drawn[stream, :new, :-1])
            group[-1].drawn = group[-1].frames
            self._streams[stream].nod_ahead = drawn[stream, new - 1, -1]
            self._streams[stream].remember((motion[-1] - self._mean) / self._scale)
            for turn in group[:-1]:
                self._memory.frames[stream, turn.numbers % self._memory.ring] = turn.numbers
        return motion

    def _shape(self, groups: list[list[Turn]]) -> PassShape:
        frames = max(sum(turn.frames for turn in group) for group in groups)
        draws = max(group[-1].frames - group[-1].drawn if group else 0 for group in groups)
        closes = any(len(group) > 1 for group in groups)
        if self._by_graphs:
            return self._padded(frames, draws, closes)
        return PassShape(frames, draws, closes, self._must_mask(groups, frames))

    def _padded(self, frames: int, draws: int, closes: bool) -> PassShape:
        """The least shape with a graph that such a pass fits in."""
        longest, hop = self._config.max_turn_frames, self._hop_frames
        if draws > hop or frames > longest + hop:  # hops that were late and are made up for together
            return PassShape(2 * longest, longest, closes=True, masked=True)
        frames = min(-(-frames // CUDA_FRAMES_STEP) * CUDA_FRAMES_STEP, 2 * longest)
        return PassShape(frames, hop, closes, masked=True)

    def _graphs(self) -> set[PassShape]:
        """Every shape that `_padded` gives: a pass has at most the open turn, of the longest, and the hop."""
        longest, hop = self._config.max_turn_frames, self._hop_frames
        usual = {
            self._padded(frames, hop, closes) for frames in range(1, longest + hop + 1) for closes in (False, True)
        }
        return usual | {self._padded(2 * longest, longest, closes=True)}

    def _must_mask(self, groups: list[list[Turn]], frames: int) -> bool:
        """Whether a mask would hide anything."""
        if any(len(group) != 1 or group[0].frames != frames for group in groups):
            return True
        first = np.array([[turn.first_frame] for (turn,) in groups])
        return bool((self._memory.frames < first - self._config.window_frames).any())

    def _packing(self, shape: PassShape) -> Packing:
        if shape not in self._packings:
            streams, frames, draws, dim = len(self._streams), shape.frames, shape.draws, self._config.motion_dim
            head_width = self._config.width // self._config.heads
            self._packings[shape] = Packing(
                # Of the frames to draw:
                own_speech=(streams, draws, self._network.heard_width),
                partner_speech=(streams, draws, self._network.heard_width),
                partner_motion=(streams, draws, dim),
                own_heard=(streams, draws),
                partner_heard=(streams, draws),
                basis=(streams, draws, 2 * dim),
                posture=(streams, 1, dim),
                lag=(streams, draws),
                partner_seen=(streams, draws),
                nod_place=(streams, draws),
                new_place=(streams, draws),  # among the memory's tokens
                draw=(streams, draws),  # in the pass
                noise=(self._config.sampling_steps, streams, draws, dim),
                # Of all frames of the pass:
                token_place=(streams, frames),
                turn_place=(streams, frames),
                turn_start=(streams, frames),  # counted from the stream's first frame in the pass; padding: never
                rotation=(streams, frames, 2, head_width),
                ring_place=(streams, frames),
                ring_frame=(streams, self._memory.ring),  # counted likewise
            )
        return self._packings[shape]

    def _packed(self, shape: PassShape, groups: list[list[Turn]]) -> np.ndarray:
        streams, frames = len(groups), shape.frames
        packing = self._packing(shape)
        packed = np.zeros(packing.size, np.float32)
        arrays = packing.unpack(packed)
        arrays["turn_start"][:] = _PADDING
        arrays["ring_place"][:] = self._memory.nowhere
        arrays["new_place"][:] = arrays["token_place"][:] = self._memory.tail
        numbers = np.zeros((streams, frames))
        for stream, group in enumerate(groups):
            if not group:
                continue
            first = group[0].first_frame
            numbers[stream] = first + np.arange(frames)
            arrays["ring_frame"][stream] = np.maximum(self._memory.frames[stream] - first, -_PADDING)
            at = 0
            for turn in group:
                place = slice(at, at + turn.frames)
                arrays["token_place"][stream, place] = turn.numbers % self._memory.tail
                arrays["turn_place"][stream, place] = np.arange(turn.frames)
                arrays["turn_start"][stream, place] = at
                if turn is not group[-1]:
                    arrays["ring_place"][stream, place] = turn.numbers % self._memory.ring
                at += turn.frames
            state, new = self._streams[stream], group[-1].numbers[group[-1].drawn :]
            for name, values in state.heard.items():
                arrays[name][stream, : len(new)] = values[new - state.heard_from]
            arrays["new_place"][stream, : len(new)] = new % self._memory.tail
            arrays["draw"][stream, : len(new)] = new - first
            if state.last_motion is not None:
                arrays["basis"][stream, : len(new)] = state.basis(self._step)
                arrays["posture"][stream] = state.posture
                arrays["lag"][stream, : len(new)] = 1 + np.arange(len(new))
            for i, number in enumerate(new.tolist()):
                arrays["noise"][:, stream, i] = state.noise.at(number)
        arrays["rotation"][:] = self._network.rotation(numbers)
        return packed

    def _advance(self, shape: PassShape, packed: Tensor) -> Tensor:
        """One pass on the device: [streams, draws, 55 + 1], motion of the frames to draw and whether a nod comes."""
        given = self._packing(shape).unpack(packed)
        row, lag, nod_place, new_place = (given[name].long() for name in ("draw", "lag", "nod_place", "new_place"))
        inputs = FrameInputs(
            own_speech=given["own_speech"],
            partner_speech=given["partner_speech"],
            own_heard=given["own_heard"].bool(),
            partner_heard=given["partner_heard"].bool(),
            own_motion=torch.zeros_like(given["partner_motion"]),
            own_given=torch.zeros_like(row, dtype=torch.bool),
            basis=given["basis"],
            lag=lag,
            partner_motion=given["partner_motion"],
            partner_seen=given["partner_seen"].bool(),
            turn_place=torch.zeros_like(row),  # `in_turn` tells it, for it changes where a turn is cut
            nod_place=nod_place,
            lookahead=torch.full_like(row, self._lookahead_frames),
        )
        new = self._network.frame_tokens(inputs)
        self._memory.put_tokens(new_place, new)
        tokens = self._memory.tokens_at(given["token_place"].long())
        mask = None
        if shape.masked:
            # A turn sees the turns of the pass up to itself, and what the ring holds of the window before its start.
            start = given["turn_start"]
            ring = given["ring_frame"][:, None] >= start[..., None] - self._config.window_frames
            inside = start[:, None] <= start[..., None]
            mask = torch.cat([ring, inside], dim=2)
            mask = mask.repeat_interleave(TOKENS_PER_FRAME, 1).repeat_interleave(TOKENS_PER_FRAME, 2)[:, None]
        z = self._network.run(
            self._network.in_turn(tokens, given["turn_place"].long()),
            given["rotation"],
            mask=mask,
            cache=self._memory.keys_values,
            at=self._memory.ring * TOKENS_PER_FRAME,
            rows=row * TOKENS_PER_FRAME + OWN_MOTION,
        )
        if shape.closes:
            self._memory.keep(given["ring_place"].long())
        drawn = diffusion.sample(
            self._network.diffusion,
            self._schedule,
            z.flatten(0, 1),
            given["noise"].flatten(1, 2),
            self._temperature,
            mean=self._undrawn,
            posterior=True,
            time=self._time,
        )
        drawn = drawn.view(len(self._streams), shape.draws, -1)
        left = inputs.basis[..., : self._config.motion_dim] * self._returns[lag]
        left -= given["posture"] * self._posture_returns[lag]
        normalised = self._network.from_change(drawn, left, lag, nod_place) * self._gain
        jump = normalised[:, :1] - inputs.basis[:, :1, : self._config.motion_dim]
        motion = self._network.denormalise(normalised - jump * self._spread[lag])
        motion[..., len(HEAD_CHANNELS) :].clamp_(0.0, 1.0)
        new[:, :, OWN_MOTION] = self._network.given_motion_token(
            self._network.normalise(motion), new[:, :, OWN_SPEECH], nod_place
        )
        self._memory.put_tokens(new_place, new)
        return torch.cat([motion, self._network.nod_ahead(z)[..., None]], dim=2)

    # Where it runs

    def _make_memory(self) -> None:
        before, device = self._memory, self.device
        dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        self._memory = TurnMemory(self._network, len(self._streams), device, dtype)
        if before is not None:
            self._memory.copy_from(before)
        self._schedule = diffusion.make_schedule(self._config.sampling_steps)
        with torch.no_grad():
            self._time = self._network.diffusion.time_embed(self._schedule.original_step.to(device))
        self._temperature = torch.from_numpy(self.sampling.temperatures()).to(device)
        self._undrawn = self._temperature == 0.0
        self._gain = torch.from_numpy(self.sampling.gains()).to(device)
        lags = self._config.max_turn_frames + 1
        self._returns = torch.from_numpy(self.sampling.returns(lags)).to(device)
        self._posture_returns = torch.from_numpy(self.sampling.posture_returns(lags)).to(device)
        self._spread = torch.from_numpy(self.sampling.spreads(lags, self._lookahead_frames)).to(device)
        self._runner = StepRunner(self._advance, device)
        self._by_graphs = device.type == "cuda"
        if self._by_graphs:
            self._capture()

    @torch.inference_mode()
    def _capture(self) -> None:
        for shape in sorted(self._graphs()):
            self._runner.capture(shape, self._packing(shape).size)


class IncrementalPolicy:
    """One head's motion for each hop of frames: a `PolicyBatch` of one stream, whose arguments it takes.

    Construct, call `step` with hop after hop, `reset` for a new conversation.
    """

    def __init__(
        self,
        policy: Policy,
        device: str = "auto",
        seed: int = 0,
        sampling: Sampling | None = None,
        precision: str = "auto",
        hop_frames: int = 2,
        lookahead_frames: int = 0,
    ) -> None:
        self._batch = PolicyBatch(policy, [seed], device, sampling, precision, hop_frames, lookahead_frames)

    @property
    def device(self) -> torch.device:
        return self._batch.device

    @property
    def precision(self) -> str:
        return self._batch.precision

    @property
    def sampling(self) -> Sampling:
        return self._batch.sampling

    @property
    def fallback(self) -> str | None:
        return self._batch.fallback

    @property
    def nod_start(self) -> int | None:
        """First frame of the newest nod, or None."""
        return self._batch.nod_starts[0]

    @property
    def limitation(self) -> None:
        """Nothing: it moves the whole face."""
        return None

    def reset(self) -> None:
        """Forget the conversation; the next frame begins one with its own number."""
        self._batch.reset()

    def settle(self) -> None:
        """Nothing waits: turns close in the pass that draws."""

    def step(self, frames: Sequence[Frame], boundaries: Sequence[TurnBoundary]) -> np.ndarray:
        """Hear one hop and draw its motion [len(frames), 55]; see `PolicyBatch.step`."""
        return self._batch.step([Hop(frames, boundaries)])[0]


def _up_to_new_motion(turns: list[Turn]) -> list[Turn]:
    """The first turns, up to and with the first that lacks motion: what one pass can do."""
    for i, turn in enumerate(turns):
        if turn.drawn < turn.frames:
            return turns[: i + 1]
    return turns
