"""One conversation from frames to motion: voice activity, floor, turns, policy. Live and offline run this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from timar_ros.rates import FRAME_NS
from timar_ros.stream.frames import Frame
from timar_ros.stream.lookahead import own_voice_as_known
from timar_ros.stream.turns import TurnBoundary, TurnSegmenter, TurnUpdate

if TYPE_CHECKING:  # it brings torch, which who reads a recording does not need
    from timar_ros.stream.steppers import Stepper


@dataclass(frozen=True)
class Hop:
    """What came of one hop: `motion` [hop frames, 55] as `IncrementalPolicy.step` gives it, one update a frame."""

    frames: tuple[Frame, ...]
    updates: tuple[TurnUpdate, ...]
    motion: np.ndarray

    @property
    def stamps_ns(self) -> list[int]:
        """Capture of each frame, counted back from the newest: the clock may have gone back since the others."""
        newest = len(self.frames) - 1
        return [self.frames[-1].stamp_ns - (newest - i) * FRAME_NS for i in range(newest + 1)]

    @property
    def heard_until_ns(self) -> int:
        """Capture of the end of the newest frame: the newest sample that the motion rests on."""
        return self.frames[-1].stamp_ns + FRAME_NS

    @property
    def boundaries(self) -> tuple[TurnBoundary, ...]:
        return tuple(boundary for update in self.updates for boundary in update.boundaries)


class Conversation:
    """Hears frame after frame, and draws motion in hops.

    A hop is `hop_frames` frames. When more are waiting, since the last hop took too long, they are drawn together:
    a late hop is merged into the next, so nothing queues up, as a hop's cost hardly depends on its frames.

    Args:
        policy, segmenter: fresh ones.
        own_ahead: of a policy that looks ahead: takes a frame's stamp (ns) and gives the own voice (float32 [640]), as
            far as it is known by now, of the frame that lies as much later as the policy was told.

    Attributes:
        merged: hops that were drawn with the one after them.
    """

    # The most frames drawn together; also what a policy takes in one step.
    MOST_FRAMES = 25

    def __init__(
        self,
        policy: Stepper,
        segmenter: TurnSegmenter,
        hop_frames: int,
        own_ahead: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        self._policy = policy
        self._segmenter = segmenter
        self._hop_frames = hop_frames
        self._own_ahead = own_ahead
        self._frames: list[Frame] = []
        self._updates: list[TurnUpdate] = []
        self.merged = 0

    def hear(self, frame: Frame) -> None:
        """Take the next frame: voice activity, floor and turns."""
        self._frames.append(frame)
        self._updates.append(self._segmenter.step(frame.own, frame.partner, frame.partner_heard))

    def draw(self) -> Hop | None:
        """Motion of all whole hops that are waiting, at most `MOST_FRAMES` frames; None when there is none."""
        hops = min(len(self._frames), max(self.MOST_FRAMES, self._hop_frames)) // self._hop_frames
        if not hops:
            return None
        self.merged += hops - 1
        count = hops * self._hop_frames
        frames, self._frames = tuple(self._frames[:count]), self._frames[count:]
        updates, self._updates = tuple(self._updates[:count]), self._updates[count:]
        if self._own_ahead is not None:
            frames = tuple(replace(frame, own_ahead=self._own_ahead(frame.stamp_ns)) for frame in frames)
        boundaries = [boundary for update in updates for boundary in update.boundaries]
        return Hop(frames, updates, self._policy.step(own_voice_as_known(frames), boundaries))
