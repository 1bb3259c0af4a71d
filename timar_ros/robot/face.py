"""Servos of a face: from blendshapes to their positions, within their limits."""

import math
from collections.abc import Mapping

import numpy as np
import ruckig

from timar_ros.channels import ARKIT_BLENDSHAPES
from timar_ros.rates import FRAME_S
from timar_ros.robot.profile import Face


class FaceServos:
    """Follows blendshapes command after command, by Ruckig within position, speed, acceleration and jerk of each servo.

    It begins at rest.
    """

    def __init__(self, face: Face) -> None:
        self._map = np.array([[j.blendshapes.get(shape, 0.0) for shape in ARKIT_BLENDSHAPES] for j in face.joints])
        self._rest = np.array([j.rest for j in face.joints])
        limits = [j.limits for j in face.joints]
        self._lower = np.array([limit.lower for limit in limits])
        self._upper = np.array([limit.upper for limit in limits])
        self._names = [joint.name for joint in face.joints]
        self._ruckig = ruckig.Ruckig(len(limits))
        self._way = ruckig.Trajectory(len(limits))
        self._now = ruckig.InputParameter(len(limits))
        # Each servo by itself: a slow one does not hold back the others.
        self._now.synchronization = ruckig.Synchronization.No
        self._now.current_position = self._rest.tolist()
        self._now.max_velocity = [limit.velocity for limit in limits]
        self._now.max_acceleration = [limit.acceleration for limit in limits]
        self._now.max_jerk = [limit.jerk for limit in limits]
        self._target = self._rest

    def targets(self, weights: np.ndarray) -> np.ndarray:
        """[J] rad, positions for `weights` [52], within the range; where they are not finite, those before."""
        wanted = np.clip(self._rest + self._map @ weights, self._lower, self._upper)
        self._target = np.where(np.isfinite(wanted), wanted, self._target)
        return self._target

    def resume(self, positions: Mapping[str, float]) -> None:
        """Go on with servos that stand still at `positions`, rad, by name; where those are not finite, as commanded."""
        here = zip(self._names, self._now.current_position, strict=True)
        self._now.current_position = [
            positions[name] if math.isfinite(positions.get(name, math.nan)) else position for name, position in here
        ]
        self._now.current_velocity = self._now.current_acceleration = [0.0] * len(self._names)

    def step(self, weights: np.ndarray, seconds: float = FRAME_S) -> np.ndarray:
        """[J] rad, where the servos are to be `seconds` after they were where the last step had them."""
        self._now.target_position = self.targets(weights).tolist()
        if self._ruckig.calculate(self._now, self._way) in (ruckig.Result.Working, ruckig.Result.Finished):
            motion = self._way.at_time(seconds)
            self._now.current_position, self._now.current_velocity, self._now.current_acceleration = motion
        return np.clip(self._now.current_position, self._lower, self._upper)
