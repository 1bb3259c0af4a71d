"""The bundled policy offline, hop by hop as live: how many times faster than the conversation."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch
from joblib import Parallel, delayed

from timar_ros.bench.default import streams_realtime
from timar_ros.bench.timing import write_result
from timar_ros.model.checkpoint import load_policy
from timar_ros.rates import SAMPLE_RATE
from timar_ros.replay.offline import hear, move
from timar_ros.resources import share_path
from timar_ros.sound_files import read_voice
from timar_ros.stream.policy import IncrementalPolicy

CONVERSATIONS = 6


def conversation(seed: int) -> float:
    """Run the demo's conversation through voice activity, turns and policy; its length in s."""
    torch.set_num_threads(1)
    own, partner = (read_voice(share_path("demo", f"{party}.ogg")) for party in ("self", "partner"))
    move(IncrementalPolicy(load_policy("default"), "cpu", seed), hear(own, partner))
    return max(len(own), len(partner)) / SAMPLE_RATE


def measure() -> dict[str, object]:
    cores = sorted(os.sched_getaffinity(0))
    torch.set_num_threads(1)
    os.sched_setaffinity(0, cores[:1])
    conversation(0)
    times, heads = {"one_core": _speed(lambda: [conversation(0)])}, {"one_core": streams_realtime()}
    os.sched_setaffinity(0, cores)
    if len(cores) > 1:
        with Parallel(n_jobs=len(cores)) as parallel:
            parallel(delayed(conversation)(seed) for seed in range(len(cores)))  # workers import and load
            name = f"{len(cores)}_cores"
            times[name] = _speed(lambda: parallel(delayed(conversation)(seed) for seed in range(CONVERSATIONS)))
            heads[name] = sum(parallel(delayed(streams_realtime)() for _ in cores))
    return {"default": {"times_realtime": times, "streams_realtime": heads}}


def _speed(work: Callable[[], list[float]]) -> float:
    """Seconds of conversation a second; `work` returns the lengths of its conversations in s."""
    start = time.perf_counter()
    lengths = work()
    return round(sum(lengths) / (time.perf_counter() - start), 2)


if __name__ == "__main__":
    write_result(measure())
