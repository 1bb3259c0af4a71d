"""The own voice known before it is heard: a synthesiser's sound exists before it is played."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from timar_ros.rates import FRAME_SAMPLES
from timar_ros.stream.frames import Frame


def own_voice_ahead(frames: Sequence[Frame], count: int) -> tuple[Frame, ...]:
    """The frames, each with the own voice of `count` frames later; silence where there is none yet.

    For a policy alone: voice activity and turns are of the voices as they are heard.
    """
    if not count:
        return tuple(frames)
    silence = np.zeros(FRAME_SAMPLES, np.float32)
    later = [frame.own for frame in frames[count:]] + [silence] * min(count, len(frames))
    return tuple(replace(frame, own=own) for frame, own in zip(frames, later, strict=True))
