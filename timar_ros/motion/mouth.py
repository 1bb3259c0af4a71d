"""Closes the mouth when speech is broken off, faster than the motion that was already drawn would, until it goes on."""

from __future__ import annotations

import math

import numpy as np

from timar_ros.channels import ARKIT_BLENDSHAPES

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
OPENING_NS = 160_000_000


class MouthCloser:
    """Scales the mouth's blendshapes of each frame that is shown; does nothing until `close`.

    What a policy expects of a sentence goes on for half a second after it was broken off, so the mouth stays closed
    until it is told to open.
    """

    def __init__(self) -> None:
        self._closed = False
        self._since_ns: int | None = None  # of the order that is being carried out
        self._share = 1.0  # of the opening that was shown last
        self._share_before = 1.0

    def close(self, now_ns: int) -> None:
        """From now on, until it is told to open."""
        self._turn(True, now_ns)

    def open(self, now_ns: int) -> None:
        """From now on, over `OPENING_NS`: something is said again. An open mouth stays as it is."""
        if self._closed:
            self._turn(False, now_ns)

    def __call__(self, now_ns: int, weights: np.ndarray) -> np.ndarray:
        """The weights [52] to show now."""
        if self._since_ns is None:
            return weights
        done = (now_ns - self._since_ns) / (CLOSING_NS if self._closed else OPENING_NS)
        if self._closed:
            self._share = self._share_before * _eased(1.0 - done)
        else:
            self._share = self._share_before + (1.0 - self._share_before) * _eased(done)
            if done >= 1.0:
                self._since_ns = None
        return np.where(SPEECH_SHAPES, weights * np.float32(self._share), weights)

    def _turn(self, closed: bool, now_ns: int) -> None:
        self._share_before = self._share
        self._closed, self._since_ns = closed, now_ns


def _eased(share: float) -> float:
    """From 0 to 1 without a corner at either end."""
    return 0.5 - 0.5 * math.cos(math.pi * min(1.0, max(0.0, share)))
