"""Training windows cut from conversations, with copies of turns as they look while they are open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from timar_ros.errors import TimarError
from timar_ros.learn.augment import degrade
from timar_ros.learn.dataset import Conversation
from timar_ros.model.features import CONTEXT_SAMPLES
from timar_ros.rates import FRAME_SAMPLES
from timar_ros.stream.turns import LONGEST_DECISION_FRAMES


@dataclass(frozen=True)
class OpenTurns:
    """Copies of unfinished turns of a window, side by side: what the network is asked to complete.

    Each field is [slots]: the frame of the window that a slot copies, the number of its copy, its turn's first
    frame, whether its motion is to be drawn, and the last frame before that whose motion is given (-1: the window
    begins here).
    """

    frame: np.ndarray
    copy: np.ndarray
    turn_start: np.ndarray
    masked: np.ndarray
    basis: np.ndarray


# Most hops have few frames; the others have as many new ones as a turn can.
USUAL_HOP_FRAMES, MANY_NEW = 4, 0.25


def draw_open_turns(
    rng: np.random.Generator, turn_starts: np.ndarray, frames: int, groups: int, max_turn_frames: int
) -> OpenTurns:
    """Cut turns at random, as they look while they are open, until `groups` of `max_turn_frames` slots are full.

    No copy crosses from one group to the next.

    Args:
        turn_starts: [n] first frames of the window's turns, rising from 0.
        frames: length of the window.
    """
    ends = np.append(turn_starts[1:], frames)
    parts: list[tuple[np.ndarray, ...]] = []
    free = groups * max_turn_frames
    while free > 0:
        turn = rng.integers(len(turn_starts))
        start = int(turn_starts[turn])
        longest = min(
            # Until a change of the floor is sure, the frames behind it still count to the old turn.
            ends[turn] - start + rng.integers(LONGEST_DECISION_FRAMES + 1),
            max_turn_frames,
            frames - start,
            free % max_turn_frames or max_turn_frames,
        )
        length = int(rng.integers(1, longest + 1))
        new = int(rng.integers(1, length + 1 if rng.random() < MANY_NEW else min(length, USUAL_HOP_FRAMES) + 1))
        place = np.arange(length)
        parts.append(
            (
                start + place,
                np.full(length, len(parts)),
                np.full(length, start),
                place >= length - new,
                np.full(length, start + length - new - 1),
            )
        )
        free -= length
    return OpenTurns(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@dataclass(frozen=True)
class Window:
    """A training window seen by one party: voices [2, CONTEXT_SAMPLES + 640 (P + T)] (own, partner), motion
    [2, T, 55], turns.

    P frames are heard before the window begins. The own voice runs `lookahead` frames ahead of everything else. The
    nods [T] are the party's own. `given` [T, 55] is the motion that the party remembers: its own, or what a policy drew
    in its place.
    """

    voices: np.ndarray
    heard: np.ndarray
    motion: np.ndarray
    turn_starts: np.ndarray
    open_turns: OpenTurns
    nod_place: np.ndarray
    nod_ahead: np.ndarray
    given: np.ndarray
    lookahead: int = 0


def require_longer(conversations: Sequence[Conversation], frames: int) -> None:
    """TimarError where no conversation is longer than a window."""
    if not any(conversation.frames > frames for conversation in conversations):
        raise TimarError(
            f"no conversation is longer than a training window of {frames} frames; longer recordings are needed"
        )


def draw_window(
    rng: np.random.Generator,
    conversations: Sequence[Conversation],
    frames: int,
    groups: int,
    max_turn_frames: int,
    clean: bool = False,
    most_lookahead: int = 0,
    wandering: float = 0.0,
    heard_before: int = 0,
) -> Window:
    """One window of a random conversation from the view of a random party, its sound degraded unless `clean`.

    The own voice runs ahead by 0 to `most_lookahead` frames, each as likely. With the probability `wandering` it is one
    in which a policy wandered, if there is one, and what that drew is given. So many frames as `heard_before` of the
    voices come before the window, as a speech encoder that listens on and on has heard them.
    """
    wandered = [c for c in conversations if c.drawn is not None and c.frames > frames]
    lived = rng.random() < wandering and bool(wandered)
    among = wandered if lived else conversations
    require_longer(among, frames)
    weights = np.array([max(conversation.frames - frames, 0) for conversation in among], float)
    conversation = among[rng.choice(len(among), p=weights / weights.sum())]
    start = int(rng.integers(conversation.frames - frames))
    order = [0, 1] if rng.random() < 0.5 else [1, 0]
    lookahead = int(rng.integers(most_lookahead + 1))
    voices = np.stack(
        [
            _stretch(conversation.voices[party], start + ahead - heard_before, heard_before + frames)
            for party, ahead in zip(order, (lookahead, 0), strict=True)
        ]
    )
    heard = np.ones((2, heard_before + frames), bool)
    if not clean:
        voices, heard = degrade(rng, voices, heard_before + frames, lead=lookahead * FRAME_SAMPLES)
    inside = conversation.turn_starts - start
    inside = np.unique(np.append(inside[(inside > 0) & (inside < frames)], 0))
    return Window(
        voices=voices.astype(np.float32),
        heard=heard[:, heard_before:],
        motion=conversation.motion[order, start : start + frames],
        turn_starts=inside,
        open_turns=draw_open_turns(rng, inside, frames, groups, max_turn_frames),
        nod_place=conversation.nod_place[order[0], start : start + frames],
        nod_ahead=conversation.nod_ahead[order[0], start : start + frames],
        given=(conversation.drawn if lived else conversation.motion)[order[0], start : start + frames],
        lookahead=lookahead,
    )


def _stretch(voice: np.ndarray, start: int, frames: int) -> np.ndarray:
    """[CONTEXT_SAMPLES + 640 frames] float32 of a voice int16 from frame `start` on; silence where it has none."""
    first, end = start * FRAME_SAMPLES - CONTEXT_SAMPLES, (start + frames) * FRAME_SAMPLES
    inside = voice[max(first, 0) : end] / np.float32(32768)
    return np.pad(inside, (max(-first, 0), max(end - len(voice), 0)))


@dataclass(frozen=True)
class Windows:
    """B equally long windows as tensors: T frames of history, then the S slots of their open turns.

    Attributes:
        voices: [B, 2, CONTEXT_SAMPLES + 640 (P + T)] own, partner, P frames of them from before.
        heard: [B, 2, T] bool. motion: [B, 2, T, 55]. given: [B, T, 55]. nod_place, nod_ahead: [B, T]. lookahead: [B].
        frame, turn_start, copy: [B, T + S] the frame of the window, its turn's first frame, and its copy; history is
            copy -1, so that a copy's turn is told from the closed turn it was cut from.
        masked, basis: [B, S] as in `OpenTurns`.
        seed: of all that is drawn at random for them afterwards.
    """

    voices: Tensor
    heard: Tensor
    motion: Tensor
    given: Tensor
    nod_place: Tensor
    nod_ahead: Tensor
    lookahead: Tensor
    frame: Tensor
    turn_start: Tensor
    copy: Tensor
    masked: Tensor
    basis: Tensor
    seed: int

    @classmethod
    def stack(cls, windows: Sequence[Window], seed: int) -> Windows:
        alike = ("voices", "heard", "motion", "given", "nod_place", "nod_ahead")
        arrays = {name: np.stack([getattr(window, name) for window in windows]) for name in alike}
        for name in ("masked", "basis"):
            arrays[name] = np.stack([getattr(window.open_turns, name) for window in windows])
        frames = np.arange(windows[0].motion.shape[1])
        # Turn starts rise from 0, so each history frame's turn begins at the last start that is not behind it.
        starts = [window.turn_starts[np.searchsorted(window.turn_starts, frames, "right") - 1] for window in windows]
        histories = {"frame": [frames] * len(windows), "turn_start": starts, "copy": [frames * 0 - 1] * len(windows)}
        for name, history in histories.items():
            opened = [getattr(window.open_turns, name) for window in windows]
            arrays[name] = np.stack([np.concatenate(parts) for parts in zip(history, opened, strict=True)])
        arrays["lookahead"] = np.array([window.lookahead for window in windows])
        return cls(**{name: torch.from_numpy(array) for name, array in arrays.items()}, seed=seed)

    def to(self, device: torch.device) -> Windows:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Windows:
        """For torch's DataLoader: copies to a GPU then run beside everything else."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Windows:
        tensors = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "seed"}
        return Windows(**{name: change(tensor) for name, tensor in tensors.items()}, seed=self.seed)
