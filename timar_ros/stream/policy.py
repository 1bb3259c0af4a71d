"""The policy, hop by hop: closed turns are encoded once and kept, the open turn is encoded again at each hop.

    frames ─ features ─ open turn ─┬─ encode with new motion masked ─ z ─ diffusion head ─ motion of the hop
                                   └─ at a boundary: encode with the motion as sent ─ ring of keys and values

The ring holds the last `window_frames` frames before the open turn's start, so the work of a hop does not grow
with the conversation. Positions are relative (model/network.py), so what is in the ring stays exact for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from timar_ros.errors import TimarError
from timar_ros.model import diffusion
from timar_ros.model.checkpoint import Policy
from timar_ros.model.features import CONTEXT_SAMPLES, FEATURES_PER_FRAME, log_mel
from timar_ros.model.network import TOKENS_PER_FRAME, FrameInputs, TimarNetwork
from timar_ros.motion.channels import CHANNELS, HEAD_CHANNELS
from timar_ros.stream.frames import Frame
from timar_ros.stream.noise import FrameNoise
from timar_ros.stream.turns import TurnBoundary

# An open turn is padded to the next of these lengths, so that few shapes occur.
OPEN_TURN_SHAPES = (5, 10, 15, 20, 25)


@dataclass(frozen=True)
class Sampling:
    """How motion is drawn.

    Attributes:
        head_temperature, face_temperature: scale the noise of the diffusion steps; 0 draws each step's mean.
        head_correlation_frames, face_correlation_frames: how long noise stays alike, in frames of 40 ms
            (standard deviation of the smoothing kernel).
    """

    head_temperature: float = 1.0
    face_temperature: float = 1.0
    head_correlation_frames: float = 6.0
    face_correlation_frames: float = 3.0

    @classmethod
    def from_policy(cls, policy: Policy, temperature: float = 1.0) -> Sampling:
        """The policy folder's own settings, its temperatures times `temperature`."""
        try:
            own = cls(**{name: float(value) for name, value in policy.sampling.items()})
        except (TypeError, ValueError) as error:
            raise TimarError(f"policy {policy.name}: section 'sampling' of config.yaml is wrong: {error}") from error
        return replace(
            own,
            head_temperature=own.head_temperature * temperature,
            face_temperature=own.face_temperature * temperature,
        )


def choose_device(name: str) -> torch.device:
    """The torch device for `auto`, `cuda` or `cpu`.

    Raises:
        TimarError: another name, or cuda asked for where there is none.
    """
    if name not in ("auto", "cuda", "cpu"):
        raise TimarError(f"device is {name!r}; auto, cuda and cpu are allowed")
    if name == "cuda" and not torch.cuda.is_available():
        raise TimarError(
            "device is cuda, but torch finds no CUDA device; use device auto or cpu, or install torch for CUDA"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


class ClosedTurns:
    """A ring of keys and values of the last `window_frames` frames of closed turns."""

    def __init__(self, network: TimarNetwork, device: torch.device) -> None:
        config = network.config
        self._window = config.window_frames
        slots = self._window * TOKENS_PER_FRAME
        head_width = config.width // config.heads
        self.keys_values = torch.zeros(config.blocks, 2, 1, config.heads, slots, head_width, device=device)
        self.filled = torch.zeros(slots, dtype=torch.bool, device=device)

    def append(self, first_frame: int, frames: int, keys_values: list[tuple[Tensor, Tensor]]) -> None:
        """Keep the keys and values of a closed turn's frames in the place of the oldest ones.

        Args:
            keys_values: of each block, each [1, heads, 4 n, head_width] with n >= frames; what is beyond is padding.
        """
        frame = torch.arange(first_frame, first_frame + frames) % self._window
        slots = (frame[:, None] * TOKENS_PER_FRAME + torch.arange(TOKENS_PER_FRAME)).flatten().to(self.filled.device)
        for kept, fresh in zip(self.keys_values, keys_values, strict=True):
            for part, values in zip(kept, fresh, strict=True):
                part[:, :, slots] = values[:, :, : len(slots)]
        self.filled[slots] = True

    def clear(self) -> None:
        self.filled.zero_()


class OpenTurn:
    """The frames since the last boundary: what was heard, and the motion sent so far (normalised units)."""

    def __init__(self, first_frame: int, motion_dim: int) -> None:
        self.first_frame = first_frame
        self.own_speech = np.zeros((0, FEATURES_PER_FRAME), np.float32)
        self.partner_speech = np.zeros((0, FEATURES_PER_FRAME), np.float32)
        self.own_heard = np.zeros(0, bool)
        self.partner_heard = np.zeros(0, bool)
        self.partner_motion = np.zeros((0, motion_dim), np.float32)
        self.partner_seen = np.zeros(0, bool)
        self.own_motion = np.zeros((0, motion_dim), np.float32)

    _HEARD = (
        "own_speech",
        "partner_speech",
        "own_heard",
        "partner_heard",
        "partner_motion",
        "partner_seen",
    )

    def __len__(self) -> int:
        return len(self.own_heard)

    @property
    def drawn(self) -> int:
        """How many of its frames have motion."""
        return len(self.own_motion)

    def extend(self, **heard: np.ndarray) -> None:
        for name in self._HEARD:
            setattr(self, name, np.concatenate([getattr(self, name), heard[name]]))

    def add_motion(self, motion: np.ndarray) -> None:
        self.own_motion = np.concatenate([self.own_motion, motion])

    def split(self, frame: int) -> tuple[OpenTurn, OpenTurn]:
        """The frames before `frame`, and those from it on as a turn of their own."""
        at = frame - self.first_frame
        before = OpenTurn(self.first_frame, self.own_motion.shape[1])
        after = OpenTurn(frame, self.own_motion.shape[1])
        for name in (*self._HEARD, "own_motion"):
            setattr(before, name, getattr(self, name)[:at])
            setattr(after, name, getattr(self, name)[at:])
        return before, after

    def inputs(self, frames: int, padded: int, device: torch.device) -> FrameInputs:
        """The first `frames` frames as the network's inputs, padded at the end."""

        def tensor(values: np.ndarray) -> Tensor:
            whole = np.zeros((1, padded, *values.shape[1:]), values.dtype)
            count = min(frames, len(values))
            whole[0, :count] = values[:count]
            return torch.from_numpy(whole).to(device)

        place = torch.arange(padded, device=device)[None]
        return FrameInputs(
            own_speech=tensor(self.own_speech),
            partner_speech=tensor(self.partner_speech),
            own_heard=tensor(self.own_heard),
            partner_heard=tensor(self.partner_heard),
            own_motion=tensor(self.own_motion),
            own_given=place < min(frames, self.drawn),
            partner_motion=tensor(self.partner_motion),
            partner_seen=tensor(self.partner_seen),
            turn_place=place,
            frame=self.first_frame + place,
        )


class IncrementalPolicy:
    """Motion for each hop of frames. Construct, call `step` with hop after hop, `reset` for a new conversation.

    Args:
        policy: from `load_policy`.
        device: "auto", "cuda" or "cpu".
        seed: equal seeds and equal inputs give equal motion.
        sampling: how motion is drawn; the policy folder's settings when None.
    """

    def __init__(self, policy: Policy, device: str = "auto", seed: int = 0, sampling: Sampling | None = None) -> None:
        if policy.channels != CHANNELS:
            raise TimarError(
                f"policy {policy.name} has {len(policy.channels)} channels that are not head rotation and ARKit-52; "
                "such a policy cannot drive this head"
            )
        self.device = choose_device(device)
        self.sampling = sampling or Sampling.from_policy(policy)
        self._network = policy.network.to(self.device)
        self._config = policy.network.config
        self._schedule = diffusion.make_schedule(self._config.sampling_steps)
        correlation = self._per_channel(self.sampling.head_correlation_frames, self.sampling.face_correlation_frames)
        temperature = self._per_channel(self.sampling.head_temperature, self.sampling.face_temperature)
        self._temperature = torch.from_numpy(temperature).to(self.device)
        self._noise = FrameNoise(seed, self._config.sampling_steps, correlation)
        self._closed = ClosedTurns(self._network, self.device)
        self.reset()

    @staticmethod
    def _per_channel(head: float, face: float) -> np.ndarray:
        return np.where(np.arange(len(CHANNELS)) < len(HEAD_CHANNELS), head, face).astype(np.float32)

    def reset(self) -> None:
        """Forget the conversation; the next frame begins one with its own number."""
        self._closed.clear()
        self._settled: tuple[int, int, list[tuple[Tensor, Tensor]]] | None = None
        self._open: OpenTurn | None = None
        self._next_frame: int | None = None
        self._context = np.zeros((2, CONTEXT_SAMPLES), np.float32)

    @torch.inference_mode()
    def step(self, frames: Sequence[Frame], boundaries: Sequence[TurnBoundary]) -> np.ndarray:
        """Hear one hop and draw its motion.

        Args:
            frames: the hop's frames, numbered on from the last hop's.
            boundaries: turn boundaries that became known in these frames, in order; each lies in the open turn
                or in the hop. Motion already sent stays as it is.

        Returns:
            [len(frames), 55] float32: roll, pitch, yaw in rad and 52 blendshape weights in [0, 1].
        """
        if self._open is None:
            self._open = OpenTurn(frames[0].index, self._config.motion_dim)
            self._next_frame = frames[0].index
        if [frame.index for frame in frames] != list(range(self._next_frame, self._next_frame + len(frames))):
            raise ValueError(
                f"frames {[frame.index for frame in frames]} do not follow on; expected {self._next_frame} next"
            )
        self._hear(frames)
        motion = []
        for boundary in boundaries:
            if boundary.frame <= self._open.first_frame:
                continue
            closing, opening = self._open.split(boundary.frame)
            motion.append(self._draw(closing))
            self._close(closing)
            self._open = opening
        motion.append(self._draw(self._open))
        self._next_frame += len(frames)
        return np.concatenate(motion)

    @torch.inference_mode()
    def settle(self) -> None:
        """Between hops: encode a full turn as closed already, since its end will most likely be told with the next hop.

        It changes no result, only when the work is done.
        """
        if self._open is not None and len(self._open) + 2 > self._config.max_turn_frames:
            keys_values = self._network.keys_values(*self._heard_in(self._open))
            self._settled = (self._open.first_frame, len(self._open), keys_values)

    def _hear(self, frames: Sequence[Frame]) -> None:
        voices = np.stack(
            [
                np.concatenate([frame.own for frame in frames]),
                np.concatenate([frame.partner for frame in frames]),
            ]
        )
        samples = np.concatenate([self._context, voices], axis=1)
        self._context = samples[:, -CONTEXT_SAMPLES:]
        own_speech, partner_speech = log_mel(torch.from_numpy(samples)).numpy()
        seen = np.array([frame.partner_motion is not None for frame in frames])
        partner_motion = np.zeros((len(frames), self._config.motion_dim), np.float32)
        for i in np.flatnonzero(seen):
            # What a tracker does not tell of a seen face stands at its mean.
            partner_motion[i] = np.nan_to_num(self._normalise(frames[i].partner_motion), nan=0.0)
        self._open.extend(
            own_speech=own_speech,
            partner_speech=partner_speech,
            own_heard=np.array([frame.own_heard for frame in frames]),
            partner_heard=np.array([frame.partner_heard for frame in frames]),
            partner_motion=partner_motion,
            partner_seen=seen,
        )

    def _draw(self, turn: OpenTurn) -> np.ndarray:
        """Draw the motion that the turn's last frames still lack."""
        new = range(turn.drawn, len(turn))
        if not new:
            return np.zeros((0, self._config.motion_dim), np.float32)
        z, _ = self._network.encode(*self._heard_in(turn))
        noise = np.stack([self._noise.at(turn.first_frame + place) for place in new], axis=1)
        drawn = diffusion.sample(
            self._network.diffusion,
            self._schedule,
            z[0, new.start : new.stop],
            torch.from_numpy(noise).to(self.device),
            self._temperature,
        )
        motion = self._network.denormalise(drawn).cpu().numpy()
        motion[:, len(HEAD_CHANNELS) :] = motion[:, len(HEAD_CHANNELS) :].clip(0.0, 1.0)
        turn.add_motion(self._normalise(motion))
        return motion

    def _close(self, turn: OpenTurn) -> None:
        if self._settled is not None and self._settled[:2] == (turn.first_frame, len(turn)):
            keys_values = self._settled[2]
        else:
            keys_values = self._network.keys_values(*self._heard_in(turn))
        self._closed.append(turn.first_frame, len(turn), keys_values)

    def _heard_in(self, turn: OpenTurn) -> tuple[FrameInputs, Tensor, Tensor]:
        """A turn as the network's inputs, who sees whom, and the closed turns before it."""
        if len(turn) > self._config.max_turn_frames:
            raise ValueError(
                f"a turn of {len(turn)} frames; this policy knows turns of at most {self._config.max_turn_frames}"
            )
        padded = min((n for n in OPEN_TURN_SHAPES if n >= len(turn)), default=self._config.max_turn_frames)
        inside = torch.arange(padded * TOKENS_PER_FRAME, device=self.device) < len(turn) * TOKENS_PER_FRAME
        mask = torch.cat([self._closed.filled, inside])[None, None, None]
        return turn.inputs(len(turn), padded, self.device), mask, self._closed.keys_values

    def _normalise(self, motion: np.ndarray) -> np.ndarray:
        return self._network.normalise(torch.from_numpy(np.asarray(motion, np.float32)).to(self.device)).cpu().numpy()
