"""A run's batches of windows, prepared in processes of their own while the network learns from those before."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import joblib
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from timar_ros.learn.augment import prepare_sounds
from timar_ros.learn.dataset import Conversation
from timar_ros.learn.recipe import Recipe
from timar_ros.learn.windows import Windows, draw_window, require_longer
from timar_ros.model.config import NetworkConfig

MOST_PROCESSES = 32


class Batches(Dataset):
    """The batch of each step, which depends on seed, step and rank alone: a run that is resumed gets the same."""

    def __init__(
        self,
        conversations: list[Conversation],
        recipe: Recipe,
        config: NetworkConfig,
        rank: int = 0,
        heard_before: int = 0,
    ) -> None:
        require_longer(conversations, max(recipe.window_frames, recipe.short_window_frames))
        self._conversations = conversations
        self._recipe = recipe
        self._config = config
        self._rank = rank
        self._heard_before = heard_before

    def __getitem__(self, step: int) -> Windows:
        recipe, config = self._recipe, self._config
        rng = np.random.default_rng([recipe.seed, step, self._rank] if self._rank else [recipe.seed, step])
        short = rng.random() < recipe.short_share
        windows = [
            draw_window(
                rng,
                self._conversations,
                recipe.short_window_frames if short else recipe.window_frames,
                recipe.short_open_groups if short else recipe.open_groups,
                config.max_turn_frames,
                most_lookahead=config.max_lookahead_frames,
                wandering=recipe.wandering,
                heard_before=self._heard_before,
            )
            for _ in range(recipe.batch if short else max(1, recipe.batch // 2))
        ]
        return Windows.stack(windows, int(rng.integers(2**62)))


def _leave_signals_to_the_run(worker: int) -> None:
    """A signal to the whole group of processes is for the run, which ends its loaders once its step is complete."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def batches(dataset: Batches, first_step: int, last_step: int, device: torch.device) -> Iterator[Windows]:
    """The batches of the steps from `first_step` to before `last_step`, on the device."""
    prepare_sounds()  # here, so that the processes share them
    cores = joblib.cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # torchrun's workers of this machine
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first_step, last_step),
        num_workers=min(max(1, cores - 1), MOST_PROCESSES),
        pin_memory=device.type == "cuda",
        # Forked, they share the conversations; nothing in them touches a GPU.
        multiprocessing_context="fork" if sys.platform == "linux" else None,
        worker_init_fn=_leave_signals_to_the_run,
    )
    for windows in loader:
        yield windows.to(device)
