"""How far a stream's stamps lie from its samples: jitter, drift of a clock, and sound that was lost unseen."""

from __future__ import annotations

from collections import deque

import numpy as np

_MS = 1_000_000
_SECOND = 1_000_000_000
_STEP_NS = 15 * _MS
"""A mean deviation beyond this is lost or surplus audio, corrected at once; below, it is drift."""
_STEP_WINDOW_NS = 1_500 * _MS


class Deviation:
    """How far a stream's capture times lie from where its samples were placed, in ns (positive:
    later).

    Two views: a slow mean for drift, and the mean of the last 1.5 s for audio that was lost unseen.
    """

    def __init__(self, time_constant_ns: int) -> None:
        self._time_constant_ns = time_constant_ns
        self.restart()

    def restart(self) -> None:
        self.mean = 0.0
        self._count = 0
        self._recent: deque[tuple[int, float]] = deque()
        self._recent_sum = 0.0

    def add(self, at_ns: int, duration_ns: int, deviation_ns: float) -> None:
        self._count += 1
        gain = max(1.0 / self._count, min(1.0, duration_ns / self._time_constant_ns))
        self.mean += gain * (deviation_ns - self.mean)
        self._recent.append((at_ns, deviation_ns))
        self._recent_sum += deviation_ns
        while self._recent and at_ns - self._recent[0][0] > _STEP_WINDOW_NS:
            self._recent_sum -= self._recent.popleft()[1]

    def moved(self, by_ns: float) -> None:
        """The placement moved later by this much."""
        self.mean -= by_ns
        self._recent_sum -= by_ns * len(self._recent)
        self._recent = deque((at, value - by_ns) for at, value in self._recent)

    def step_ns(self) -> float:
        """A deviation too large for drift and too steady for jitter, or 0."""
        count = len(self._recent)
        if count < 16 or abs(self._recent_sum) <= _STEP_NS * count:
            return 0.0
        values = np.array([value for _, value in self._recent])
        spread = values.std() * max(0.75, 4 / np.sqrt(count))
        return float(values.mean()) if abs(values.mean()) > spread else 0.0


class StampClock:
    """Drift of a device that counts its stamps by its own clock.

    The shortest delivery delay of a window hardly varies; where it drifts away from the first
    window's, the stamps run off. At least 250 packets and 10 s a window keep its error below 6 ms
    at ±60 ms of jitter.
    """

    _DEADBAND_NS = 3 * _MS // 2
    _RATE_PPM = 500

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._reference: int | None = None
        self._begin_window()
        self._wanted = 0

    def _begin_window(self) -> None:
        self._start: int | None = None
        self._count = 0
        self._shortest: int | None = None

    def correction_ns(self, arrival_ns: int, delay_ns: int, duration_ns: int, jitter_ns: float) -> int:
        """What to add to the stamps from here on, given this packet's delay after all corrections
        so far."""
        if self._start is None:
            self._start = arrival_ns
        self._count += 1
        self._shortest = delay_ns if self._shortest is None else min(self._shortest, delay_ns)
        if self._count >= 250 and arrival_ns - self._start >= 10 * _SECOND:
            if self._reference is None:
                self._reference = self._shortest
            beyond = self._shortest - self._reference
            deadband = self._DEADBAND_NS + 0.1 * jitter_ns
            self._wanted = beyond if abs(beyond) > deadband else 0
            self._begin_window()
        limit = duration_ns * self._RATE_PPM // 1_000_000
        part = max(-limit, min(limit, self._wanted))
        self._wanted -= part
        if self._shortest is not None:
            self._shortest -= part
        return part
