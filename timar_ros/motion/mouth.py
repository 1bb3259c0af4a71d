"""Closes the mouth when speech is broken off, faster than the motion that was already drawn would."""

from __future__ import annotations

import math

import numpy as np

from timar_ros.motion.channels import ARKIT_BLENDSHAPES

SPEECH_SHAPES = np.array(
    [
        name in ("jawOpen", "mouthClose", "mouthFunnel", "mouthPucker", "tongueOut")
        or name.startswith(("mouthLowerDown", "mouthUpperUp", "mouthRoll", "mouthShrug", "mouthPress", "mouthStretch"))
        for name in ARKIT_BLENDSHAPES
    ]
)
"""bool [52]: the blendshapes that speech moves. A smile stays."""
CLOSING_NS = 120_000_000
"""Shown at 25 frames a second, the mouth is closed 160 ms after the order at the latest."""
CLOSED_NS = 160_000_000
"""Of frames from the silence after it, for so long: until the policy has closed the mouth itself."""
OPENING_NS = 160_000_000


class MouthCloser:
    """Scales the mouth's blendshapes of each frame that is shown; does nothing until `close`."""

    def __init__(self) -> None:
        self._closed_at_ns: int | None = None
        self._share = 1.0  # of the opening that was shown last
        self._share_before = 1.0

    def close(self, now_ns: int) -> None:
        """From now on; opens again by itself for what is said after now."""
        self._share_before = self._share
        self._closed_at_ns = now_ns

    def __call__(self, now_ns: int, stamp_ns: int, weights: np.ndarray) -> np.ndarray:
        """The weights [52] to show now of a frame captured at `stamp_ns`."""
        if self._closed_at_ns is None:
            return weights
        since_ns, after_ns = now_ns - self._closed_at_ns, stamp_ns - self._closed_at_ns - CLOSED_NS
        if after_ns >= OPENING_NS:
            self._closed_at_ns = None
            self._share = 1.0
            return weights
        if after_ns > 0:
            self._share = _eased(after_ns / OPENING_NS)
        else:
            self._share = self._share_before * _eased(1.0 - min(1.0, since_ns / CLOSING_NS))
        return np.where(SPEECH_SHAPES, weights * np.float32(self._share), weights)


def _eased(share: float) -> float:
    """From 0 to 1 without a corner at either end."""
    return 0.5 - 0.5 * math.cos(math.pi * share)
