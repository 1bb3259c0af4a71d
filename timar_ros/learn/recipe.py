"""What a training run is made of beside its data, and the windows it draws from them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from timar_ros.learn.dataset import Conversation, Window, draw_window
from timar_ros.model.config import NetworkConfig


@dataclass(frozen=True)
class Recipe:
    """Everything beside the data that decides a run's result.

    The speech encoder is taught first, for `speech_steps`. Lips are learned from many open turns with little history,
    long memory from few with much of it: `short_share` of the batches have `batch` short windows, the others half as
    many long ones.
    """

    steps: int = 1700
    speech_steps: int = 1500
    batch: int = 12
    window_frames: int = 200
    open_groups: int = 4
    short_window_frames: int = 48
    short_open_groups: int = 4
    short_share: float = 0.75
    learning_rate: float = 6e-4
    warmup_steps: int = 100
    weight_decay: float = 0.02
    ema: float = 0.995
    draws: int = 4
    history_dropped: float = 0.15
    history_noise: float = 0.5
    astray: float = 3.0
    partner_seen: float = 0.15
    foresight: float = 0.2
    lips: float = 0.5
    wandering: float = 0.0
    wandering_conversations: int = 48
    settle_conversations: int = 0
    seed: int = 0


def batches(
    conversations: list[Conversation], recipe: Recipe, config: NetworkConfig, first_step: int, rank: int = 0
) -> Iterator[tuple[list[Window], np.random.Generator]]:
    """A worker's batches of the steps from `first_step` on, prepared in a thread of their own a few steps ahead."""
    ready: queue.Queue = queue.Queue(maxsize=4)

    def prepare() -> None:
        for step in range(first_step, recipe.steps):
            rng = np.random.default_rng([recipe.seed, step, rank] if rank else [recipe.seed, step])
            short = rng.random() < recipe.short_share
            frames = recipe.short_window_frames if short else recipe.window_frames
            groups = recipe.short_open_groups if short else recipe.open_groups
            windows = [
                draw_window(
                    rng,
                    conversations,
                    frames,
                    groups,
                    config.max_turn_frames,
                    most_lookahead=config.max_lookahead_frames,
                    wandering=recipe.wandering,
                )
                for _ in range(recipe.batch if short else max(1, recipe.batch // 2))
            ]
            ready.put((windows, rng))

    threading.Thread(target=prepare, daemon=True).start()
    for _ in range(first_step, recipe.steps):
        yield ready.get()
