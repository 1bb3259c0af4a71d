"""Turning the head to a place, such as the face of the person in front of it.

The learned motion rides on the gaze as an offset: the head keeps facing the target while it nods.
"""

import numpy as np

from timar_ros.channels import quaternion_from_rpy
from timar_ros.rates import FRAME_S

# The turn is that of a critically damped spring of this stiffness, no faster than this: a head that turns to a new
# place needs about 0.7 s.
_STIFFNESS_PER_S = 7.0
_FASTEST = 1.5  # rad/s
# Nearer to the neck than this there is no telling which way it is.
_NEAREST_M = 0.05
_ARRIVED = 1e-6  # rad, rad/s
# A target further round than this is behind the head: it may be on the other side in the next moment.
_BEHIND = np.radians(150.0)


def direction_to(point: np.ndarray) -> np.ndarray | None:
    """[2] pitch and yaw, rad, that face `point` [3], m, from the origin (x forward, y left, z up); None too near."""
    x, y, z = point
    if not np.isfinite(point).all() or np.linalg.norm(point) < _NEAREST_M:
        return None
    return np.array([-np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)])


class Gaze:
    """Follows a direction, frame after frame; straight ahead without one."""

    def __init__(self) -> None:
        self._target = np.zeros(2)
        self._turned = np.zeros(2)
        self._speed = np.zeros(2)

    def turn_to(self, pitch_yaw: np.ndarray, lowest: np.ndarray, highest: np.ndarray) -> None:
        """Set the direction to turn to, [2] rad, within the neck's range from `lowest` to `highest`, [2] rad each.

        For a target behind the head, the head stays on the side to which it is turned.
        """
        pitch, yaw = pitch_yaw
        if abs(yaw) > _BEHIND and yaw * self._turned[1] < 0.0:
            yaw -= np.copysign(2.0 * np.pi, yaw)
        self._target = np.clip((pitch, yaw), lowest, highest)

    def let_go(self) -> None:
        """Turn straight ahead."""
        self._target = np.zeros(2)

    @property
    def straight_ahead(self) -> bool:
        """Whether the head looks straight ahead and means to go on so."""
        return not (self._target.any() or self._speed.any() or np.abs(self._turned).max() > _ARRIVED)

    def step(self, frames: int) -> np.ndarray:
        """[frames, 4] the head's rotation in the next frames (x, y, z, w)."""
        turned = np.zeros((frames, 3))
        for row in turned:
            # Exact for a spring without the bound on its speed, so that frames of 40 ms are no coarse step.
            apart = self._turned - self._target
            pull = self._speed + _STIFFNESS_PER_S * apart
            decay = np.exp(-_STIFFNESS_PER_S * FRAME_S)
            step = self._target + (apart + pull * FRAME_S) * decay - self._turned
            speed = (self._speed - _STIFFNESS_PER_S * pull * FRAME_S) * decay
            fastest = float(np.abs(step).max()) / (_FASTEST * FRAME_S)
            self._turned = self._turned + step / max(fastest, 1.0)
            self._speed = np.clip(speed, -_FASTEST, _FASTEST)
            if max(np.abs(self._turned - self._target).max(), np.abs(self._speed).max()) < _ARRIVED:
                self._turned, self._speed = self._target, np.zeros(2)
            row[1:] = self._turned
        return quaternion_from_rpy(turned)
