"""Head rotations on necks of one, two and three joints."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from timar_ros.channels import quaternion_from_rpy
from timar_ros.motion.retarget import Retargeter, head_rotations
from timar_ros.robot.profile import Command, Joint, JointLimits, RobotProfile

AXES = {"roll": 0, "pitch": 1, "yaw": 2}
CHAINS = [chain for length in (1, 2, 3) for chain in permutations(AXES, length)]
ROTATIONS = arrays(np.float64, (5, 3), elements=st.floats(-0.9, 0.9))


def neck(*axes: str, **joint: float) -> RobotProfile:
    limits = JointLimits(-3.0, 3.0, 3.0, 40.0, 2000.0)
    joints = tuple(Joint(f"neck_{axis}", axis, limits, **joint) for axis in axes)
    return RobotProfile("neck", joints, Command("joint_trajectory", "head"))


def orientation(chain: tuple[str, ...], positions: np.ndarray) -> Rotation:
    """Where the chain's end points: each joint turns all that follow it."""
    result = Rotation.identity(len(positions))
    for i, axis in enumerate(chain):
        result = result * Rotation.from_rotvec(positions[:, [i]] * np.eye(3)[AXES[axis]])
    return result


def wanted(rpy: np.ndarray) -> Rotation:
    return Rotation.from_quat(quaternion_from_rpy(rpy))


@pytest.mark.parametrize("chain", [chain for chain in CHAINS if len(chain) == 3])
@given(rpy=ROTATIONS)
@settings(max_examples=20)
def test_three_joints_in_any_order_reach_the_very_orientation(chain, rpy):
    positions = Retargeter(neck(*chain)).joints(rpy)
    distance = (wanted(rpy).inv() * orientation(chain, positions)).magnitude()
    np.testing.assert_allclose(distance, 0.0, atol=1e-7)


def test_a_chain_of_yaw_pitch_roll_takes_the_angles_as_they_are():
    rpy = np.array([[0.1, -0.3, 0.7], [-0.4, 0.5, -1.1]])
    joints = Retargeter(neck("yaw", "pitch", "roll")).joints(rpy)
    np.testing.assert_allclose(joints, rpy[:, ::-1], atol=1e-12)


@pytest.mark.parametrize("chain", [chain for chain in CHAINS if len(chain) < 3])
@given(rpy=ROTATIONS, nudge=st.floats(-0.3, 0.3), joint=st.integers(0, 1))
@settings(max_examples=20)
def test_missing_joints_leave_the_closest_orientation(chain, rpy, nudge, joint):
    positions = Retargeter(neck(*chain)).joints(rpy)
    elsewhere = positions.copy()
    elsewhere[:, joint % len(chain)] += nudge
    distance = (wanted(rpy).inv() * orientation(chain, positions)).magnitude()
    farther = (wanted(rpy).inv() * orientation(chain, elsewhere)).magnitude()
    assert (distance <= farther + 1e-9).all()


@pytest.mark.parametrize("chain", CHAINS)
def test_rotations_about_the_joints_own_axes_are_reached(chain):
    for i, axis in enumerate(chain):
        rpy = np.zeros((1, 3))
        rpy[0, AXES[axis]] = 0.4
        expected = np.zeros(len(chain))
        expected[i] = 0.4
        np.testing.assert_allclose(Retargeter(neck(*chain)).joints(rpy)[0], expected, atol=1e-9)


def test_sign_gain_and_offset_turn_angles_into_joint_positions():
    retargeter = Retargeter(neck("pitch", sign=-1.0, gain=0.5, offset=0.1))
    np.testing.assert_allclose(retargeter.joints(np.array([[0.0, 0.4, 0.0]])), [[-0.1]])


def test_intensity_scales_the_whole_rotation():
    retargeter = Retargeter(neck("yaw", "pitch", "roll", offset=0.05))
    rpy = np.array([[0.2, 0.3, -0.4]])
    chain = ("yaw", "pitch", "roll")
    half = orientation(chain, retargeter.joints(rpy, intensity=0.5) - 0.05)
    np.testing.assert_allclose((half * half).as_matrix(), wanted(rpy).as_matrix(), atol=1e-9)
    np.testing.assert_allclose(retargeter.joints(rpy, intensity=0.0), [[0.05, 0.05, 0.05]])


def test_intensity_above_1_enlarges_the_rotation():
    rpy = np.array([[0.2, 0.3, -0.4]])
    as_it_is, enlarged = (Rotation.from_quat(head_rotations(rpy, k)).as_rotvec() for k in (1.0, 1.5))
    np.testing.assert_allclose(enlarged, 1.5 * as_it_is)


def test_a_frame_that_is_not_finite_comes_out_as_nan_and_leaves_the_others_alone():
    rpy = np.array([[0.1, 0.0, 0.0], [np.nan, 0.0, 0.0], [0.0, np.inf, 0.0]])
    joints = Retargeter(neck("yaw", "roll")).joints(rpy)
    np.testing.assert_allclose(joints[0], [0.0, 0.1], atol=1e-12)
    assert np.isnan(joints[1:]).all()


def test_no_frames_give_no_joint_positions():
    assert Retargeter(neck("yaw", "pitch")).joints(np.zeros((0, 3))).shape == (0, 2)
