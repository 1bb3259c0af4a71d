"""Motions of constant jerk, their extremes, and the time-optimal ones within limits."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from timar_ros.motion.limits import JerkMotion, JointLimiter, steps_within_limits
from timar_ros.robot.profile import JointLimits

LIMITS = JointLimits(lower=-0.6, upper=0.7, velocity=3.0, acceleration=40.0, jerk=2000.0)
NOW_NS = 1_760_000_000_123_456_789

STATES = st.tuples(st.floats(-0.3, 0.3), st.floats(-1.5, 1.5), st.floats(-15, 15)).map(np.array)
JERKS = arrays(np.float64, 12, elements=st.floats(-2000, 2000))


def motion(state: np.ndarray, jerks: np.ndarray, step_ns: int = 10_000_000) -> JerkMotion:
    times_ns = NOW_NS + step_ns * np.arange(len(jerks) + 1)
    return JerkMotion.integrate(state, times_ns, jerks)


def dense(motion: JerkMotion) -> np.ndarray:
    """[n, 3] states every 0.1 ms."""
    return motion.at(np.arange(motion.times_ns[0], motion.times_ns[-1], 100_000))


@given(STATES, JERKS)
def test_a_motion_passes_through_its_own_points(state, jerks):
    moving = motion(state, jerks)
    np.testing.assert_allclose(moving.at(moving.times_ns), moving.states)
    just_before = moving.at(moving.times_ns[1:] - 1)
    np.testing.assert_allclose(just_before, moving.states[1:], atol=1e-5)


@given(STATES, JERKS)
def test_velocity_and_acceleration_are_derivatives(state, jerks):
    states = dense(motion(state, jerks))
    slope = np.diff(states[:, :2], axis=0) / 1e-4
    np.testing.assert_allclose(slope, (states[1:, 1:] + states[:-1, 1:]) / 2, atol=2e-2)


@given(STATES, JERKS, st.integers(0, 120_000_000), st.integers(0, 120_000_000))
def test_a_part_of_a_motion_is_the_same_motion(state, jerks, first, second):
    moving = motion(state, jerks)
    start_ns, end_ns = NOW_NS + min(first, second), NOW_NS + max(first, second)
    part = moving.between(start_ns, end_ns)
    times_ns = np.linspace(0, end_ns - start_ns, 20).astype(np.int64) + start_ns
    np.testing.assert_allclose(part.at(times_ns), moving.at(times_ns), atol=1e-6)


@given(STATES, JERKS)
def test_turning_points_are_the_extremes_inside_the_stretches(state, jerks):
    moving = motion(state, jerks)
    positions, velocities = moving.turning_points()
    sampled = dense(moving)
    for column, turning in ((0, positions), (1, velocities)):
        known = np.concatenate([moving.states[:, column], turning])
        assert sampled[:, column].max() <= known.max() + 1e-9
        assert sampled[:, column].min() >= known.min() - 1e-9


@pytest.mark.parametrize(
    ("state", "jerk"),
    [
        ([0.69, 1.0, 0.0], 0.0),  # position
        ([0.0, 2.9, 20.0], 0.0),  # velocity
        ([0.0, 0.0, 39.0], 500.0),  # acceleration
        ([0.0, 0.0, 0.0], 2001.0),  # jerk
        ([0.6, 1.5, -40.0], 1000.0),  # position, only in between
        ([0.0, 2.9, 10.0], -1000.0),  # velocity, only in between
    ],
)
def test_a_motion_beyond_any_limit_is_told(state, jerk):
    limiter = JointLimiter(LIMITS)
    assert not limiter.keeps_limits(motion(np.array(state), np.array([jerk]), 80_000_000))


@given(
    st.tuples(st.floats(-0.65, 0.75), st.floats(-3.2, 3.2), st.floats(-42, 42)).map(np.array),
    arrays(np.float64, 8, elements=st.floats(-2100, 2100)),
)
@settings(max_examples=300)
def test_all_steps_at_once_are_judged_as_one_by_one(state, jerks):
    limiter, times_ns = JointLimiter(LIMITS), 10_000_000 * np.arange(9)
    kept = steps_within_limits([limiter], state[:, None], times_ns, jerks[None, :, None])
    one_by_one = [limiter.keeps_limits(JerkMotion.integrate(state, times_ns[: n + 1], jerks[:n])) for n in range(1, 9)]
    assert int(kept.item()) == sum(np.cumprod(one_by_one))


def test_a_joint_outside_its_range_may_come_back_but_go_no_further():
    limiter = JointLimiter(LIMITS)
    outside = np.array([0.75, 0.0, 0.0])
    back = limiter.reach(outside, NOW_NS, limiter.highest_target)
    further = limiter.reach(outside, NOW_NS, 0.76)
    assert limiter.keeps_limits(back)
    assert not limiter.keeps_limits(further)


@given(STATES, st.floats(0.0, 0.5))
def test_a_stop_ends_at_rest_within_acceleration_and_jerk(state, at_least_s):
    stop = JointLimiter(LIMITS).stop(state, NOW_NS, at_least_s)
    assert stop.times_ns[0] == NOW_NS
    assert stop.times_ns[-1] >= NOW_NS + at_least_s * 1e9 - 1
    assert (stop.states[-1, 1:] == 0.0).all()
    assert np.abs(dense(stop)[:, 2]).max(initial=0.0) <= LIMITS.acceleration
    assert np.abs(stop.jerks).max(initial=0.0) <= LIMITS.jerk


@given(STATES, st.floats(-0.58, 0.68))
@settings(max_examples=200)
def test_where_the_fastest_stop_keeps_the_limits_so_does_the_fastest_way_to_a_target(state, target):
    limiter = JointLimiter(LIMITS)
    assume(limiter.keeps_limits(limiter.stop(state, NOW_NS)))
    way = limiter.reach(state, NOW_NS, target)
    assert limiter.keeps_limits(way)
    np.testing.assert_allclose(way.states[-1], [target, 0.0, 0.0], atol=1e-6)
    states = dense(way)
    assert (np.abs(states[:, 1]) <= LIMITS.velocity).all()
    assert (states[:, 0] >= LIMITS.lower - 1e-6).all()
    assert (states[:, 0] <= LIMITS.upper + 1e-6).all()


def test_standing_still_at_the_target_is_a_motion_too():
    limiter = JointLimiter(LIMITS)
    still = limiter.reach(np.array([0.2, 0.0, 0.0]), NOW_NS, 0.2)
    assert limiter.keeps_limits(still)
    np.testing.assert_allclose(still.at(np.array([NOW_NS, NOW_NS + 10**9]))[:, 0], 0.2)


def test_where_ruckig_gives_up_there_is_no_motion_rather_than_an_error():
    wide = JointLimiter(JointLimits(-3.0, 3.0, velocity=1e3, acceleration=1e5, jerk=1e7))
    state = np.array([-0.009049995326298365, -0.01816575826643112, 0.08823122922827784])
    assert wide.stop(state, NOW_NS, 0.15) is None or wide.keeps_limits(wide.stop(state, NOW_NS, 0.15))
