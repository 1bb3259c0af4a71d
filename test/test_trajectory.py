"""The planner's messages as a joint_trajectory_controller plays them, seen every millisecond."""

import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timar_ros.errors import TimarError
from timar_ros.motion.trajectory import Trajectory, TrajectoryPlanner
from timar_ros.rates import FRAME_NS
from timar_ros.robot.limit_monitor import LimitMonitor, MotionLimits
from timar_ros.robot.profile import Command, Joint, JointLimits, RobotProfile
from timar_ros.robot.trajectory_controller import JointTrajectoryController

MS = 1_000_000
START_NS = 1_760_000_000_123_456_789
RANGES = {"yaw": (-1.2, 1.2), "pitch": (-0.6, 0.7), "roll": (-0.5, 0.5)}


def robot(velocity: float = 3.0, acceleration: float = 40.0, jerk: float = 2000.0) -> RobotProfile:
    """The generic neck, or one with other limits."""
    joints = tuple(
        Joint(f"neck_{axis}", axis, JointLimits(lower, upper, velocity, acceleration, jerk))
        for axis, (lower, upper) in RANGES.items()
    )
    return RobotProfile("robot", joints, Command("joint_trajectory", "head"))


LIVELY, SLOW = robot(), robot(velocity=1.0, acceleration=5.0, jerk=100.0)


@dataclass
class Head:
    """A controller that plays what it is sent, and everything that an onlooker sees of it."""

    profile: RobotProfile
    start: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def __post_init__(self):
        self.controller = JointTrajectoryController(self.profile.joint_names, self.start)
        limits = [joint.limits for joint in self.profile.joints]
        names = ("lower", "upper", "velocity", "acceleration", "jerk")
        bounds = MotionLimits(*(np.array([getattr(x, name) for x in limits]) for name in names))
        self.monitor = LimitMonitor(self.profile.joint_names, bounds)
        self.times_ns, self.states = [], []

    def send(self, trajectory: Trajectory, now_ns: int) -> None:
        stamp_ns = int(trajectory.times_ns[0]) - 20 * MS
        points = [
            SimpleNamespace(
                time_from_start=ros_time(t - stamp_ns),
                positions=p,
                velocities=v,
                accelerations=a,
                effort=[],
            )
            for t, p, v, a in zip(
                trajectory.times_ns.tolist(),
                trajectory.positions,
                trajectory.velocities,
                trajectory.accelerations,
                strict=True,
            )
        ]
        header = SimpleNamespace(stamp=ros_time(stamp_ns))
        message = SimpleNamespace(header=header, joint_names=list(self.profile.joint_names), points=points)
        self.controller.accept(message, now_ns)

    def look(self, now_ns: int) -> None:
        motion = self.controller.sample(now_ns)
        self.times_ns.append(now_ns)
        self.states.append([motion.positions, motion.velocities, motion.accelerations])
        if len(self.times_ns) % 2:  # the monitor differentiates samples 2 ms apart
            self.monitor(now_ns, motion)


def ros_time(ns: int) -> SimpleNamespace:
    return SimpleNamespace(sec=ns // 10**9, nanosec=ns % 10**9)


def play(
    profile: RobotProfile,
    targets: np.ndarray,
    hop_frames: int = 2,
    lead_ms: np.ndarray | int = 10,
    transit_ms: int = 2,
    start: np.ndarray | None = None,
    **planner: float,
) -> tuple[Head, list[Trajectory]]:
    """Frame k of `targets` [n, J] is due at START_NS + k frames; its hop is planned `lead_ms`
    before the hop's window begins (negative: after), and arrives `transit_ms` later."""
    start = np.zeros(3) if start is None else start
    head = Head(profile, start)
    plan = TrajectoryPlanner(profile, hop_frames, **planner)
    plan.resume(start)
    hops = range(0, len(targets) - hop_frames + 1, hop_frames)
    leads = np.broadcast_to(lead_ms, len(hops))
    ready_ns = [START_NS + (first - 1) * FRAME_NS - int(lead) * MS for first, lead in zip(hops, leads, strict=True)]
    ready_ns = np.maximum.accumulate(ready_ns)  # hops are planned in order
    trajectories, in_transit = [], []
    todo = list(zip(ready_ns.tolist(), hops, strict=True))
    now_ns = START_NS - 300 * MS
    end_ns = now_ns + 1
    while now_ns < end_ns or todo:
        while todo and todo[0][0] <= now_ns:
            planned_ns, first = todo.pop(0)
            hop = targets[first : first + hop_frames]
            trajectories.append(plan.plan(hop, START_NS + first * FRAME_NS, planned_ns))
            end_ns = int(trajectories[-1].times_ns[-1]) + 50 * MS
            in_transit.append((planned_ns + transit_ms * MS, trajectories[-1]))
        while in_transit and in_transit[0][0] <= now_ns:
            head.send(in_transit.pop(0)[1], now_ns)
        head.look(now_ns)
        now_ns += MS
    return head, trajectories


def assert_kept_limits(head: Head) -> None:
    """Position, velocity and acceleration as sampled and as differentiated, jerk as the latter."""
    assert head.monitor.total == 0, (head.monitor.counts, head.monitor.peaks)
    assert head.monitor.peaks["jerk"] < 1.02


def assert_came_to_rest(head: Head) -> None:
    assert (np.abs(head.states[-1][1:]) < 1e-9).all()


def delay_ms(head: Head, target_at, after_s: float) -> tuple[float, float]:
    """The delay behind `target_at(seconds)` that fits best, and the rms distance left, in rad."""
    seconds = (np.array(head.times_ns) - START_NS) * 1e-9
    inside = (seconds > after_s) & (seconds < seconds[-1] - 0.5)
    positions = np.array(head.states)[inside, 0]
    delays = np.arange(-30, 100)
    apart = [positions - target_at(seconds[inside] - delay / 1e3) for delay in delays]
    rms = np.sqrt(np.mean(np.square(apart), axis=(1, 2)))
    best = int(np.argmin(rms))
    return float(delays[best]), float(rms[best])


def swing(seconds: np.ndarray) -> np.ndarray:
    """[n, 3]: 10 degrees at 2 Hz, each joint in its own phase."""
    return np.radians(10) * np.sin(2 * np.pi * 2 * seconds[:, None] + np.array([0.0, 1.0, 2.0]))


def gesture(seconds: np.ndarray) -> np.ndarray:
    """[n, 3]: a slow drift with nods on it."""
    nod = np.radians(4) * np.sin(2 * np.pi * 2.5 * seconds) * np.sin(2 * np.pi * 0.3 * seconds) ** 2
    drift = np.radians(12) * np.sin(2 * np.pi * 0.4 * seconds)
    return np.stack([drift, nod + 0.3 * drift, 0.5 * drift], axis=1)


@pytest.mark.parametrize("hop_frames", [1, 2, 4])
@pytest.mark.parametrize("target_at", [swing, gesture])
def test_motion_a_head_can_do_is_done_when_due(hop_frames, target_at):
    targets = target_at(np.arange(100) * 0.04)
    head, _ = play(LIVELY, targets, hop_frames)
    delay, rms = delay_ms(head, target_at, after_s=1.0)
    assert abs(delay) <= 12
    assert rms < np.radians(0.7)
    assert_kept_limits(head)


@st.composite
def targets_of_any_kind(draw) -> np.ndarray:
    """[30, 3]: a random walk, or positions without any relation, many of them out of range."""
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    step = draw(st.sampled_from([0.005, 0.03, 0.1, None]))
    if step is None:
        return random.uniform(-2, 2, (30, 3))
    return random.normal(0, step, (30, 3)).cumsum(axis=0)


@given(
    targets=targets_of_any_kind(),
    lead_ms=st.lists(st.integers(-250, 60), min_size=30, max_size=30),
    hop_frames=st.sampled_from([1, 2, 3]),
    profile=st.sampled_from([LIVELY, SLOW]),
    transit_ms=st.integers(0, 19),
)
@settings(max_examples=25, deadline=None)
def test_whatever_comes_whenever_no_limit_is_broken_and_the_head_comes_to_rest(
    targets, lead_ms, hop_frames, profile, transit_ms
):
    leads = np.array(lead_ms[: len(targets) // hop_frames])
    head, trajectories = play(profile, targets, hop_frames, leads, transit_ms=transit_ms, ease_in_ms=0)
    assert_kept_limits(head)
    assert_came_to_rest(head)
    for trajectory in trajectories:
        assert (np.diff(trajectory.times_ns) > 0).all()
        assert (trajectory.velocities[-1] == 0.0).all()
        assert (trajectory.accelerations[-1] == 0.0).all()


@pytest.mark.parametrize("amplitude", [0.3, 5.0])
def test_full_swings_to_and_fro_stay_in_range(amplitude):
    targets = np.repeat(amplitude * (-1.0) ** np.arange(12), 5)[:, None] * np.ones(3)
    for profile in (LIVELY, SLOW):
        head, _ = play(profile, targets, ease_in_ms=0)
        assert_kept_limits(head)


def test_a_trajectory_begins_with_what_the_one_before_said():
    targets = swing(np.arange(40) * 0.04)
    _, trajectories = play(LIVELY, targets, lead_ms=15)
    for before, after in zip(trajectories, trajectories[1:], strict=False):
        shared = after.times_ns <= after.join_ns
        assert shared.sum() >= 2
        old, new = Head(LIVELY), Head(LIVELY)
        old.send(before, int(before.times_ns[0]))
        new.send(after, int(after.times_ns[0]))
        for time_ns in range(int(after.times_ns[0]), after.join_ns, 5 * MS):
            old.look(time_ns)
            new.look(time_ns)
        np.testing.assert_allclose(old.states, new.states, atol=1e-6)


def test_a_hop_in_time_joins_where_its_window_begins_and_a_late_one_after_the_margin():
    plan = TrajectoryPlanner(LIVELY, margin_ms=20)
    plan.resume(np.zeros(3))
    hop = np.zeros((2, 3))
    in_time = plan.plan(hop, START_NS, START_NS - FRAME_NS - 30 * MS)
    late = plan.plan(hop, START_NS + 2 * FRAME_NS, START_NS + FRAME_NS + 5 * MS)
    assert in_time.join_ns == START_NS - FRAME_NS
    assert late.join_ns == START_NS + FRAME_NS + 25 * MS


def test_when_no_more_hops_come_the_head_goes_on_for_a_while_and_stops_by_itself():
    targets = gesture(np.arange(30) * 0.04)
    head, trajectories = play(LIVELY, targets)
    last_due_ns = START_NS + 29 * FRAME_NS
    speed = np.abs(np.array(head.states)[:, 1, 0])
    at = {ms: speed[np.searchsorted(head.times_ns, last_due_ns + ms * MS)] for ms in (0, 40, 240)}
    assert at[0] > 0.05
    assert at[40] > 0.3 * at[0]
    assert at[240] == 0.0
    assert trajectories[-1].times_ns[-1] >= last_due_ns + 2 * FRAME_NS
    assert_kept_limits(head)


def test_a_message_that_is_late_by_less_than_a_hop_does_not_brake_the_head():
    seconds = np.arange(60) * 0.04
    targets = np.stack([0.5 * (seconds - 1.0), 0 * seconds, 0 * seconds], axis=1)
    leads = np.full(30, 10)
    leads[20] = -25  # the margin and its window's start: 45 ms of the spare are used
    head, _ = play(LIVELY, targets, lead_ms=leads)
    seconds = (np.array(head.times_ns) - START_NS) * 1e-9
    around = (seconds > 39 * 0.04) & (seconds < 45 * 0.04)
    velocities = np.array(head.states)[around, 1, 0]
    assert velocities.min() > 0.3
    assert velocities.max() < 0.7


def test_values_that_are_not_finite_hold_the_joint_at_its_last_target():
    targets = np.full((50, 3), 0.2)
    targets[20:, 0] = np.nan
    targets[20:, 1] = np.inf
    targets[20:, 2] = 0.1
    head, _ = play(LIVELY, targets)
    np.testing.assert_allclose(head.states[-1][0], [0.2, 0.2, 0.1], atol=1e-3)
    assert_kept_limits(head)


def test_a_target_out_of_range_is_replaced_by_the_nearest_in_range():
    targets = np.full((60, 3), 9.0) * np.array([1, -1, 1])
    head, _ = play(LIVELY, targets)
    positions = head.states[-1][0]
    np.testing.assert_allclose(positions, [1.2, -0.6, 0.5], atol=0.03)
    assert_kept_limits(head)


def test_the_head_starts_where_it_stands_and_eases_over_to_the_targets():
    start = np.array([0.5, -0.3, 0.2])
    targets = np.full((50, 3), -0.2)
    head, trajectories = play(LIVELY, targets, start=start, ease_in_ms=800)
    np.testing.assert_allclose(trajectories[0].positions[0], start)
    states = np.array(head.states)
    np.testing.assert_allclose(states[-1, 0], targets[-1], atol=1e-3)
    assert np.abs(states[:, 1]).max() < 1.6  # 1.5 times the mean speed: smoothstep
    assert_kept_limits(head)


def test_a_head_that_was_pushed_out_of_range_comes_back():
    start = np.array([1.3, -0.7, 0.0])
    head, _ = play(LIVELY, np.zeros((50, 3)), start=start)
    positions = np.array(head.states)[:, 0]
    assert (positions <= [1.3 + 1e-6, 0.7, 0.5]).all()
    assert (positions >= [-1.2, -0.7 - 1e-6, -0.5]).all()
    np.testing.assert_allclose(positions[-1], 0.0, atol=1e-3)


def test_halt_brakes_to_rest_within_the_limits_and_resume_starts_anew():
    plan = TrajectoryPlanner(LIVELY, ease_in_ms=0)
    plan.resume(np.zeros(3))
    head = Head(LIVELY)
    targets = swing(np.arange(20) * 0.04 + 0.5)
    for first in range(0, 20, 2):
        now_ns = START_NS + (first - 1) * FRAME_NS - 10 * MS
        due_ns = START_NS + first * FRAME_NS
        head.send(plan.plan(targets[first : first + 2], due_ns, now_ns), now_ns)
        for ms in range(80):
            head.look(now_ns + ms * MS)
    halted_ns = now_ns + 80 * MS
    moving = np.abs(head.states[-1][1]).max()
    head.send(plan.halt(halted_ns), halted_ns)
    for ms in range(400):
        head.look(halted_ns + ms * MS)
    assert moving > 0.5
    still = np.searchsorted(head.times_ns, halted_ns + 20 * MS + 250 * MS)
    assert np.abs(np.array(head.states)[still:, 1]).max() < 1e-9
    assert_kept_limits(head)

    here = head.states[-1][0]
    plan.resume(here)
    later_ns = halted_ns + 400 * MS
    head.send(plan.plan(np.zeros((2, 3)), later_ns + 2 * FRAME_NS, later_ns), later_ns)
    for ms in range(400):
        head.look(later_ns + ms * MS)
    assert_kept_limits(head)


def test_one_joint_alone_is_planned_as_well():
    profile = RobotProfile("one", LIVELY.joints[:1], LIVELY.command)
    plan = TrajectoryPlanner(profile)
    plan.resume(np.zeros(1))
    trajectory = plan.plan(np.full((2, 1), 0.1), START_NS, START_NS - 100 * MS)
    assert trajectory.positions.shape == (len(trajectory.times_ns), 1)


def test_a_clock_that_jumps_by_years_costs_neither_time_nor_memory():
    plan = TrajectoryPlanner(LIVELY)
    plan.resume(np.zeros(3))
    plan.plan(np.full((2, 3), 0.1), 5 * FRAME_NS, 0)
    trajectory = plan.plan(np.full((2, 3), 0.2), 7 * FRAME_NS, START_NS)
    assert len(trajectory.times_ns) < 100
    assert trajectory.times_ns[0] == START_NS


def test_hops_that_come_late_in_ever_new_ways_cost_no_memory():
    plan, rng = TrajectoryPlanner(LIVELY), np.random.default_rng(0)
    plan.resume(np.zeros(3))
    for hop in range(200):
        due_ns = START_NS + 2 * hop * FRAME_NS
        plan.plan(np.zeros((2, 3)), due_ns, due_ns - FRAME_NS + int(rng.integers(0, 60 * MS)))
    assert len(plan._paths) <= 16


def test_what_was_planned_for_a_moment_ago_is_still_told():
    plan = TrajectoryPlanner(LIVELY, ease_in_ms=0)
    plan.resume(np.zeros(3))
    for hop in range(6):
        due_ns = START_NS + 2 * hop * FRAME_NS
        now_ns = due_ns - FRAME_NS - 10 * MS
        ago = [now_ns - ms * MS for ms in (0, 20, 50)]
        before = [plan.at(time_ns) for time_ns in ago]
        plan.plan(np.full((2, 3), 0.05 * hop), due_ns, now_ns)
        if hop > 2:
            np.testing.assert_allclose([plan.at(time_ns) for time_ns in ago], before, atol=1e-9)


def test_nothing_is_planned_before_the_head_has_told_where_it_stands():
    plan = TrajectoryPlanner(LIVELY)
    with pytest.raises(TimarError, match="joint_states"):
        plan.plan(np.zeros((2, 3)), START_NS, START_NS)
    with pytest.raises(TimarError, match="joint_states"):
        plan.halt(START_NS)


@pytest.mark.parametrize("positions", [[0.0, 0.0], [0.0, np.nan, 0.0]])
def test_a_start_that_is_no_position_is_refused(positions):
    with pytest.raises(TimarError, match="neck_yaw, neck_pitch, neck_roll"):
        TrajectoryPlanner(LIVELY).resume(positions)


@pytest.mark.parametrize("shape", [(2, 2), (0, 3), (3,)])
def test_targets_of_another_shape_are_refused(shape):
    plan = TrajectoryPlanner(LIVELY)
    plan.resume(np.zeros(3))
    with pytest.raises(ValueError, match="targets must be"):
        plan.plan(np.zeros(shape), START_NS, START_NS)


def test_planning_a_hop_takes_no_longer_after_many():
    plan = TrajectoryPlanner(LIVELY)
    plan.resume(np.zeros(3))
    targets = swing(np.arange(800) * 0.04)
    seconds = []
    for first in range(0, 800, 2):
        due_ns = START_NS + first * FRAME_NS
        began = time.thread_time()
        plan.plan(targets[first : first + 2], due_ns, due_ns - FRAME_NS - 10 * MS)
        seconds.append(time.thread_time() - began)
    assert min(seconds[-100:]) < 3 * min(seconds[:100])
