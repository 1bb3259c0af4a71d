"""The own voice known before it is heard: a synthesiser's sound exists before it is played.

A policy that looks ahead is given each frame with the own voice of some frames later. Only the policy is: voice
activity, turns and the echo canceller hear the voices as they are heard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from timar_ros.rates import FRAME_SAMPLES
from timar_ros.stream.frames import Frame

LIPS_LEAD_MS = 60.0
LEAD_SPARED_MS = 20.0


def lips_lead_ms(lookahead_frames: int) -> float:
    """How much earlier the head is to show what belongs to a sound than the sound is played, ms.

    People open their mouths 120 ms ahead of the sound. The bundled policy does 20 ms ahead of the frame that it moves
    in, 50 ms with one frame of look-ahead and 70 ms with two and more (docs/decisions.md).
    """
    return max(0.0, LIPS_LEAD_MS - LEAD_SPARED_MS * lookahead_frames)


def own_voice_ahead(frames: Sequence[Frame], count: int) -> tuple[Frame, ...]:
    """The frames, each with the own voice of `count` frames later; silence where there is none yet."""
    if not count:
        return tuple(frames)
    silence = np.zeros(FRAME_SAMPLES, np.float32)
    later = [frame.own for frame in frames[count:]] + [silence] * min(count, len(frames))
    return tuple(replace(frame, own=own) for frame, own in zip(frames, later, strict=True))


def own_voice_as_known(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """The frames with the own voice of later as far as it was known live (`own_ahead`)."""
    return tuple(frame if frame.own_ahead is None else replace(frame, own=frame.own_ahead) for frame in frames)
