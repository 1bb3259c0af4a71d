"""What a running conversation tells of itself: latency, missed deadlines, turns, memory."""

from __future__ import annotations

import re
from collections import Counter, deque
from pathlib import Path

import numpy as np

from timar_ros.stream.conversation import Hop

# Latency percentiles are over the last minutes; counts are over the whole conversation.
KEPT_LATENCIES = 4096
# Whether commands are late is judged by so many hops, a minute of the usual ones.
JUDGED_HOPS = 750


def peak_rss_mb() -> float:
    """The most resident memory that this process held, in MiB (0 where /proc does not tell).

    getrusage's ru_maxrss would not do: it begins with what the parent held before exec.
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else 0.0


class HopStatistics:
    """Counts hops. `refused` counts messages that could not be decoded, by party."""

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._latencies_ms: deque[float] = deque(maxlen=KEPT_LATENCIES)
        self._missed: deque[bool] = deque(maxlen=JUDGED_HOPS)

    def add(self, hop: Hop, published_ns: int, missed: bool) -> None:
        """Count a hop whose command left at `published_ns`; `missed` when its motion was due before.

        A hop in which silence stands in for both voices has waited for them in vain: that is no latency.
        """
        if any(frame.own_heard or frame.partner_heard for frame in hop.frames):
            self._latencies_ms.append((published_ns - hop.heard_until_ns) * 1e-6)
            self._counts["deadline_misses"] += missed
            self._missed.append(missed)
        self._counts["hops"] += 1
        self._counts["frames"] += len(hop.frames)
        self._counts["turns"] += len(hop.boundaries)
        self._counts["turns_by_floor"] += sum(boundary.reason == "floor" for boundary in hop.boundaries)

    def latency_status(
        self, hop_frames: int, playout_delay_ns: int, merged_hops: int
    ) -> tuple[str, bool, str, dict[str, object]]:
        """Name, whether to warn, a sentence, and values for the diagnostics."""
        values: dict[str, object] = {
            name: self._counts[name] for name in ("hops", "frames", "deadline_misses", "turns", "turns_by_floor")
        }
        values["merged_hops"] = merged_hops
        if self._latencies_ms:
            for percent in (50, 95, 99):
                values[f"latency_ms_p{percent}"] = round(float(np.percentile(list(self._latencies_ms), percent)), 2)
        values["rss_mb"] = round(peak_rss_mb(), 1)
        missed = sum(self._missed)
        late = missed > 0.005 * max(len(self._missed), 1)
        reserve_ms = playout_delay_ns / 1e6 - 40 * (hop_frames + 1)
        said = (
            f"{missed} of the last {len(self._missed)} hops came later than "
            f"{reserve_ms:.0f} ms after their sound; use a faster device or a larger hop_frames or playout_delay_ms"
            if late
            else "commands are in time"
        )
        return "latency", late, said, values
