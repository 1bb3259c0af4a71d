"""What a training run is made of beside its data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from timar_ros.errors import TimarError


def _asked(default: float, meaning: str) -> Any:
    """A field of a recipe and option of `timar train`, with what its `--help` says of it."""
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class Recipe:
    """Everything beside the data that decides a run's result.

    The speech encoder is taught first, for `speech_steps`. Lips are learned from many open turns with little history,
    long memory from few with much of it: `short_share` of the batches have `batch` short windows, the others half as
    many long ones. Every `wander_every` steps the policy lives through `wandering_conversations` on its own motion, and
    `wandering` of the windows give that as the past (learn/wandering.py). `history_dropped` of the windows have no
    past; every frame of their open turns is asked for, so that they make up about a third of the loss.
    """

    steps: int = _asked(1700, "training steps")
    speech_steps: int = _asked(1500, "steps that teach the speech encoder, before all others; with --start none")
    batch: int = _asked(12, "short windows in a batch; long ones are half as many")
    window_frames: int = _asked(200, "frames of 40 ms in a long window's past")
    open_groups: int = _asked(4, "open turns that are asked for in a long window")
    short_window_frames: int = _asked(48, "frames in a short window's past")
    short_open_groups: int = _asked(4, "open turns that are asked for in a short window")
    short_share: float = _asked(0.75, "share of the batches that have short windows")
    learning_rate: float = _asked(6e-4, "AdamW's, at its highest")
    warmup_steps: int = _asked(100, "steps until the learning rate is there")
    weight_decay: float = _asked(0.02, "AdamW's")
    ema: float = _asked(0.995, "decay of the moving average of the weights, which is what is saved")
    draws: int = _asked(4, "diffusion steps drawn for each frame that is asked for")
    history_dropped: float = _asked(0.15, "share of the windows without a past")
    history_noise: float = _asked(0.5, "noise on the own past, at most, in steps of one frame")
    astray: float = _asked(3.0, "how far the own past may lie beside the person's, in the channels' deviations")
    partner_seen: float = _asked(0.15, "share of the windows in which the partner's face is seen")
    foresight: float = _asked(0.2, "weight of telling that a nod is about to begin")
    lips: float = _asked(0.5, "weight of reading the mouth's shapes from what the network knows")
    wandering: float = _asked(0.0, "share of the windows whose own past the policy drew")
    wander_every: int = _asked(0, "steps from one drawing of such pasts to the next; 0: only at the beginning")
    wandering_conversations: int = _asked(48, "conversations that the policy lives through for them")
    settle_conversations: int = _asked(
        0, "conversations by which head and expression are settled at the end; 0: not at all"
    )
    seed: int = _asked(0, "of everything that is random")

    def __post_init__(self) -> None:
        frames = ("window_frames", "short_window_frames")
        least = dict.fromkeys(("batch", "open_groups", "short_open_groups", "draws", *frames), 1)
        most = dict.fromkeys(("short_share", "history_dropped", "partner_seen", "wandering"), 1.0) | {"ema": 0.999999}
        for name, value in vars(self).items():
            lowest, highest = least.get(name, 0), most.get(name, math.inf)
            if not lowest <= value <= highest or math.isinf(value):
                allowed = f"{lowest} to {highest:g}" if name in most else f"{lowest} and more"
                raise TimarError(f"--{name.replace('_', '-')} is {value}; {allowed} is allowed")
