"""What a training run is made of beside its data."""

from __future__ import annotations

from dataclasses import dataclass

from timar_ros.errors import TimarError


@dataclass(frozen=True)
class Recipe:
    """Everything beside the data that decides a run's result.

    The speech encoder is taught first, for `speech_steps`. Lips are learned from many open turns with little history,
    long memory from few with much of it: `short_share` of the batches have `batch` short windows, the others half as
    many long ones. Every `wander_every` steps the policy lives through `wandering_conversations` on its own motion, and
    `wandering` of the windows give that as the past (learn/wandering.py). `history_dropped` of the windows have no
    past; every frame of their open turns is asked for, so that they make up about a third of the loss.
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
    wander_every: int = 0
    wandering_conversations: int = 48
    settle_conversations: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"batch": 1, "open_groups": 1, "short_open_groups": 1, "draws": 1, "window_frames": 1}
        for name, value in vars(self).items():
            lowest = least.get(name, 0)
            if value < lowest:
                raise TimarError(f"--{name.replace('_', '-')} is {value}; {lowest} and more is allowed")
