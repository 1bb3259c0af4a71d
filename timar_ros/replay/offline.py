"""Two recorded voices through turns and policy, as fast as the machine can: what the head node would do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from timar_ros.rates import FRAME_NS, FRAME_SAMPLES
from timar_ros.stream.frames import Frame
from timar_ros.stream.steppers import Stepper
from timar_ros.stream.turns import TurnSegmenter, TurnUpdate


@dataclass(frozen=True)
class HeardConversation:
    """Frames of two voices, each with what voice activity and turns made of it."""

    frames: tuple[Frame, ...]
    updates: tuple[TurnUpdate, ...]

    @property
    def speaking(self) -> np.ndarray:
        """[2, frames] bool, own voice and partner, as decided live (with the delay of the decision)."""
        return np.array([(u.own_speaking, u.partner_speaking) for u in self.updates], dtype=bool).T


def frames_of(own: np.ndarray, partner: np.ndarray) -> tuple[Frame, ...]:
    """Two voices (16 kHz mono) cut into frames from time 0; the shorter one is followed by silence."""
    count = max(len(own), len(partner)) // FRAME_SAMPLES
    voices = np.zeros((2, count * FRAME_SAMPLES), np.float32)
    for row, voice in zip(voices, (own, partner), strict=True):
        row[: len(voice)] = voice[: len(row)]
    pairs = voices.reshape(2, count, FRAME_SAMPLES).transpose(1, 0, 2)
    return tuple(Frame(i, i * FRAME_NS, own, partner, True, True) for i, (own, partner) in enumerate(pairs))


def hear(own: np.ndarray, partner: np.ndarray, hop_frames: int = 2) -> HeardConversation:
    """Cut two voices (16 kHz mono) into frames and turns."""
    return hear_frames(frames_of(own, partner), hop_frames)


def hear_frames(frames: Sequence[Frame], hop_frames: int = 2, turns: str = "floor") -> HeardConversation:
    """Cut frames into turns, as the live segmentation does."""
    segmenter = TurnSegmenter(turns, hop_frames=hop_frames)
    updates = (segmenter.step(frame.own, frame.partner, frame.partner_heard) for frame in frames)
    return HeardConversation(tuple(frames), tuple(updates))


def move(
    policy: Stepper, heard: HeardConversation, hop_frames: int = 2, hops: Sequence[int] | None = None
) -> np.ndarray:
    """Motion [frames, 55] of a heard conversation, hop by hop from a fresh start.

    Args:
        hops: frames of each hop as they went live, where late hops were merged; else each has `hop_frames`, and what
            does not fill one at the end is left out.
    """
    return np.concatenate(list(hop_motions(policy, heard, hop_frames, hops)))


def hop_motions(
    policy: Stepper, heard: HeardConversation, hop_frames: int = 2, hops: Sequence[int] | None = None
) -> Iterator[np.ndarray]:
    """The same hop by hop; the policy may be looked at in between."""
    policy.reset()
    first = 0
    for count in hops or [hop_frames] * (len(heard.frames) // hop_frames):
        hop = slice(first, first + count)
        boundaries = [boundary for update in heard.updates[hop] for boundary in update.boundaries]
        yield policy.step(heard.frames[hop], boundaries)
        first += count
