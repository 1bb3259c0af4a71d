"""Teaching the speech encoder: which shape has the mouth that is heard?

Of each frame heard it must tell the mouth's shapes then, and one to four frames before. Lips run ahead of their sound,
so the newest frame's can only be guessed; four frames later they have been heard. Without heads, turns and diffusion
a step of it is quick: it hears more speech in a minute than the whole network in ten.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from timar_ros.errors import TimarError
from timar_ros.learn.batches import Batches, batches
from timar_ros.learn.dataset import MOUTH, Conversation, known_channels
from timar_ros.learn.recipe import Recipe
from timar_ros.learn.uninterrupted import clip_gradients, keep, load_kept, uninterrupted
from timar_ros.model.config import NetworkConfig
from timar_ros.model.features import log_mel
from timar_ros.model.speech_encoder import SpeechEncoder

WINDOW_FRAMES = 96
TOLD_FRAMES = 5
LEARNING_RATE, WARMUP_SHARE = 1.5e-3, 0.1
SAVE_EVERY_S = 120.0


class MouthReading(nn.Module):
    """The encoder with a linear layer over what it heard, which is thrown away afterwards."""

    def __init__(self, encoder: SpeechEncoder, conversations: Sequence[Conversation]) -> None:
        super().__init__()
        shapes = MOUTH & known_channels(conversations)
        motion = np.concatenate([c.motion[..., shapes].reshape(-1, shapes.sum()) for c in conversations])
        self.encoder = encoder
        self.width = encoder.norm.normalized_shape[0]
        self.reading = nn.Linear(self.width, TOLD_FRAMES * int(shapes.sum()))
        self._shapes = np.flatnonzero(shapes).tolist()
        self.register_buffer("mean", torch.from_numpy(motion.mean(axis=0)))
        self.register_buffer("scale", torch.from_numpy(motion.std(axis=0).clip(0.02)))

    def forward(self, voices: Tensor, motion: Tensor) -> Tensor:
        """The mean squared error over voices [V, CONTEXT_SAMPLES + 640 T] with their motion [V, T, 55]."""
        heard, _ = self.encoder(log_mel(voices))
        told = self.reading(heard[..., -self.width :]).unflatten(-1, (TOLD_FRAMES, -1))
        shapes = (motion[..., self._shapes] - self.mean) / self.scale
        return torch.stack(
            [(told[:, ago:, ago] - shapes[:, : shapes.shape[1] - ago]).square().mean() for ago in range(TOLD_FRAMES)]
        ).mean()


def teach(
    encoder: SpeechEncoder,
    conversations: list[Conversation],
    recipe: Recipe,
    kept: Path,
    until: int | None = None,
    data: str = "",
) -> None:
    """Teach the encoder for `recipe.speech_steps`, in place.

    Args:
        kept: where its progress is; broken off, the same call goes on from there to the same result. What is finished
            there is taken as it is.
        until: stop after this step.
        data: what tells the conversations from others.

    Raises:
        TimarError: `kept` was made with other settings, or of other conversations.
    """
    taught = replace(
        recipe,
        steps=recipe.speech_steps,
        short_share=1.0,
        short_window_frames=WINDOW_FRAMES,
        short_open_groups=1,
        wandering=0.0,
    )
    device = next(encoder.parameters()).device
    reading = MouthReading(encoder, conversations).to(device).requires_grad_(True)
    optimizer = torch.optim.AdamW(reading.parameters(), weight_decay=0.01)
    settings = {name: getattr(taught, name) for name in ("steps", "batch", "seed")}
    settings |= {"width": reading.width, "data": data}
    step = 0
    if kept.exists():
        state = load_kept(kept, device)
        if state["settings"] != settings:
            raise TimarError(
                f"{kept} was made with other settings or of other data; give the same ones or another --out"
            )
        reading.load_state_dict(state["reading"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    begun = step

    def save() -> None:
        state = {"reading": reading.state_dict(), "optimizer": optimizer.state_dict()}
        keep(state | {"settings": settings, "step": step}, kept)

    last_step = taught.steps if until is None else min(until, taught.steps)
    saved, dataset = time.monotonic(), Batches(conversations, taught, NetworkConfig(max_lookahead_frames=0))
    progress = tqdm(total=taught.steps, initial=step, unit="step", desc="teaching the speech encoder", mininterval=5.0)
    try:
        for windows in batches(dataset, step, last_step, device):
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(step / taught.steps)
            with uninterrupted():
                loss = reading(windows.voices.flatten(0, 1), windows.motion.flatten(0, 1))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                clip_gradients(reading.parameters(), step)
                optimizer.step()
                step += 1
            progress.update()
            progress.set_postfix(loss=f"{loss.item():.3f}")
            if time.monotonic() - saved > SAVE_EVERY_S:
                save()
                saved = time.monotonic()
    finally:
        if step > begun:
            save()
    encoder.zero_grad(set_to_none=True)  # what is left of the last step would count when others' gradients are clipped
    encoder.requires_grad_(False)


def _learning_rate(done: float) -> float:
    """Linear warm-up, then a cosine to zero; `done` is the share of the steps."""
    if done < WARMUP_SHARE:
        return LEARNING_RATE * (done / WARMUP_SHARE + 1e-3)
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (done - WARMUP_SHARE) / (1 - WARMUP_SHARE)))
