"""The bundled policy on one core: one hop at its longest open turn, early and late, and how many heads it carries."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from timar_ros.bench.timing import noise_frames, percentiles_ms, resident_mb, timed, write_result
from timar_ros.model.checkpoint import load_policy
from timar_ros.stream.floor import Floor
from timar_ros.stream.frames import Frame
from timar_ros.stream.policy import Hop, IncrementalPolicy, PolicyBatch
from timar_ros.stream.turns import TurnBoundary, TurnSegmenter

HOP_FRAMES = 2
# Turns as long as they get with this hop: the pass that closes one and begins the next is the longest of all.
TURN_FRAMES = 24
SECONDS = 620
MOST_HEADS = 16
HOP_S = 0.04 * HOP_FRAMES


def hops(seconds: float) -> Iterator[tuple[int, Sequence[Frame], Sequence[TurnBoundary]]]:
    """The open turn's length, frames and boundaries of hop after hop, each turn as long as it can be."""
    start = 0
    for first in range(0, int(seconds * 25) - HOP_FRAMES + 1, HOP_FRAMES):
        closes = first - start == TURN_FRAMES
        boundaries = [TurnBoundary(first, "length", Floor.NOBODY)] if closes else []
        yield first - start + HOP_FRAMES, noise_frames(first, HOP_FRAMES), boundaries
        if closes:
            start = first


def step_times() -> dict[str, object]:
    policy = IncrementalPolicy(load_policy("default"), "cpu")
    times: list[tuple[float, int, float]] = []  # s of conversation, open turn's frames, s taken
    resident = {}
    for hop, (length, frames, boundaries) in enumerate(hops(SECONDS)):
        start = time.perf_counter()
        policy.step(frames, boundaries)
        times.append((hop * HOP_S, length, time.perf_counter() - start))
        if round(hop * HOP_S, 2) in (20.0, 600.0):
            resident[f"at_{round(hop * HOP_S)}_s"] = round(resident_mb(), 1)

    def longest(since: float, until: float) -> list[float]:
        return [taken for at, length, taken in times if length >= TURN_FRAMES and since <= at < until]

    every = [taken for at, _, taken in times if at > 2]
    early, late = longest(10, 70), longest(SECONDS - 60, SECONDS)
    return {
        "step_ms": percentiles_ms(longest(10, SECONDS)),
        "step_ms_all_lengths": percentiles_ms(every),
        "step_ms_at_10_s": percentiles_ms(early),
        "step_ms_at_10_min": percentiles_ms(late),
        "late_over_early": round(float(np.median(late) / np.median(early)), 3),
        "resident_mb": resident,
    }


def streams_realtime(seconds: float = 12.0) -> int:
    """The most heads, in one process, whose hops (voice activity, turns and motion) all end within a hop's time."""
    carried = 0
    for heads in range(1, MOST_HEADS + 1):
        policy = PolicyBatch(load_policy("default"), range(heads), "cpu")
        segmenters = [TurnSegmenter(hop_frames=HOP_FRAMES) for _ in range(heads)]

        def advance(first: int, policy=policy, segmenters=segmenters) -> None:
            now = []
            for head, segmenter in enumerate(segmenters):
                frames = noise_frames(first, HOP_FRAMES, head)
                updates = [segmenter.step(frame.own, frame.partner) for frame in frames]
                now.append(Hop(frames, [boundary for update in updates for boundary in update.boundaries]))
            policy.step(now)

        taken = [timed(lambda i=i: advance(i * HOP_FRAMES)) for i in range(int(seconds / HOP_S))][25:]
        if np.percentile(taken, 99) > HOP_S:
            return carried
        carried = heads
    return carried


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_result({"default": step_times()})
