"""From the rotation of a person's head to the joint positions of a robot's neck.

The rotation is taken as a quaternion and split along the robot's own chain of joints, so that a
neck with another order of axes turns its head to the same orientation. A neck with fewer than
three joints takes the orientation closest to it: the one with the smallest angle in between.
"""

import numpy as np
from scipy.spatial.transform import Rotation

from timar_ros.channels import quaternion_from_rpy
from timar_ros.robot.profile import RobotProfile

# Index of each axis in REP-103: x forward, y left, z up.
_AXIS_INDEX = {"roll": 0, "pitch": 1, "yaw": 2}


class Retargeter:
    """Joint positions of one robot for head rotations; holds no state between calls."""

    def __init__(self, profile: RobotProfile) -> None:
        self._axes = [joint.axis for joint in profile.joints]
        self._scale = np.array([joint.sign * joint.gain for joint in profile.joints])
        self._offset = np.array([joint.offset for joint in profile.joints])

    def joints(self, rpy: np.ndarray, intensity: float = 1.0) -> np.ndarray:
        """Joint positions for head rotations [n, 3] rad, fixed-axis roll, pitch, yaw; see `joints_for`."""
        return self.joints_for(head_rotations(rpy, intensity))

    def joints_for(self, quaternions: np.ndarray) -> np.ndarray:
        """Joint positions, not yet limited.

        Args:
            quaternions: [n, 4] unit quaternions (x, y, z, w).

        Returns:
            [n, J] rad in chain order. Rows that hold NaN or infinity come out as NaN.
        """
        finite = np.isfinite(quaternions).all(axis=1)
        angles = chain_angles(np.where(finite[:, None], quaternions, (0.0, 0.0, 0.0, 1.0)), self._axes)
        return np.where(finite[:, None], angles * self._scale + self._offset, np.nan)


def head_rotations(rpy: np.ndarray, intensity: float = 1.0) -> np.ndarray:
    """Quaternions of head rotations, their angle multiplied by `intensity`.

    Args:
        rpy: [n, 3] rad, fixed-axis roll, pitch, yaw (see `timar_ros.channels`).
        intensity: factor on the angle of the whole rotation; 0 keeps the head straight ahead.

    Returns:
        [n, 4] (x, y, z, w). Rows that hold NaN or infinity come out as NaN.
    """
    rpy = np.asarray(rpy, dtype=np.float64).reshape(-1, 3)
    finite = np.isfinite(rpy).all(axis=1, keepdims=True)
    quaternions = quaternion_from_rpy(np.where(finite, rpy, 0.0))
    if intensity != 1.0:
        rotation_vectors = Rotation.from_quat(quaternions).as_rotvec()
        quaternions = Rotation.from_rotvec(rotation_vectors * intensity).as_quat()
    return np.where(finite, quaternions, np.nan)


def chain_angles(quaternions: np.ndarray, axes: list[str]) -> np.ndarray:
    """Angles of a chain of one to three joints that bring its end closest to each orientation.

    Args:
        quaternions: [n, 4] unit quaternions (x, y, z, w).
        axes: different ones of "roll", "pitch", "yaw", from the base to the end of the chain.

    Returns:
        [n, len(axes)] rad in [-pi, pi].
    """
    chain = [_AXIS_INDEX[axis] for axis in axes]
    if len(chain) == 3:
        return _euler_angles(Rotation.from_quat(quaternions).as_matrix(), *chain)
    vector, w = quaternions[:, :3], quaternions[:, 3]
    first = np.eye(3)[chain[0]]
    if len(chain) == 1:
        # The twist about the axis (swing-twist decomposition) is the closest rotation about it.
        half = np.arctan2(vector @ first, w)[:, None]
    else:
        # With u = (cos, sin) of the first joint's half angle and v of the second's, the chain's
        # quaternion is bilinear in u and v, and so is its scalar product with the target, whose
        # size is the cosine of half the angle in between: the best u and v are the leading
        # singular vectors.
        second = np.eye(3)[chain[1]]
        bilinear = np.stack([w, vector @ second, vector @ first, vector @ np.cross(first, second)], axis=-1).reshape(
            -1, 2, 2
        )
        left, _, right = np.linalg.svd(bilinear)
        half = np.stack(
            [np.arctan2(left[:, 1, 0], left[:, 0, 0]), np.arctan2(right[:, 0, 1], right[:, 0, 0])],
            axis=-1,
        )
    return np.arctan2(np.sin(2.0 * half), np.cos(2.0 * half))


def _euler_angles(matrices: np.ndarray, i: int, j: int, k: int) -> np.ndarray:
    """[n, 3] rad of rotations about the moving axes i, j, k, all different, from [n, 3, 3].

    Read off the product of the three rotation matrices. With the middle angle at +-pi/2 the other
    two are not unique.
    """
    parity = 1.0 if (j - i) % 3 == 1 else -1.0
    return np.stack(
        [
            np.arctan2(-parity * matrices[:, j, k], matrices[:, k, k]),
            np.arcsin(np.clip(parity * matrices[:, i, k], -1.0, 1.0)),
            np.arctan2(-parity * matrices[:, i, j], matrices[:, i, i]),
        ],
        axis=-1,
    )
