"""What the sections share: percentiles, memory, random frames, and handing over the result."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from timar_ros.rates import FRAME_NS, FRAME_SAMPLES
from timar_ros.stream.frames import Frame


def write_result(figures: dict[str, object]) -> None:
    """To the file that the command named."""
    Path(sys.argv[1]).write_text(json.dumps(figures), encoding="utf-8")


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def percentiles_ms(seconds: list[float]) -> dict[str, float]:
    return {f"p{p}": round(1e3 * float(np.percentile(seconds, p)), 2) for p in (50, 99)}


def resident_mb() -> float:
    """Memory that this process holds now, in MiB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def noise_frames(first: int, count: int, seed: int = 0) -> list[Frame]:
    """Frames of both voices as noise: what a policy computes does not depend on what it hears."""
    rng = np.random.default_rng([seed, first])
    voices = (0.05 * rng.standard_normal((count, 2, FRAME_SAMPLES))).astype(np.float32)
    return [
        Frame(first + i, (first + i) * FRAME_NS, own, partner, True, True) for i, (own, partner) in enumerate(voices)
    ]
