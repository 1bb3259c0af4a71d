"""The simulated controller takes, refuses and joins trajectories as ros2_control's does."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timar_ros.robot.trajectory_controller import JointTrajectoryController, TrajectoryRefusedError

JOINTS = ("yaw", "pitch")
SECOND = 1_000_000_000
NOW = 1_800_000_000 * SECOND


def time_message(ns):
    sec, nanosec = divmod(ns, SECOND)
    return SimpleNamespace(sec=sec, nanosec=nanosec)


def point(seconds, positions, velocities=(), accelerations=(), effort=()):
    return SimpleNamespace(
        time_from_start=time_message(round(seconds * SECOND)),
        positions=list(positions),
        velocities=list(velocities),
        accelerations=list(accelerations),
        effort=list(effort),
    )


def trajectory(*points, stamp_ns=0, joints=JOINTS):
    return SimpleNamespace(
        header=SimpleNamespace(stamp=time_message(stamp_ns)),
        joint_names=list(joints),
        points=list(points),
    )


def controller(**options):
    made = JointTrajectoryController(JOINTS, **options)
    made.sample(NOW)
    return made


def test_before_any_message_the_joints_are_held_where_they_started():
    motion = JointTrajectoryController(JOINTS, [0.1, -0.2]).sample(NOW)
    assert motion.positions.tolist() == [0.1, -0.2]
    assert motion.velocities.tolist() == [0.0, 0.0]


def test_with_stamp_zero_a_trajectory_starts_when_it_is_first_sampled():
    head = controller()
    head.accept(trajectory(point(1.0, [1.0, 2.0])), NOW)
    head.sample(NOW + 5 * SECOND)
    assert head.sample(NOW + 5 * SECOND + SECOND).positions.tolist() == [1.0, 2.0]


def test_positions_alone_are_joined_by_straight_lines():
    head = controller()
    head.accept(trajectory(point(0, [0, 0]), point(1, [1, -2]), stamp_ns=NOW), NOW)
    motion = head.sample(NOW + SECOND // 4)
    np.testing.assert_allclose(motion.positions, [0.25, -0.5])
    np.testing.assert_allclose(motion.velocities, [1, -2])


def test_positions_and_velocities_are_joined_by_cubics():
    head = controller()
    points = point(0, [0, 0], [0, 1]), point(2, [1, 0], [0, 0])
    head.accept(trajectory(*points, stamp_ns=NOW), NOW)
    motion = head.sample(NOW + SECOND)
    np.testing.assert_allclose(motion.positions, [0.5, 0.25])
    np.testing.assert_allclose(motion.velocities, [0.75, -0.25])


numbers = st.floats(-3, 3)


@settings(deadline=None)
@given(ends=st.lists(numbers, min_size=6, max_size=6), duration=st.floats(0.1, 2))
def test_positions_velocities_and_accelerations_are_joined_by_quintics(ends, duration):
    head = JointTrajectoryController(["yaw"], allow_nonzero_velocity_at_trajectory_end=True)
    first, second = ends[:3], ends[3:]
    points = [point(t, [p], [v], [a]) for t, (p, v, a) in ((0.0, first), (duration, second))]
    head.accept(trajectory(*points, stamp_ns=NOW, joints=["yaw"]), NOW)
    end_ns = NOW + round(duration * SECOND)
    for time_ns, expected in ((NOW, first), (end_ns - 1, second)):
        motion = head.sample(time_ns)
        found = [motion.positions[0], motion.velocities[0], motion.accelerations[0]]
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_quintic_reports_its_own_derivatives():
    head = controller()
    points = point(0, [0, 0], [1, 0], [0, 3]), point(1, [1, 1], [0, 0], [2, 0])
    head.accept(trajectory(*points, stamp_ns=NOW), NOW)
    step = 1e-4
    a, b, c = (head.sample(NOW + round((0.4 + k * step) * SECOND)) for k in range(3))
    np.testing.assert_allclose((c.positions - a.positions) / (2 * step), b.velocities, atol=1e-6)
    np.testing.assert_allclose((c.velocities - a.velocities) / (2 * step), b.accelerations, atol=1e-5)


def test_what_lies_in_the_past_is_skipped():
    head = controller()
    points = [point(k, [k, -k]) for k in range(5)]
    head.accept(trajectory(*points, stamp_ns=NOW - 2 * SECOND), NOW)
    np.testing.assert_allclose(head.sample(NOW + SECOND // 2).positions, [2.5, -2.5])


def test_until_the_first_point_the_head_moves_from_where_it_was_meant_to_be():
    head = controller(initial_positions=[1.0, 0.0])
    head.accept(trajectory(point(2, [0.0, 1.0]), stamp_ns=NOW), NOW)
    np.testing.assert_allclose(head.sample(NOW + SECOND).positions, [0.5, 0.5])


def test_a_new_trajectory_replaces_the_old_one_at_once_and_without_a_jump():
    head = controller()
    head.accept(trajectory(point(0, [0, 0]), point(10, [10, 10]), stamp_ns=NOW), NOW)
    head.sample(NOW + SECOND)
    head.accept(trajectory(point(0.5, [0, 0]), stamp_ns=NOW + SECOND), NOW + SECOND)
    np.testing.assert_allclose(head.sample(NOW + SECOND).positions, [1, 1])
    np.testing.assert_allclose(head.sample(NOW + SECOND * 5 // 4).positions, [0.5, 0.5])
    np.testing.assert_allclose(head.sample(NOW + 3 * SECOND).positions, [0, 0])


def test_after_the_last_point_the_head_rests_there():
    head = controller()
    head.accept(trajectory(point(1, [0.3, 0.4], [0, 0], [0, 0]), stamp_ns=NOW), NOW)
    motion = head.sample(NOW + 60 * SECOND)
    assert motion.positions.tolist() == [0.3, 0.4]
    assert not motion.velocities.any()


def test_joints_may_come_in_any_order():
    head = controller()
    head.accept(trajectory(point(1, [5, 6]), stamp_ns=NOW, joints=["pitch", "yaw"]), NOW)
    assert head.sample(NOW + SECOND).positions.tolist() == [6, 5]


def test_a_joint_left_out_is_held_where_partial_goals_are_allowed():
    head = controller(initial_positions=[0.7, 0.1], allow_partial_joints_goal=True)
    head.accept(trajectory(point(1, [5], [0]), stamp_ns=NOW, joints=["pitch"]), NOW)
    assert head.sample(NOW + SECOND).positions.tolist() == [0.7, 5]


def test_a_trajectory_that_ends_just_now_is_taken():
    head = controller()
    head.accept(trajectory(point(1, [1, 1]), stamp_ns=NOW - SECOND), NOW)
    assert head.sample(NOW).positions.tolist() == [1, 1]


REFUSED = {
    "a missing joint": (trajectory(point(1, [1]), joints=["yaw"]), "missing: pitch"),
    "no joints": (trajectory(point(1, []), joints=[]), "0 joints"),
    "an unknown joint": (trajectory(point(1, [1, 1]), joints=["yaw", "tail"]), "no joint tail"),
    "a joint named twice": (trajectory(point(1, [1, 1]), joints=["yaw", "yaw"]), "twice"),
    "no points": (trajectory(), "empty"),
    "a moving last point": (trajectory(point(1, [1, 1], [0, 0.1])), "joint pitch at 0.1 rad/s"),
    "a last point in the past": (
        trajectory(point(0.5, [1, 1]), stamp_ns=NOW - SECOND),
        "ends 500.0 ms in the past",
    ),
    "times that stand still": (
        trajectory(point(1, [1, 1]), point(1, [1, 1])),
        "points 0 and 1 do not rise",
    ),
    "times that fall": (
        trajectory(point(1, [1, 1]), point(2, [1, 1]), point(1.5, [1, 1])),
        "points 1 and 2 do not rise",
    ),
    "too few positions": (trajectory(point(1, [1])), "1 positions for 2 joints"),
    "no positions": (trajectory(point(1, [], [0, 0])), "no positions"),
    "too many velocities": (trajectory(point(1, [1, 1], [0, 0, 0])), "3 velocities"),
    "too few accelerations": (trajectory(point(1, [1, 1], [0, 0], [0])), "1 accelerations"),
    "efforts": (trajectory(point(1, [1, 1], effort=[1, 1])), "efforts"),
    "positions that are no numbers": (trajectory(point(1, [float("nan"), 1])), "not finite"),
    "infinite velocities": (
        trajectory(point(0.5, [1, 1], [float("inf"), 0]), point(1, [1, 1], [0, 0])),
        "not finite",
    ),
    "accelerations alone": (trajectory(point(1, [1, 1], [], [0, 0])), "without velocities"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what):
    message, reason = REFUSED[what]
    with pytest.raises(TrajectoryRefusedError, match=reason):
        controller().accept(message, NOW)


def test_a_refused_trajectory_leaves_the_running_one_alone():
    head = controller()
    head.accept(trajectory(point(0, [0, 0]), point(2, [2, 2]), stamp_ns=NOW), NOW)
    with pytest.raises(TrajectoryRefusedError):
        head.accept(trajectory(), NOW)
    np.testing.assert_allclose(head.sample(NOW + SECOND).positions, [1, 1])


def test_where_the_clock_goes_back_the_joints_are_held_until_a_message_comes():
    head, again = controller(), NOW - 100 * SECOND
    head.accept(trajectory(point(0, [0, 0]), point(2, [2, 2]), stamp_ns=NOW), NOW)
    head.sample(NOW + SECOND)
    for now in (again, again + SECOND):
        held = head.sample(now)
        assert held.positions.tolist() == [1, 1] and held.velocities.tolist() == [0, 0]
    head.accept(trajectory(point(1, [3, 3]), stamp_ns=again + SECOND), again + SECOND)
    np.testing.assert_allclose(head.sample(again + SECOND * 3 // 2).positions, [2, 2])


def test_a_message_after_the_clock_went_back_is_taken_before_the_next_sample():
    head, again = controller(), NOW - 100 * SECOND
    head.accept(trajectory(point(1, [1, 1])), again)
    head.sample(again)
    assert head.sample(again + SECOND).positions.tolist() == [1, 1]
