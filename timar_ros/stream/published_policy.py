"""The published network in a running conversation: seconds of the clock as turns, past ones kept as keys and values.

    25 frames ─ running normalisation ─ wav2vec 2.0 ─┐
    partner's face as FLAME, or the fake latent ─────┴─ turn ─ backbone ─ z ─ diffusion head ─ FLAME ─ 55 channels

Turn by turn, as published, a second's motion is drawn when the second is over. Hop by hop the open second is encoded
again at each hop: what is not heard yet is silence of the agent, and the fake latent, the network's own stand-in for
what it is not told, of the user.

Positions count from the window's start, so keys and values are right as long as the window's first turn stays. When
the window is full its last `kept_turns` turns are encoded anew as the first ones of the next window, in one pass.
With window_turns - 1 kept turns that is the published sliding window; with fewer it happens less often.
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
from timar_ros.model.published import FRAMES, MOTION_DIM, SAMPLES, TOKENS, PublishedNetwork
from timar_ros.motion.flame import EXPRESSION_FILE, FLAME_CHANNELS, ExpressionMap, from_flame, to_flame
from timar_ros.rates import FRAME_SAMPLES
from timar_ros.stream.device import OnDevice, Packing, StepRunner, check_follows, choose_device
from timar_ros.stream.frames import Frame
from timar_ros.stream.noise import FrameNoise
from timar_ros.stream.turns import TurnBoundary


@dataclass(frozen=True)
class PublishedSampling:
    """How motion is drawn; the defaults are the published evaluation's, but for noise that is alike from frame to
    frame, without which a neck would shake.

    Attributes:
        temperature: of the diffusion steps' noise.
        guidance: 1 for none; else how far to go from the motion without the user to that with them.
        head_correlation_frames, face_correlation_frames: as in stream/sampling.py.
    """

    temperature: float = 1.0
    guidance: float = 1.0
    head_correlation_frames: float = 6.0
    face_correlation_frames: float = 3.0


class PublishedWindow:
    """The window of turns on a device: draws the present turn's motion, and closes it.

    Args:
        network: on the device, in the precision it is to run in.
        window_turns, kept_turns, mask_history: in place of the network's own, see `PublishedConfig`.

    Attributes:
        place: the present turn's in the window, from 0.
        z: [25, width] of the last draw.
    """

    def __init__(
        self,
        network: PublishedNetwork,
        device: torch.device,
        sampling: PublishedSampling,
        window_turns: int | None = None,
        kept_turns: int | None = None,
        mask_history: bool | None = None,
    ) -> None:
        config = network.config
        self._network, self._sampling = network, sampling
        self._window_turns = config.window_turns if window_turns is None else window_turns
        self._kept_turns = config.kept_turns if kept_turns is None else kept_turns
        self.mask_history = config.mask_history if mask_history is None else mask_history
        self._schedule = diffusion.make_schedule(config.sampling_steps)
        with torch.no_grad():
            self._time = network.diffusion.time_embed(self._schedule.original_step.to(device))
        slots, dtype = self._window_turns * TOKENS, network.encoder_blocks[0].dtype
        self._cache = torch.zeros(
            config.blocks, 2, 1, config.heads, slots, config.width // config.heads, device=device, dtype=dtype
        )
        self._turns = torch.zeros(self._window_turns, TOKENS, config.width, device=device)
        self.z = torch.zeros(FRAMES, config.width, device=device)
        self.inputs = Packing(
            voices=(2, SAMPLES),
            user_motion=(FRAMES, MOTION_DIM),
            agent_motion=(FRAMES, MOTION_DIM),
            user_heard=(FRAMES,),
            user_seen=(FRAMES,),
            agent_given=(FRAMES,),
            noise=(config.sampling_steps, FRAMES, MOTION_DIM),
        )
        self._runner = StepRunner(self._advance, device)
        self.place = 0
        if device.type == "cuda":
            self._capture()

    @torch.inference_mode()
    def draw(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Motion [25, 56] of the present turn from `inputs`, named and shaped as in `self.inputs`."""
        return self._runner(("draw", self.place), self.inputs.pack(inputs))

    @torch.inference_mode()
    def close(self, motion: np.ndarray) -> None:
        """End the present turn, whose motion [25, 56] was sent, as it was drawn last; make room for the next."""
        if not self.mask_history:
            self._runner(("close", self.place), motion.astype(np.float32).ravel())
        self.place += 1
        if self.place == self._window_turns:
            self._runner(("slide", self.place), np.zeros(0, np.float32))
            self.place = self._kept_turns

    def copy_from(self, other: PublishedWindow) -> None:
        """Take over what another window, maybe on another device, remembers."""
        self.place = other.place
        for mine, theirs in ((self._cache, other._cache), (self._turns, other._turns)):
            mine.copy_(theirs)

    def _advance(self, shape: tuple[str, int], packed: Tensor) -> Tensor:
        work, place = shape
        if work == "draw":
            return self._draw(place, packed)
        if work == "close":
            self._turns[place] = self._network.give_motion(self._turns[place], packed.view(FRAMES, MOTION_DIM))
            self._network.encode(self._turns[place : place + 1], place, self._cache)
        elif self._kept_turns:
            kept = self._turns[-self._kept_turns :].clone()
            self._turns[: self._kept_turns] = kept
            self._network.encode(kept, 0, self._cache)
        return packed

    def _draw(self, place: int, packed: Tensor) -> Tensor:
        network, given = self._network, self.inputs.unpack(packed)
        user_speech, agent_speech = network.speech_tokens(given["voices"])
        turn = network.turn(
            user_speech,
            given["user_motion"],
            agent_speech,
            given["agent_motion"],
            given["user_heard"].bool(),
            given["user_seen"].bool(),
            given["agent_given"].bool(),
        )
        self._turns[place] = turn
        guidance, z_without_user = self._sampling.guidance, None
        if guidance != 1.0:
            # First, since the turn's own keys and values are to stay in the cache.
            z_without_user = network.encode(network.hide_user(turn)[None], place, self._cache)
        self.z.copy_(network.encode(turn[None], place, self._cache))
        noise, temperature = given["noise"], self._sampling.temperature
        return diffusion.sample(
            network.diffusion,
            self._schedule,
            self.z,
            noise,
            temperature,
            z_without_user,
            guidance,
            time=self._time,
        )

    @torch.inference_mode()
    def _capture(self) -> None:
        for place in range(self._window_turns):
            self._runner.capture(("draw", place), self.inputs.size)
            if not self.mask_history:
                self._runner.capture(("close", place), FRAMES * MOTION_DIM)
        self._runner.capture(("slide", self._window_turns), 0)


class RunningLevel:
    """Mean and deviation of a voice so far, which stand in for the whole recording's of the published preprocessing.

    It begins as if 2 s of speech at an ordinary level had been heard, so that a silent start is not blown up. What is
    nearly silent is left out, and what is older than two minutes of sound forgotten: who listens for long speaks at the
    same level after it.
    """

    ORDINARY_DEVIATION = 0.05
    BEFORE_SAMPLES = 2 * SAMPLES
    MOST_SAMPLES = 120 * SAMPLES
    SILENCE = 1e-6
    """Mean square."""

    def __init__(self) -> None:
        self._count = float(self.BEFORE_SAMPLES)
        self._sum = 0.0
        self._squares = self.BEFORE_SAMPLES * self.ORDINARY_DEVIATION**2

    def add(self, samples: np.ndarray) -> None:
        squares = float(np.square(samples, dtype=np.float64).sum())
        if squares < self.SILENCE * len(samples):
            return
        kept = min(1.0, self.MOST_SAMPLES / self._count)
        self._count = kept * self._count + len(samples)
        self._sum = kept * self._sum + float(samples.sum(dtype=np.float64))
        self._squares = kept * self._squares + squares

    def normalised(self, samples: np.ndarray) -> np.ndarray:
        mean = self._sum / self._count
        deviation = np.sqrt(max(self._squares / self._count - mean**2, 1e-7))
        return ((samples - mean) / deviation).astype(np.float32)


class PublishedPolicy(OnDevice):
    """One head's motion from the published network, with `IncrementalPolicy`'s interface.

    A hop of 25 frames is drawn as published, when its second is over; smaller hops are drawn from the open second.
    Turn boundaries are not asked for: turns are seconds, counted from the first frame.

    Args:
        policy: from `load_policy`. Its network is brought to the device and precision in place.
        device, seed, precision: as for `PolicyBatch`.
        sampling: the policy folder's settings when None.

    Attributes:
        flame_motion: [frames, 56] of the last step, as drawn.
    """

    def __init__(
        self,
        policy: Policy,
        device: str = "auto",
        seed: int = 0,
        sampling: PublishedSampling | None = None,
        precision: str = "auto",
    ) -> None:
        if policy.channels != FLAME_CHANNELS:
            raise TimarError(
                f"policy {policy.name} has {len(policy.channels)} channels that are not FLAME's 56; "
                "convert the published checkpoint again"
            )
        self.sampling = sampling or published_sampling(policy)
        self._network: PublishedNetwork = policy.network
        path = policy.folder / EXPRESSION_FILE if policy.folder else None
        self._expression = ExpressionMap.load(path) if path and path.is_file() else None
        is_neck = np.arange(MOTION_DIM) >= MOTION_DIM - 3
        correlation = np.where(is_neck, self.sampling.head_correlation_frames, self.sampling.face_correlation_frames)
        self._noise = FrameNoise(seed, policy.network.config.sampling_steps, correlation)
        self._window: PublishedWindow | None = None
        super().__init__(policy.network, choose_device(device), precision)
        self.reset()

    @property
    def limitation(self) -> str | None:
        """What the face lacks, to be told in the diagnostics."""
        if self._expression is None:
            return f"the policy's folder has no {EXPRESSION_FILE}: of the face only jawOpen moves (docs/published.md)"
        return None

    def reset(self) -> None:
        """Forget the conversation; the next frame begins one with its own number."""
        self._window.place = 0
        self._levels = (RunningLevel(), RunningLevel())
        self._next_frame: int | None = None
        self._over = False
        self._begin_second()

    def step(self, frames: Sequence[Frame], boundaries: Sequence[TurnBoundary]) -> np.ndarray:
        """Hear one hop and draw its motion [len(frames), 55]; see `PolicyBatch.step`."""
        if self._next_frame is None:
            self._next_frame = frames[0].index
        check_follows([frame.index for frame in frames], self._next_frame)
        self._next_frame += len(frames)
        motion, waiting = [], list(frames)
        while waiting:
            self.settle()
            room = FRAMES - self._heard
            now, waiting = waiting[:room], waiting[room:]
            motion.append(self._draw(now))
        self.flame_motion = np.concatenate(motion)
        return from_flame(self.flame_motion, self._expression)

    def settle(self) -> None:
        """Close a second that is over, and make room in the window: work that can wait until its motion is sent."""
        if self._over:
            self._window.close(self._motion)
            self._over = False
            self._begin_second()

    def _begin_second(self) -> None:
        self._heard = 0
        self._voices = np.zeros((2, SAMPLES), np.float32)
        self._user_heard = np.zeros(FRAMES, bool)
        self._user_seen = np.zeros(FRAMES, bool)
        self._user_motion = np.zeros((FRAMES, MOTION_DIM), np.float32)
        self._motion = np.zeros((FRAMES, MOTION_DIM), np.float32)

    def _draw(self, frames: Sequence[Frame]) -> np.ndarray:
        """Motion [len(frames), 56] of frames of the open second."""
        first, self._heard = self._heard, self._heard + len(frames)
        for place, frame in enumerate(frames, start=first):
            self._hear(place, frame)
        numbers = range(frames[0].index - first, frames[0].index - first + FRAMES)
        given = (np.arange(FRAMES) < first) & (not self._window.mask_history)
        heard = slice(0, self._heard * FRAME_SAMPLES)
        voices = np.zeros_like(self._voices)
        for party, level in enumerate(self._levels):
            voices[party, heard] = level.normalised(self._voices[party, heard])
        inputs = {
            "voices": voices,
            "user_motion": self._user_motion,
            "agent_motion": self._motion,
            "user_heard": self._user_heard,
            "user_seen": self._user_seen,
            "agent_given": given,
            "noise": np.stack([self._noise.at(number) for number in numbers], axis=1),
        }
        drawn = self._or_on_cpu(lambda: self._window.draw(inputs))
        new = slice(first, self._heard)
        self._motion[new] = drawn[new]
        self._over = self._heard == FRAMES
        return drawn[new]

    def _hear(self, place: int, frame: Frame) -> None:
        samples = slice(place * FRAME_SAMPLES, (place + 1) * FRAME_SAMPLES)
        for party, (voice, heard) in enumerate(((frame.partner, frame.partner_heard), (frame.own, frame.own_heard))):
            self._voices[party, samples] = voice
            if heard:
                self._levels[party].add(voice)
        self._user_heard[place] = frame.partner_heard
        if frame.partner_motion is not None and self._expression is not None:
            seen = np.nan_to_num(frame.partner_motion, nan=0.0)
            self._user_motion[place] = to_flame(seen[None], self._expression)[0]
            self._user_seen[place] = True

    # Where it runs

    def _make_memory(self) -> None:
        before = self._window
        self._window = PublishedWindow(self._network, self.device, self.sampling)
        if before is not None:
            self._window.copy_from(before)


def published_sampling(policy: Policy, temperature: float = 1.0) -> PublishedSampling:
    """The policy folder's own settings, its temperature times `temperature`."""
    own = policy.sampling_as(PublishedSampling)
    return replace(own, temperature=own.temperature * temperature)
