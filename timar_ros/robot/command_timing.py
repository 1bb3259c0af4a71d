"""How late commands are, measured where they arrive.

A command's stamp is the capture time of the newest sample that it rests on. Its latency is its
reception minus that stamp. The samples between the stamp before and this one rest in it for the
first time; their delays are spread evenly from reception minus stamp to reception minus the stamp
before, and the reaction time is the distribution of these delays over all samples.
"""

from __future__ import annotations

import numpy as np

BIN_NS = 100_000
BINS = 50_000
"""0.1 ms a bin, 0 to 5 s; what lies beyond counts in the first or the last."""

PAUSE_NS = 5_000_000_000
"""A step between stamps longer than this is a pause of the conversation, not late commands."""

STREAM_DEPTH = 100
"""Queue of positions that are sent one by one: each counts, so that none may be dropped for a second."""

NO_SOUND = "no_sound"
"""frame_id of commands that rest on no sound (idle life, halts): their stamp is when they were sent, no capture."""

PERCENTILES = (50, 95, 99)


class DelayHistogram:
    """Delays in bins of 0.1 ms; ``percentile`` interpolates within a bin."""

    def __init__(self):
        self._mass = np.zeros(BINS)

    def add(self, delay_ns: int) -> None:
        """Count one delay."""
        self._mass[min(max(delay_ns // BIN_NS, 0), BINS - 1)] += 1.0

    def add_uniform(self, from_ns: int, to_ns: int) -> None:
        """Spread delays evenly from ``from_ns`` to ``to_ns``; each ms of width weighs 1."""
        low, high = (min(max(ns / BIN_NS, 0.0), BINS - 1e-6) for ns in (from_ns, to_ns))
        weight = (to_ns - from_ns) / 1e6
        first, last = int(low), int(high)
        if high - low < 1e-9:
            self._mass[first] += weight
            return
        density = weight / (high - low)
        if first == last:
            self._mass[first] += weight
            return
        self._mass[first] += density * (first + 1 - low)
        self._mass[first + 1 : last] += density
        self._mass[last] += density * (high - last)

    def percentile(self, percent: float) -> float | None:
        """The delay in ms below which ``percent`` of the mass lies; None while there is none."""
        cumulative = np.cumsum(self._mass)
        if cumulative[-1] <= 0:
            return None
        wanted = percent / 100 * cumulative[-1]
        bin_ = min(int(np.searchsorted(cumulative, wanted)), BINS - 1)
        inside = (wanted - cumulative[bin_]) / self._mass[bin_] + 1 if self._mass[bin_] else 0.0
        return (bin_ + inside) * BIN_NS / 1e6


class CommandTiming:
    """Latency and reaction over all accepted commands; call with each one's stamp and reception."""

    def __init__(self):
        self.latency = DelayHistogram()
        self.reaction = DelayHistogram()
        self._last_stamp_ns: int | None = None

    def __call__(self, stamp_ns: int, received_ns: int) -> float | None:
        """The command's latency in ms; None for a command without a stamp, which tells nothing."""
        if stamp_ns == 0:
            return None
        self.latency.add(received_ns - stamp_ns)
        previous = self._last_stamp_ns
        if previous is None or stamp_ns > previous:
            self._last_stamp_ns = stamp_ns
            if previous is not None and stamp_ns - previous <= PAUSE_NS:
                self.reaction.add_uniform(received_ns - stamp_ns, received_ns - previous)
        return (received_ns - stamp_ns) / 1e6

    def percentiles(self) -> dict[str, float | None]:
        """``latency_ms_p50`` ... ``reaction_ms_p99``, ms; None before there is anything to tell."""
        return {
            f"{name}_ms_p{percent}": histogram.percentile(percent)
            for name, histogram in (("latency", self.latency), ("reaction", self.reaction))
            for percent in PERCENTILES
        }
