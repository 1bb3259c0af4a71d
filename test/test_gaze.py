"""The gaze: the head turns to a target as far as it can, and stays on one side of what is behind it."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from timar_ros.motion.gaze import Gaze, direction_to
from timar_ros.rates import FRAME_S
from timar_ros.robot.profile import RobotProfile

LOWEST, HIGHEST = np.array([-0.6, -1.2]), np.array([0.7, 1.2])


def turned(gaze: Gaze, frames: int) -> np.ndarray:
    """[frames, 2] pitch and yaw, rad."""
    return Rotation.from_quat(gaze.step(frames)).as_euler("xyz")[:, 1:]


def behind(degrees: float) -> np.ndarray:
    """The direction of a place at the height of the neck, so far to the left."""
    yaw = np.radians(degrees)
    return direction_to(np.array([np.cos(yaw), np.sin(yaw), 0.0]))


def test_a_target_behind_the_head_does_not_sweep_it_from_end_to_end():
    gaze = Gaze()
    gaze.turn_to(behind(178.0), LOWEST, HIGHEST)
    assert turned(gaze, 75)[-1] == pytest.approx([0.0, 1.2], abs=1e-3)
    for degrees in (-178.0, 178.0, -155.0, 182.0):
        gaze.turn_to(behind(degrees), LOWEST, HIGHEST)
        assert np.abs(turned(gaze, 25) - (0.0, 1.2)).max() < 1e-3
    gaze.turn_to(behind(-120.0), LOWEST, HIGHEST)
    assert turned(gaze, 75)[-1] == pytest.approx([0.0, -1.2], abs=1e-3)


def test_a_head_that_could_not_follow_comes_back_at_once():
    gaze = Gaze()
    gaze.turn_to(np.array([1.5, 1.5]), LOWEST, HIGHEST)
    assert turned(gaze, 75)[-1] == pytest.approx([0.7, 1.2], abs=1e-3)
    gaze.let_go()
    assert turned(gaze, 5)[-1, 1] < 1.15
    assert gaze.straight_ahead is False and turned(gaze, 100)[-1] == pytest.approx([0.0, 0.0], abs=1e-4)


def test_a_head_turns_to_its_target_at_an_easy_pace():
    gaze = Gaze()
    gaze.turn_to(np.array([0.5, 1.2]), LOWEST, HIGHEST)
    way = turned(gaze, 50)
    assert np.abs(np.diff(way, axis=0, prepend=0.0)).max() <= 1.5 * FRAME_S + 1e-9  # rad
    assert way[-1] == pytest.approx([0.5, 1.2], abs=0.01)


def test_the_range_of_a_neck_is_told_about_its_axes():
    stretch = RobotProfile.load("stretch")
    assert stretch.turns("yaw") == (-1.45, 1.45)
    assert stretch.turns("pitch") == (-0.74, 1.48)  # the joint looks up where it is positive
    assert stretch.turns("roll") == (0.0, 0.0)
    reachy = RobotProfile.load("reachy2")
    joint = next(joint for joint in reachy.joints if joint.axis == "pitch")
    lowest, highest = reachy.turns("pitch")
    assert lowest < 0.0 < highest and joint.offset != 0.0
    assert highest - lowest == pytest.approx(joint.limits.upper - joint.limits.lower)
