"""One conversation from frames to motion: voice activity, floor, turns, policy. Live and offline run this."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from timar_ros.rates import FRAME_NS
from timar_ros.stream.frames import Frame
from timar_ros.stream.policy import IncrementalPolicy
from timar_ros.stream.turns import TurnBoundary, TurnSegmenter, TurnUpdate


@dataclass(frozen=True)
class Hop:
    """What came of one hop: `motion` [hop frames, 55] as `IncrementalPolicy.step` gives it, one update a frame."""

    frames: tuple[Frame, ...]
    updates: tuple[TurnUpdate, ...]
    motion: np.ndarray

    @property
    def heard_until_ns(self) -> int:
        """Capture of the end of the newest frame: the newest sample that the motion rests on."""
        return self.frames[-1].stamp_ns + FRAME_NS

    @property
    def boundaries(self) -> tuple[TurnBoundary, ...]:
        return tuple(boundary for update in self.updates for boundary in update.boundaries)


class Conversation:
    """Gathers frames into hops and runs each through turns and policy."""

    def __init__(self, policy: IncrementalPolicy, segmenter: TurnSegmenter, hop_frames: int) -> None:
        self._policy = policy
        self._segmenter = segmenter
        self._hop_frames = hop_frames
        self._frames: list[Frame] = []
        self._updates: list[TurnUpdate] = []

    def push(self, frames: Sequence[Frame]) -> Iterator[Hop]:
        """Take consecutive frames; yields a hop whenever one is complete."""
        for frame in frames:
            self._frames.append(frame)
            self._updates.append(self._segmenter.step(frame.own, frame.partner))
            if len(self._frames) == self._hop_frames:
                hop_frames, updates = tuple(self._frames), tuple(self._updates)
                self._frames, self._updates = [], []
                boundaries = [boundary for update in updates for boundary in update.boundaries]
                yield Hop(hop_frames, updates, self._policy.step(hop_frames, boundaries))
