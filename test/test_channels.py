"""The order of the channels and what the signs of roll, pitch and yaw mean."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from timar_ros.channels import (
    ARKIT_BLENDSHAPES,
    CHANNELS,
    HEAD_CHANNELS,
    MOTION_DIM,
    quaternion_from_rpy,
    rpy_from_quaternion,
)

FORWARD, LEFT, UP = np.eye(3)


def turned(vector: np.ndarray, roll: float = 0, pitch: float = 0, yaw: float = 0) -> np.ndarray:
    return Rotation.from_quat(quaternion_from_rpy(np.array([roll, pitch, yaw]))).apply(vector)


def test_a_motion_vector_is_the_head_and_then_apples_52_blendshapes():
    assert CHANNELS == HEAD_CHANNELS + ARKIT_BLENDSHAPES
    assert len(set(ARKIT_BLENDSHAPES)) == 52
    assert MOTION_DIM == len(CHANNELS) == 55
    assert ARKIT_BLENDSHAPES[0] == "eyeBlinkLeft"
    assert ARKIT_BLENDSHAPES[14:18] == ("jawForward", "jawLeft", "jawRight", "jawOpen")
    assert ARKIT_BLENDSHAPES[-1] == "tongueOut"


def test_every_left_blendshape_has_its_right_one():
    left = {name.removesuffix("Left") for name in ARKIT_BLENDSHAPES if name.endswith("Left")}
    right = {name.removesuffix("Right") for name in ARKIT_BLENDSHAPES if name.endswith("Right")}
    assert left == right


def test_positive_pitch_nods_down():
    assert turned(FORWARD, pitch=0.3) @ UP < 0


def test_positive_yaw_turns_left():
    assert turned(FORWARD, yaw=0.3) @ LEFT > 0


def test_positive_roll_tilts_to_the_right_shoulder():
    assert turned(UP, roll=0.3) @ LEFT < 0


@given(arrays(np.float64, (7, 3), elements=st.floats(-1.5, 1.5)))
def test_quaternions_are_those_of_fixed_axis_angles_and_lead_back_to_them(rpy):
    quaternions = quaternion_from_rpy(rpy)
    expected = Rotation.from_euler("xyz", rpy).as_quat(canonical=True)
    np.testing.assert_allclose(quaternions, expected, atol=1e-12)
    np.testing.assert_allclose(rpy_from_quaternion(quaternions), rpy, atol=1e-6)


@pytest.mark.parametrize("length", [0.1, -1.0, 30.0])
def test_a_quaternion_of_any_length_and_sign_means_the_same_rotation(length):
    rpy = np.array([0.1, -0.2, 0.3])
    np.testing.assert_allclose(rpy_from_quaternion(length * quaternion_from_rpy(rpy)), rpy)


def test_any_number_of_leading_dimensions_is_taken():
    assert quaternion_from_rpy(np.zeros((4, 5, 3))).shape == (4, 5, 4)
    assert rpy_from_quaternion(quaternion_from_rpy(np.zeros((4, 5, 3)))).shape == (4, 5, 3)
