"""The neck: taken up only where it is known to be, whatever joint_states says or leaves out."""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState

from timar_ros.motion.trajectory import Trajectory, TrajectoryPlanner
from timar_ros.nodes.neck import UNKNOWN_POSITION_S, Neck
from timar_ros.nodes.neck_commands import PositionCommands, TrajectoryCommands, trajectory_message
from timar_ros.nodes.simulated_head import motion_limits
from timar_ros.nodes.topics import stamp_of, time_of
from timar_ros.rates import FRAME_NS
from timar_ros.robot.limit_monitor import LimitMonitor
from timar_ros.robot.profile import RobotProfile
from timar_ros.robot.trajectory_controller import JointTrajectoryController

MS = 1_000_000
HOP_NS = 2 * FRAME_NS
JOINTS = ("neck_yaw", "neck_pitch", "neck_roll")
AHEAD = (0.0, 0.0, 0.0, 1.0)
LEFT = (0.0, 0.0, np.sin(0.2), np.cos(0.2))
"""0.4 rad of yaw."""


class Stage:
    """A neck on a clock of the test's own, what it commands, and what it says."""

    def __init__(self, monkeypatch, robot: str = "generic") -> None:
        self.now_ns = 10**12
        self.wall_s = 100.0
        self.warnings: list[str] = []
        self.sent: list[Trajectory] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.wall_s)
        logger = SimpleNamespace(warning=self.warnings.append, error=self.warnings.append)
        node = SimpleNamespace(
            get_clock=lambda: SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=self.now_ns)),
            get_logger=lambda: logger,
            resolve_topic_name=lambda topic: f"/robot/{topic}",
            create_lifecycle_publisher=lambda *_: None,
        )
        self.neck = Neck(node, RobotProfile.load(robot), 2, lambda: False)
        self.neck.commands = SimpleNamespace(
            send=lambda trajectory, _: self.sent.append(trajectory), start=lambda: None, stop=lambda: None
        )
        self.neck.begin()

    def feel(self, *positions: float, names: tuple[str, ...] = JOINTS) -> None:
        self.neck.feel(serialize_message(JointState(name=list(names), position=list(positions))))

    def stand(self, *positions: float) -> None:
        """Stand there for long enough to be taken up."""
        self.feel(*positions)
        self.now_ns += 200 * MS
        self.feel(*positions)

    def hop(self, rotation: tuple[float, ...] = AHEAD) -> bool:
        """Time for a hop passes, and the next is followed."""
        self.now_ns += HOP_NS
        self.wall_s += HOP_NS * 1e-9
        return self.neck.follow(np.array([rotation] * 2), self.now_ns + 60 * MS, None)

    def slow(self, *seconds: float) -> None:
        """Let the next plans take so long."""
        planner, plan = self.neck._planner, self.neck._planner.plan
        left = list(seconds)

        def take_long(*arguments) -> Trajectory:
            planned = plan(*arguments)
            self.now_ns += round(left.pop(0) * 1e9) if left else 0
            return planned

        planner.plan = take_long

    def planned(self) -> np.ndarray:
        """[J] where the head is commanded to be now."""
        newest = self.sent[-1]
        at = np.searchsorted(newest.times_ns, self.now_ns, "right")
        return newest.positions[min(at, len(newest.times_ns) - 1)]


@pytest.fixture
def stage(monkeypatch):
    return Stage(monkeypatch)


def test_a_head_that_joint_states_never_told_is_left_alone_and_that_is_said_once(stage):
    stage.feel(0.5, 0.1, names=("head_1_joint", "neck_pitch"))
    for _ in range(round(10.0 / (HOP_NS * 1e-9))):
        assert not stage.hop()
    assert stage.sent == [] and not stage.neck.holding
    assert stage.neck.waits_in_vain and stage.neck.unknown_joints == ["neck_yaw", "neck_roll"]
    (warning,) = stage.warnings
    assert "/robot/joint_states does not tell where neck_yaw, neck_roll is" in warning
    stage.stand(0.5, 0.1, -0.2)
    assert stage.hop() and not stage.neck.waits_in_vain
    assert stage.sent[0].positions[0] == pytest.approx([0.5, 0.1, -0.2])


def test_a_simulated_clock_that_begins_late_does_not_end_the_waiting(stage):
    stage.now_ns = 0
    stage.neck.take()
    stage.now_ns = 10**12
    assert not stage.hop() and not stage.neck.waits_in_vain
    stage.wall_s += UNKNOWN_POSITION_S
    assert not stage.hop() and stage.neck.waits_in_vain


@pytest.mark.parametrize("spoiled", [np.nan, np.inf])
def test_positions_that_are_not_finite_are_not_felt(stage, spoiled):
    stage.stand(0.5, spoiled, -0.2)
    assert not stage.hop()
    stage.stand(0.5, 0.1, -0.2)
    stage.feel(spoiled, spoiled, spoiled)
    assert stage.hop()
    assert stage.sent[0].positions[0] == pytest.approx([0.5, 0.1, -0.2])


def test_a_head_that_hangs_below_its_command_keeps_its_command(stage):
    """The pitch sags by 0.05 rad, as by its weight: following the measured position would let it sink."""
    droop = np.array([0.0, 0.05, 0.0])
    stage.stand(0.0, 0.05, 0.0)
    before = np.array([0.0, 0.05, 0.0])
    for _ in range(60):
        assert stage.hop()
        assert np.abs(stage.planned() - before).max() < 0.01
        before = stage.planned()
        stage.feel(*(before + droop))
    (warning,) = stage.warnings
    assert "neck_pitch is 0.05 rad off" in warning


def test_a_head_whose_controller_missed_the_first_commands_is_taken_up_anew(stage):
    stage.stand(-0.2, 0.0, 0.0)
    anew = 0
    for _ in range(32):
        before = stage.planned()[0] if stage.sent else -0.2
        assert stage.hop(LEFT)
        stage.feel(-0.2, 0.0, 0.0)
        anew += stage.planned()[0] < before - 0.1
    assert anew == 2  # each time it has been off for half a second
    while stage.planned()[0] < 0.39:  # now its controller follows
        assert stage.hop(LEFT)
        stage.feel(*stage.planned())
    assert stage.warnings == []


@pytest.mark.parametrize("late_ms", [0, 100, 250, 400])
@pytest.mark.parametrize("every", [1, 5, 12])
def test_a_head_that_follows_is_not_taken_up_anew_however_late_and_seldom_that_is_told(stage, late_ms, every):
    """And although others, such as a face's joints, are told between."""
    stage.stand(0.0, 0.0, 0.0)
    was = {stage.now_ns: np.zeros(3)}
    for hop in range(60):
        before = stage.planned() if stage.sent else np.zeros(3)
        assert stage.hop(LEFT if hop // 12 % 2 else AHEAD)
        was[stage.now_ns] = stage.planned()
        assert np.abs(was[stage.now_ns] - before).max() < 0.2
        stage.feel(0.3, names=("jaw",))
        if hop % every == 0:
            stage.feel(*was[max((at for at in was if at <= stage.now_ns - late_ms * MS), default=min(was))])
    steps = np.abs(np.diff([trajectory.positions[0] for trajectory in stage.sent], axis=0))
    assert steps.max() < 0.2 and stage.warnings == []


def test_a_head_that_something_else_moves_is_taken_up_when_it_stands(stage):
    for step in range(60):
        stage.feel(0.02 * step, 0.0, 0.0)
        if step % 4 == 0:
            assert not stage.hop()
        stage.now_ns += 20 * MS
    assert stage.neck.obstacle == "something else moves the head" and not stage.neck.waits_in_vain
    stage.wall_s += UNKNOWN_POSITION_S
    assert not stage.hop() and "something else moves the head" in stage.warnings[0]
    stage.feel(1.18, 0.0, 0.0)
    stage.now_ns += 200 * MS
    assert stage.hop() and stage.sent[0].positions[0] == pytest.approx([1.18, 0.0, 0.0])


def test_a_head_that_is_told_once_is_taken_up(stage):
    """As by a bridge that publishes what it last sent."""
    stage.feel(0.1, 0.0, 0.0)
    assert not stage.hop() and not stage.hop()
    assert stage.hop()


@pytest.mark.parametrize("yaw", [12.0, -2 * np.pi, 1.9])
def test_positions_far_outside_the_range_are_not_believed(stage, yaw):
    """Degrees, a revolution too many, garbage."""
    for _ in range(50):
        stage.stand(yaw, 0.0, 0.0)
        assert not stage.hop()
    (warning,) = stage.warnings
    assert f"neck_yaw at {yaw:.2f}, far outside its range" in warning and "in rad" in warning
    assert stage.neck.waits_in_vain and stage.sent == []
    stage.stand(0.0, 0.0, 0.0)
    assert stage.hop()


def test_a_joint_a_little_outside_its_range_is_taken_up_there(stage):
    upper = RobotProfile.load("generic").joints[0].limits.upper
    stage.stand(upper + 0.2, 0.0, 0.0)
    assert stage.hop() and stage.sent[0].positions[0][0] == pytest.approx(upper + 0.2)


def test_a_command_that_took_too_long_is_planned_again_from_what_was_sent(stage, monkeypatch):
    stages = [stage, Stage(monkeypatch)]
    for each in stages:
        each.stand(0.0, 0.0, 0.0)
        for _ in range(8):
            each.hop(LEFT)
    slow, late = stages
    slow.slow(0.06)
    assert slow.hop(LEFT)
    due_ns = late.now_ns + HOP_NS + 60 * MS
    late.now_ns = slow.now_ns
    assert late.neck.follow(np.array([LEFT] * 2), due_ns, None)
    assert slow.sent[-1].join_ns == slow.now_ns + 20 * MS
    np.testing.assert_array_equal(slow.sent[-1].positions, late.sent[-1].positions)
    assert slow.neck.late_commands == 0 and len(slow.sent) == 9


def test_commands_that_are_too_late_all_the_same_are_counted(stage):
    stage.stand(0.0, 0.0, 0.0)
    stage.hop()
    stage.slow(0.06, 0.06)
    assert stage.hop() and stage.neck.late_commands == 1


def slower(profile: RobotProfile) -> RobotProfile:
    """The same robot with half the speed."""
    limits = {joint.name: replace(joint.limits, velocity=joint.limits.velocity / 2) for joint in profile.joints}
    return profile.with_limits(limits)


@pytest.mark.parametrize("then", ["release", "halt", "use"])
def test_a_head_that_brakes_for_new_limits_keeps_the_old_ones_whatever_comes_meanwhile(stage, then):
    profile = RobotProfile.load("generic")
    controller, monitor = JointTrajectoryController(JOINTS), LimitMonitor(JOINTS, motion_limits(profile))
    taken = 0

    def play(ms: int) -> None:
        nonlocal taken
        for now_ns in range(stage.now_ns, stage.now_ns + ms * MS, MS):
            for trajectory in stage.sent[taken:]:
                controller.accept(trajectory_message(trajectory, JOINTS, now_ns), now_ns)
            taken = len(stage.sent)
            monitor(now_ns, controller.sample(now_ns))

    stage.stand(0.0, 0.0, 0.0)
    for _ in range(4):
        stage.hop(LEFT)
        play(80)
    stage.now_ns += 80 * MS
    assert np.abs(controller.sample(stage.now_ns).velocities).max() > 0.1
    stage.neck.use(slower(profile))
    play(10)
    stage.now_ns += 10 * MS
    getattr(stage.neck, then)(*[slower(profile)] * (then == "use"))
    play(1000)
    assert monitor.total == 0


def test_positions_are_told_until_the_head_rests_after_its_limits_were_changed_once(stage):
    stage.stand(0.0, 0.0, 0.0)
    stage.hop(LEFT)
    stage.neck.use(slower(RobotProfile.load("generic")))
    stage.now_ns += 1000 * MS
    for _ in range(4):
        assert stage.hop(LEFT)
    stage.neck.release()
    before = stage.planned()
    while stage.now_ns < stage.sent[-1].times_ns[-1]:
        position = stage.neck._planned(stage.now_ns)[0]
        assert np.abs(position - before).max() < 0.01
        before = position
        stage.now_ns += MS


def test_what_is_followed_while_the_head_brakes_is_left_out(stage):
    stage.stand(0.0, 0.0, 0.0)
    for _ in range(4):
        stage.hop(LEFT)
    stage.neck.use(slower(RobotProfile.load("generic")))
    sent = len(stage.sent)
    stage.now_ns += 20 * MS
    assert not stage.neck.follow(np.array([LEFT] * 2), stage.now_ns + 60 * MS, None)
    assert len(stage.sent) == sent
    assert stage.hop(LEFT) or stage.hop(LEFT) or stage.hop(LEFT)


def test_a_halt_brakes_once_and_what_follows_is_eased_in(stage):
    stage.stand(0.0, 0.0, 0.0)
    for rotation in (*[LEFT] * 12, AHEAD, AHEAD):
        stage.hop(rotation)
    sent = len(stage.sent)
    stage.neck.halt()
    stage.neck.halt()
    assert len(stage.sent) == sent + 1
    halt = stage.sent[-1]
    assert halt.times_ns[-1] < stage.now_ns + 300 * MS and not halt.velocities[-1].any()
    stage.now_ns += 400 * MS
    stopped_at = stage.planned()
    stage.hop(AHEAD)
    stage.hop(AHEAD)
    assert 0.0 < np.abs(stage.planned() - stopped_at).max() < 0.03


def test_a_head_that_was_let_go_is_followed_when_it_is_taken(stage):
    stage.stand(0.0, 0.0, 0.0)
    assert stage.hop(LEFT)
    stage.neck.release()
    stage.now_ns += 1000 * MS
    stage.stand(0.0, 0.0, 0.0)
    sent = len(stage.sent)
    assert not stage.hop(LEFT) and len(stage.sent) == sent
    stage.neck.take()
    stage.stand(0.0, 0.0, 0.0)
    assert stage.hop(LEFT)


def test_a_head_that_was_let_go_before_the_clock_went_back_is_taken_up_after_it(stage):
    stage.stand(0.0, 0.0, 0.0)
    for _ in range(4):
        stage.hop(LEFT)
    stage.neck.release()
    stage.now_ns = 10**10
    stage.neck.begin_anew()
    stage.neck.take()
    stage.stand(0.1, 0.0, 0.0)
    assert stage.hop(LEFT)


def test_a_plan_that_was_not_sent_leaves_nothing_behind(monkeypatch):
    def to_the_left(yaw: float) -> tuple[float, ...]:
        return (0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2))

    stages = [Stage(monkeypatch), Stage(monkeypatch)]
    for each in stages:
        each.stand(0.0, 0.0, 0.0)
        for hop in range(12):
            each.hop(to_the_left(0.05 * hop))
    slow, late = stages
    slow.slow(0.06)
    assert slow.hop(to_the_left(0.6))
    due_ns = late.now_ns + HOP_NS + 60 * MS
    late.now_ns = slow.now_ns
    assert late.neck.follow(np.array([to_the_left(0.6)] * 2), due_ns, None)
    for each in stages:
        each.now_ns += 20 * MS
        assert each.neck.follow(np.array([to_the_left(0.65)] * 2), due_ns + HOP_NS, None)
    np.testing.assert_array_equal(slow.sent[-1].positions, late.sent[-1].positions)


def test_stamps_hold_times_before_0():
    for time_ns in (-1, -40_000_000, -(10**9), 0, 1, 10**18 + 7):
        assert time_of(stamp_of(time_ns)) == time_ns


@pytest.mark.parametrize("why", ["released", "other limits"])
def test_positions_that_were_held_up_while_the_head_brakes_leave_it_where_it_stopped(stage, why):
    stage.stand(0.0, 0.0, 0.0)
    for _ in range(4):
        stage.hop(LEFT)
    if why == "released":
        stage.neck.release()
    else:
        stage.neck.use(slower(RobotProfile.load("generic")))
    stage.now_ns += 10 * MS
    stopped_at, speed, _ = stage.neck._planned(stage.now_ns)
    assert np.abs(speed).max() > 0.3
    stage.now_ns += 40 * MS
    assert np.abs(stage.neck._planned(stage.now_ns)[0] - stopped_at).max() > 0.01  # there it was to be by now
    stage.neck._interrupted(stopped_at)
    assert stage.neck.interruptions == 1
    state = stage.neck._planned(stage.now_ns)
    assert state is None or np.array_equal(state[0], stopped_at)
    if why == "other limits":
        assert stage.hop(LEFT)
        assert stage.planned() == pytest.approx(stopped_at, abs=0.02)


def test_with_stamps_of_zero_jitter_between_arrivals_is_made_up_for_gently():
    """Of a head that swings; each message arrives 0 to 20 ms after it was sent."""
    now_ns, profile = 10**12, RobotProfile.load("generic")
    messages = []
    node = SimpleNamespace(
        get_clock=lambda: SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=now_ns)),
        create_lifecycle_publisher=lambda *_: SimpleNamespace(publish=messages.append),
    )
    commands = TrajectoryCommands(node, profile.command, JOINTS, lambda: True)
    planner, controller = TrajectoryPlanner(profile), JointTrajectoryController(JOINTS)
    planner.resume(np.zeros(3))
    arriving, velocities = [], []
    delays_ns = np.random.default_rng(0).integers(0, 20 * MS, 50)
    for hop, delay_ns in enumerate(delays_ns.tolist()):
        due_ns = now_ns + 60 * MS
        seconds = (due_ns - 10**12 + np.arange(2) * FRAME_NS) * 1e-9
        targets = 0.3 * np.sin(2 * np.pi * seconds[:, None]) * (1.0, 0.0, 0.0)
        commands.send(planner.plan(targets, due_ns, now_ns), now_ns - 40 * MS)
        arriving.append((now_ns + delay_ns, messages[hop]))
        for _ in range(80):
            while arriving and arriving[0][0] <= now_ns:
                controller.accept(arriving.pop(0)[1], now_ns)
            velocities.append(controller.sample(now_ns).velocities[0])
            now_ns += MS
    assert all(message.header.stamp.sec == 0 for message in messages)
    assert np.abs(velocities).max() < 3.0  # 1.9 rad/s without jitter; made up for within 10 ms it takes 5


REACHY = RobotProfile.load("reachy2")
"""A robot that takes positions."""


def position_commands(planned, now_ns: list[int], simulated_time: bool = True):
    """Commands on a clock of the test's own, the messages that they send, and where they were interrupted."""
    published, interrupted = [], []
    clock = SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=now_ns[0]), ros_time_is_active=simulated_time)
    node = SimpleNamespace(
        get_clock=lambda: clock, create_lifecycle_publisher=lambda *_: SimpleNamespace(publish=published.append)
    )
    commands = PositionCommands(node, REACHY.command, REACHY.joint_names, planned, interrupted.append)
    return commands, published, interrupted


@pytest.mark.parametrize("hertz", [5, 10, 20])
def test_positions_are_sent_on_a_simulated_clock_that_goes_by_steps(hertz):
    def planned(time_ns: int) -> np.ndarray | None:
        return None if time_ns > 10**12 + 2 * 10**9 else np.full((3, len(REACHY.joints)), time_ns * 1e-9 - 1000)

    now_ns = [10**12]
    commands, published, interrupted = position_commands(planned, now_ns)
    commands.start()
    for _ in range(2 * hertz + 2):
        due_s, patience_s = min((now_ns[0] - 10**12) * 1e-9, 2.0), time.monotonic() + 5.0
        while not (published and published[-1].data[0] > due_s - 0.015) and time.monotonic() < patience_s:
            time.sleep(0.001)  # the sending thread may stall
        now_ns[0] += 10**9 // hertz
    commands.stop()
    sent = np.array([message.data[0] for message in published])
    assert interrupted == [] and np.diff(sent) == pytest.approx(0.01)
    assert len(sent) == pytest.approx(200, abs=1 + 100 / hertz)


def test_positions_that_come_far_too_late_are_left_out_and_that_is_told_once():
    now_ns, planned = [10**12], [np.zeros((3, len(REACHY.joints)))]
    commands, published, interrupted = position_commands(lambda _: planned[-1], now_ns, simulated_time=False)

    def wait_for(messages: list) -> None:
        patience_s = time.monotonic() + 5.0
        while not messages and time.monotonic() < patience_s:
            time.sleep(0.005)

    commands.start()
    wait_for(published)
    before = len(published)
    now_ns[0] += 10**9  # as if the process had not been let run
    wait_for(interrupted)
    time.sleep(0.1)
    sent = len(published) - before
    planned.append(None)
    commands.stop()
    assert len(interrupted) == 1 and sent <= 3


def test_positions_go_on_and_end_although_the_clock_stands_still_before_the_head_is_at_rest(monkeypatch):
    """As simulated time does while the executor's thread, which would take it in, brings the head to rest."""
    monkeypatch.setattr(PositionCommands, "LONGEST_STOP_S", 0.1)
    planned = [np.zeros((3, len(REACHY.joints)))]
    commands, published, _ = position_commands(lambda _: planned[-1], [10**12])
    commands.start()
    stopping = threading.Thread(target=commands.stop)
    stopping.start()
    stopping.join(10.0)
    stopped = not stopping.is_alive()
    planned.append(None)  # ends the threads in any case
    assert stopped and len(published) > 3
