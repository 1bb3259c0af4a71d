"""Turns: where the floor changes hands, and at the latest after a second.

A change is known only some frames after it happened; its boundary is set back to where it was,
and the frames since then belong to the new turn.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from timar_ros.errors import TimarError
from timar_ros.rates import FRAME_SAMPLES, SAMPLE_RATE
from timar_ros.stream.floor import Floor, FloorTracker, PartyState
from timar_ros.stream.speaking import PartySpeaking, SpeakingDetector

LONGEST_DECISION_FRAMES = 21
"""A change of the floor is nearly always sure within so many frames (see `floor.BOTH_S`)."""
UNSEEN_FRAMES = 4
"""A change may have happened so many frames ago without a sign of it, where it is not clear who speaks."""


@dataclass(frozen=True)
class TurnBoundary:
    """A new turn starts."""

    frame: int
    """The new turn's first frame, counted from 0."""
    reason: str
    """`floor`: the floor changed there. `length`: the turn before it was full."""
    floor: Floor
    """Whose floor the new turn is, as far as known."""


@dataclass(frozen=True)
class TurnUpdate:
    """What is known after one more frame."""

    own_speaking: bool
    partner_speaking: bool
    own_probability: float
    """Of speech just now, in [0, 1]."""
    partner_probability: float
    floor: Floor
    boundaries: tuple[TurnBoundary, ...]
    """The turns newly begun; their frames rise, from update to update too."""


class TurnSegmenter:
    """Cuts a conversation into turns, frame after frame.

    mode `floor`: a boundary where the floor changes, set back to where it did, but at the earliest
    one frame after the open turn's start; and length cuts such that no turn is longer than
    `max_frames`. Length cuts fall where a hop of `hop_frames` begins, counted from frame 0, so that none
    makes a hop draw in two turns: as late as possible, or, while a change of the floor is in doubt,
    before the frame in doubt, so that its boundary can still be set back to it, and some frames
    earlier where it is not clear who speaks.

    mode `fixed`: every `max_frames` frames, as published TIMAR checkpoints know it; the floor is
    reported all the same.
    """

    def __init__(self, mode: str = "floor", max_frames: int = 25, hop_frames: int = 2) -> None:
        if mode not in ("floor", "fixed"):
            raise TimarError(f"turns: {mode!r} is unknown; expected 'floor' or 'fixed'")
        if not 1 <= hop_frames <= max_frames:
            raise TimarError(
                f"hop_frames is {hop_frames} and max_frames {max_frames}; expected 1 <= hop_frames <= max_frames"
            )
        self._mode = mode
        self._hop = hop_frames
        self._max_frames = max_frames
        self._voices = SpeakingDetector()
        self._tracker = FloorTracker(SAMPLE_RATE)
        self.reset()

    def reset(self) -> None:
        """Back to before frame 0, as if new."""
        self._voices.reset()
        self._tracker.reset()
        self._frames = 0
        self._start = 0  # of the open turn
        self._changes: deque[tuple[int, Floor]] = deque()  # of the floor, without a boundary yet

    def step(self, own: np.ndarray, partner: np.ndarray, partner_heard: bool = True) -> TurnUpdate:
        """Take in the next frame of both voices (float32 [640] each, 16 kHz mono)."""
        for samples in (own, partner):
            if samples.shape != (FRAME_SAMPLES,):
                raise ValueError(f"expected a frame of shape (640,), got {samples.shape}")
        self._voices(own, partner, partner_heard)
        own_voice, partner_voice = self._voices.own, self._voices.partner
        frame = self._frames
        self._frames += 1
        states = _party_state(own_voice), _party_state(partner_voice)
        changes = self._tracker.step(self._frames * FRAME_SAMPLES, *states)
        self._changes.extend((_frame(sample), floor) for sample, floor in changes)
        return TurnUpdate(
            own_speaking=own_voice.told,
            partner_speaking=partner_voice.told,
            own_probability=own_voice.probability,
            partner_probability=partner_voice.probability,
            floor=self._tracker.floor,
            boundaries=tuple(self._boundaries(frame)),
        )

    def _boundaries(self, frame: int) -> list[TurnBoundary]:
        boundaries = []
        if self._mode == "fixed":
            self._changes.clear()
        while self._changes and self._start < frame:
            changed, floor = self._changes.popleft()
            self._start = max(changed, self._start + 1)
            boundaries.append(TurnBoundary(self._start, "floor", floor))
        if frame >= self._latest_cut():
            self._start = self._cut_of_full_turn()
            boundaries.append(TurnBoundary(self._start, "length", self._tracker.floor))
        return boundaries

    def _latest_cut(self) -> int:
        """The last frame that the turn after the open one may begin with."""
        latest = self._start + self._max_frames
        return latest if self._mode == "fixed" else latest - latest % self._hop

    def _cut_of_full_turn(self) -> int:
        """The first frame of the next turn, now that the open one is full."""
        latest = self._latest_cut()
        if self._mode == "fixed":
            return latest
        earliest = self._hop_from(self._start + 1)
        if any(not voice.clear for voice in (self._voices.own, self._voices.partner)):
            latest = max(latest - self._hop_from(UNSEEN_FRAMES), earliest)
        next_turn = self._max_frames - self._max_frames % self._hop
        for doubt in map(_frame, self._tracker.doubts):
            # Early enough that what the doubt turns out to be is known within the next turn.
            cut = max(self._hop_from(doubt - max(next_turn - LONGEST_DECISION_FRAMES, 1)), earliest)
            if cut <= doubt + 1:  # the boundary is at most two frames late then
                return min(cut, latest)
        return latest

    def _hop_from(self, frame: int) -> int:
        """The first frame from this one on that a hop begins with."""
        return -(-frame // self._hop) * self._hop


def _party_state(voice: PartySpeaking) -> PartyState:
    sure = voice.sure
    return PartyState(sure.speaking, sure.since, sure.sure_to, voice.doubt_since)


def _frame(sample: int) -> int:
    """The frame whose start is nearest to a sample."""
    return (sample + FRAME_SAMPLES // 2) // FRAME_SAMPLES
