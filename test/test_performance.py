"""Idle life, and how the policy's motion gives way to it and comes back."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from timar_ros.channels import CHANNELS, MOTION_DIM
from timar_ros.motion.idle import IdleLife
from timar_ros.motion.performance import Performance, Shown
from timar_ros.rates import FRAME_S

PITCH, YAW = CHANNELS.index("headPitch"), CHANNELS.index("headYaw")
BLINK, JAW = CHANNELS.index("eyeBlinkLeft"), CHANNELS.index("jawOpen")
FACE = 3
"""Where the face begins in a motion."""


def test_idle_life_blinks_breathes_and_looks_around_slightly():
    times = np.arange(0.0, 1200.0, FRAME_S)
    motion = IdleLife(3).at(times)
    closed = motion[:, BLINK] > 0.5
    assert np.count_nonzero(closed[1:] & ~closed[:-1]) / 20 == pytest.approx(17, abs=1)  # a minute
    np.testing.assert_array_equal(motion[:, BLINK], motion[:, CHANNELS.index("eyeBlinkRight")])
    assert np.radians(3) < np.ptp(motion[:, YAW]) < np.radians(20)
    between_glances = np.abs(np.gradient(motion[:, YAW])) < 1e-9
    assert np.ptp(motion[between_glances, PITCH]) > np.radians(0.9)
    assert np.abs(np.diff(motion[:, :FACE], axis=0)).max() < 1.0 * FRAME_S  # rad
    assert not motion[:, JAW].any()
    np.testing.assert_array_equal(motion[1000:1010], IdleLife(3).at(times[1000:1010]))


class Stage:
    """A policy that looks to the left with an open mouth."""

    def __init__(self) -> None:
        self.performance, self.frame = Performance(), 0

    def step(self, heard: bool, quiet: bool, frames: int) -> tuple[Shown, np.ndarray, np.ndarray]:
        """What is shown in the next frames, its roll, pitch and yaw, and idle life alone."""
        motion = np.zeros((frames, MOTION_DIM))
        motion[:, YAW], motion[:, JAW] = 0.2, 0.5
        times = (self.frame + np.arange(frames)) * FRAME_S
        self.frame += frames
        shown = self.performance.step(motion, [heard] * frames, [quiet] * frames, times)
        return shown, Rotation.from_quat(shown.rotations).as_euler("xyz"), IdleLife().at(times)


def test_while_somebody_speaks_the_policy_is_alone():
    stage = Stage()
    stage.step(True, False, 50)
    shown, rpy, idle = stage.step(True, False, 250)
    assert shown.face[:, JAW - FACE] == pytest.approx(0.5)
    assert rpy == pytest.approx(np.tile((0.0, 0.0, 0.2), (250, 1)))
    assert idle[:, BLINK].max() > 0.5 and not shown.face[:, BLINK - FACE].any()


def test_in_a_long_silence_of_both_idle_life_is_beside_the_policy():
    stage = Stage()
    stage.step(True, True, 60)
    shown, _, idle = stage.step(True, True, 250)
    assert shown.face[:, JAW - FACE] == pytest.approx(0.5)
    assert shown.face[:, BLINK - FACE] == pytest.approx(idle[:, BLINK])


def test_without_sound_idle_life_is_alone_and_new_sound_brings_the_policy_at_once():
    stage = Stage()
    stage.step(True, False, 50)
    stage.step(False, True, 60)
    shown, rpy, idle = stage.step(False, True, 250)
    assert not shown.face[:, JAW - FACE].any()
    assert rpy == pytest.approx(idle[:, :FACE], abs=1e-6)
    shown, _, _ = stage.step(True, False, 5)
    assert shown.face[-1, JAW - FACE] == pytest.approx(0.5)


def test_a_head_keeps_facing_its_target_while_it_nods():
    performance = Performance()
    performance.gaze.turn_to(np.array([0.0, 0.8]), np.array([-1.0, -1.0]), np.array([1.0, 1.0]))
    motion = np.zeros((100, MOTION_DIM))
    motion[:, PITCH] = 0.3
    shown = performance.step(motion, [True] * 100, [False] * 100, np.arange(100) * FRAME_S, idle_life=False)
    x, y, _ = Rotation.from_quat(shown.rotations[-1]).apply([1.0, 0.0, 0.0])
    assert np.arctan2(y, x) == pytest.approx(0.8, abs=1e-3)
