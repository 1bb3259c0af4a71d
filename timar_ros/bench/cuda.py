"""On a GPU: the bundled policy, alone and as a batch of heads, and the published `large` size hop by hop."""

from __future__ import annotations

import numpy as np
import torch

from timar_ros.bench.default import HOP_FRAMES, TURN_FRAMES, hops
from timar_ros.bench.large import random_network
from timar_ros.bench.timing import noise_frames, percentiles_ms, timed, write_result
from timar_ros.model.checkpoint import Policy, load_policy
from timar_ros.motion.flame import FLAME_CHANNELS
from timar_ros.stream.policy import Hop, PolicyBatch
from timar_ros.stream.published_policy import PublishedPolicy

HEADS = (1, 8, 64)
SECONDS = 20


def batch_step_ms(heads: int) -> dict[str, float]:
    batch = PolicyBatch(load_policy("default"), range(heads), "cuda", hop_frames=HOP_FRAMES)
    taken = []
    for length, frames, boundaries in hops(SECONDS):
        now = [Hop(frames, boundaries)] * heads
        seconds = timed(lambda now=now: batch.step(now))
        if length >= TURN_FRAMES:
            taken.append(seconds)
    return percentiles_ms(taken[5:])


def large_step_ms(hop_frames: int) -> dict[str, float]:
    """Drawing a hop, and what closing a second and sliding the window add between hops."""
    policy = Policy("large", random_network(), FLAME_CHANNELS, {})
    stepper = PublishedPolicy(policy, "cuda")
    drawn, settled = [], []
    for first in range(0, SECONDS * 25, hop_frames):
        frames = noise_frames(first, hop_frames)
        drawn.append(timed(lambda frames=frames: stepper.step(frames, [])))
        settled.append(timed(stepper.settle))
    return percentiles_ms(drawn[5:]) | {"settle_most": round(1e3 * float(np.max(settled[5:])), 2)}


def measure() -> dict[str, object]:
    if not torch.cuda.is_available():
        return {"skipped": "no CUDA device"}
    return {
        "device": torch.cuda.get_device_name(),
        "default_step_ms": {f"{heads}_heads": batch_step_ms(heads) for heads in HEADS},
        "large_step_ms": {f"hop_of_{frames}_frames": large_step_ms(frames) for frames in (1, 5, 25)},
    }


if __name__ == "__main__":
    write_result({"cuda": measure()})
