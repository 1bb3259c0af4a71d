"""A step of training as a whole: weights, averages and step number that are saved belong together."""

from __future__ import annotations

import pickle
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from timar_ros.errors import TimarError

MOST_GRADIENT = 1.0


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP wait until what runs inside is complete."""
    if threading.current_thread() is not threading.main_thread():  # others get no signals
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in came:
        signal.raise_signal(number)


def clip_gradients(parameters: Iterable[nn.Parameter], step: int) -> None:
    """Bring all gradients together to a norm of 1 where it is more.

    Raises:
        TimarError: they are not finite, and the optimiser would spoil every weight with them.
    """
    try:
        torch.nn.utils.clip_grad_norm_(parameters, MOST_GRADIENT, error_if_nonfinite=True)
    except RuntimeError as error:
        raise TimarError(
            f"step {step}: gradients are not finite; what was learned before is saved. Look for motion or sound of "
            "absurd size in the data, or begin anew with a lower --learning-rate"
        ) from error


def keep(state: dict[str, Any], file: Path) -> None:
    """Write what a run goes on from; what was there before stays until that is whole.

    Raises:
        TimarError: it cannot be written.
    """
    part = file.with_suffix(".part")
    try:
        torch.save(state, part)
        part.replace(file)
    except (RuntimeError, OSError) as error:  # torch raises the first where the disk is full
        raise TimarError(f"{file} cannot be written ({str(error).splitlines()[0]}); is the disk full?") from error


def load_kept(file: Path, device: torch.device) -> dict[str, Any]:
    """What a run kept to go on from.

    Raises:
        TimarError: the file is damaged.
    """
    try:
        return torch.load(file, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise TimarError(f"{file} is damaged ({error}); remove it to begin anew, or give another --out") from error
