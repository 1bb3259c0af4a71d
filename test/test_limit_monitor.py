"""The onlooker that counts where a motion leaves the robot's limits."""

import numpy as np

from timar_ros.robot.limit_monitor import LimitMonitor, MotionLimits
from timar_ros.robot.trajectory_controller import JointMotion

STEP_NS = 10_000_000


def monitor():
    one = np.ones(1)
    return LimitMonitor(["yaw"], MotionLimits(-one, 3 * one, 2 * one, 20 * one, 400 * one))


def motion(position=0.0, velocity=0.0, acceleration=0.0):
    return JointMotion(np.array([position]), np.array([velocity]), np.array([acceleration]))


def watch(*motions):
    watching = monitor()
    return watching, [watching(k * STEP_NS, m) for k, m in enumerate(motions)]


def test_a_motion_within_the_limits_counts_nothing():
    t = np.arange(200) * STEP_NS * 1e-9
    watching, found = watch(*(motion(p, v, a) for p, v, a in zip(np.sin(t), np.cos(t), -np.sin(t), strict=True)))
    assert watching.total == 0 and not any(found)
    assert 0.49 < watching.peaks["velocity"] < 0.51


def test_positions_are_held_against_both_ends():
    for position, beyond in ((-1.0, 0), (3.0, 0), (-1.01, 1), (3.01, 1)):
        assert watch(motion(position))[0].counts["position"] == beyond


def test_reported_velocities_and_accelerations_count_beyond_a_thousandth():
    assert watch(motion(velocity=2.001))[0].total == 0
    _, [[violation]] = watch(motion(velocity=2.01))
    assert (violation.joint, violation.quantity, violation.limit) == ("yaw", "velocity", 2.0)
    assert watch(motion(acceleration=20.1))[0].counts["acceleration"] == 1


def test_a_jump_between_samples_counts_although_each_reports_rest():
    assert watch(motion(0.0), motion(0.1))[0].counts["velocity"] == 1
    assert watch(motion(velocity=0.0), motion(0.0, velocity=0.5))[0].counts["acceleration"] == 1


def test_jerk_counts_beyond_a_tenth():
    assert watch(motion(acceleration=0.0), motion(acceleration=4.3))[0].counts["jerk"] == 0
    assert watch(motion(acceleration=0.0), motion(acceleration=4.5))[0].counts["jerk"] == 1


def test_samples_on_both_sides_of_a_leap_back_of_the_clock_are_not_compared():
    watching = monitor()
    watching(10**12, motion(0.0))
    assert watching(10**11, motion(0.5)) == []
    watching(10**11 + STEP_NS, motion(0.6))
    assert watching.counts["velocity"] == 1
