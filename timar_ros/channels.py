"""The channels of motion that every stage shares: head rotation and face, in one fixed order.

A motion vector holds 55 numbers: `HEAD_CHANNELS` (radians), then `ARKIT_BLENDSHAPES` (weights in
[0, 1]). Head rotation follows REP-103: x forward, y left, z up, in the frame the head has at rest.
Roll, pitch and yaw are fixed-axis angles (first roll about x, then pitch about y, then yaw about
z): positive roll tilts the head to its right shoulder, positive pitch nods down, positive yaw
turns left.
"""

import numpy as np

HEAD_CHANNELS = ("headRoll", "headPitch", "headYaw")

# Apple's order: ARFaceAnchor.BlendShapeLocation, left eye first, tongue last.
ARKIT_BLENDSHAPES = (
    "eyeBlinkLeft",
    "eyeLookDownLeft",
    "eyeLookInLeft",
    "eyeLookOutLeft",
    "eyeLookUpLeft",
    "eyeSquintLeft",
    "eyeWideLeft",
    "eyeBlinkRight",
    "eyeLookDownRight",
    "eyeLookInRight",
    "eyeLookOutRight",
    "eyeLookUpRight",
    "eyeSquintRight",
    "eyeWideRight",
    "jawForward",
    "jawLeft",
    "jawRight",
    "jawOpen",
    "mouthClose",
    "mouthFunnel",
    "mouthPucker",
    "mouthLeft",
    "mouthRight",
    "mouthSmileLeft",
    "mouthSmileRight",
    "mouthFrownLeft",
    "mouthFrownRight",
    "mouthDimpleLeft",
    "mouthDimpleRight",
    "mouthStretchLeft",
    "mouthStretchRight",
    "mouthRollLower",
    "mouthRollUpper",
    "mouthShrugLower",
    "mouthShrugUpper",
    "mouthPressLeft",
    "mouthPressRight",
    "mouthLowerDownLeft",
    "mouthLowerDownRight",
    "mouthUpperUpLeft",
    "mouthUpperUpRight",
    "browDownLeft",
    "browDownRight",
    "browInnerUp",
    "browOuterUpLeft",
    "browOuterUpRight",
    "cheekPuff",
    "cheekSquintLeft",
    "cheekSquintRight",
    "noseSneerLeft",
    "noseSneerRight",
    "tongueOut",
)

CHANNELS = HEAD_CHANNELS + ARKIT_BLENDSHAPES
MOTION_DIM = len(CHANNELS)


def quaternion_from_rpy(rpy: np.ndarray) -> np.ndarray:
    """Quaternions of fixed-axis roll, pitch, yaw.

    Args:
        rpy: [..., 3] rad.

    Returns:
        [..., 4] unit quaternions (x, y, z, w), as geometry_msgs orders them, with w >= 0.
    """
    half = np.asarray(rpy, dtype=np.float64) / 2.0
    cr, cp, cy = np.moveaxis(np.cos(half), -1, 0)
    sr, sp, sy = np.moveaxis(np.sin(half), -1, 0)
    quaternion = np.stack(
        [
            sr * cp * cy - cr * sp * sy,
            cr * sp * cy + sr * cp * sy,
            cr * cp * sy - sr * sp * cy,
            cr * cp * cy + sr * sp * sy,
        ],
        axis=-1,
    )
    return np.where(quaternion[..., 3:] < 0.0, -quaternion, quaternion)


def rpy_from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """Fixed-axis roll, pitch, yaw of quaternions; the inverse of `quaternion_from_rpy`.

    Args:
        quaternion: [..., 4] (x, y, z, w); any length but zero, it is normalised here.

    Returns:
        [..., 3] rad, pitch in [-pi/2, pi/2]. Where pitch is +-pi/2 only yaw -+ roll is determined.
    """
    quaternion = np.asarray(quaternion, dtype=np.float64)
    quaternion = quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True)
    x, y, z, w = np.moveaxis(quaternion, -1, 0)
    roll = np.arctan2(2.0 * (w * x + y * z), 1.0 - 2.0 * (x * x + y * y))
    pitch = np.arcsin(np.clip(2.0 * (w * y - z * x), -1.0, 1.0))
    yaw = np.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
    return np.stack([roll, pitch, yaw], axis=-1)
