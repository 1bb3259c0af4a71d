"""Nothing that comes in takes the head beyond its limits, and everything that should brings it to rest."""

import itertools
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import TIMEOUT_S, Graph, NodeProcess

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PointStamped, QuaternionStamped
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_msgs.msg import Int16MultiArray, String
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from timar_ros.motion.retarget import Retargeter
from timar_ros.motion.trajectory import Trajectory, TrajectoryPlanner
from timar_ros.nodes.simulated_head import motion_limits
from timar_ros.nodes.topics import LATCHED
from timar_ros.rates import FRAME_NS
from timar_ros.robot.command_timing import NO_SOUND
from timar_ros.robot.limit_monitor import LimitMonitor
from timar_ros.robot.profile import RobotProfile
from timar_ros.robot.trajectory_controller import JointTrajectoryController

MS = 1_000_000
START_NS = 1_760_000_000_123_456_789
QUANTITIES = ("position", "velocity", "acceleration", "jerk")

# ---- limits ------------------------------------------------------------------------------------

CONTROL_POINTS = 1_000_000
"""10 ms of all joints each."""
SAMPLES_PER_POINT = 2
"""Looks at the interpolated output, at times that are no control points."""
CYCLE_NS = 1_000_000
"""Jerk is the change of acceleration from one cycle of the controller to the next: 1 kHz, the fastest in use."""


def wild_targets(kind: str, frames: int, profile: RobotProfile, rng: np.random.Generator) -> np.ndarray:
    """[frames, J] rad, far beyond what the robot can do."""
    centre, reach = (profile.upper + profile.lower) / 2, profile.upper - profile.lower
    joints = len(reach)
    if kind == "noise":
        shape = rng.normal(0.0, 0.7, (frames, joints))
    elif kind == "steps":
        shape = np.repeat(rng.uniform(-1.0, 1.0, (frames // 7 + 1, joints)), 7, axis=0)[:frames]
    elif kind == "reversals":
        period = rng.integers(2, 40, joints)
        shape = np.sign(np.sin(2 * np.pi * (np.arange(frames)[:, None] + 0.5) / period))
    else:
        shape = np.cumsum(rng.normal(0.0, 0.1, (frames, joints)), axis=0)
        shape = np.abs((shape + 1.0) % 4.0 - 2.0) - 1.0  # folded back into the range
    if kind == "nan":
        shape[rng.random((frames, joints)) < 0.2] = np.nan
        shape[rng.random(frames) < 0.02] = np.inf
    return centre + shape * reach


def played(trajectory: Trajectory, times_ns: np.ndarray) -> np.ndarray:
    """[3, n, J] position, velocity, acceleration as joint_trajectory_controller interpolates: quintics."""
    t, p, v, a = trajectory.times_ns, trajectory.positions, trajectory.velocities, trajectory.accelerations
    i = np.clip(np.searchsorted(t, times_ns, "right") - 1, 0, len(t) - 2)
    d = ((t[i + 1] - t[i]) * 1e-9)[:, None]
    s = np.clip((times_ns - t[i])[:, None] * 1e-9, 0.0, d)
    way = (p[i + 1] - p[i] - v[i] * d - a[i] * d**2 / 2) / d**3
    gain = (v[i + 1] - v[i] - a[i] * d) / d**2
    rest = (a[i + 1] - a[i]) / d
    c3 = 10 * way - 4 * gain + rest / 2
    c4 = (-15 * way + 7 * gain - rest) / d
    c5 = (6 * way - 3 * gain + rest / 2) / d**2
    return np.stack(
        [
            p[i] + ((((c5 * s + c4) * s + c3) * s + a[i] / 2) * s + v[i]) * s,
            v[i] + (((5 * c5 * s + 4 * c4) * s + 3 * c3) * s + a[i]) * s,
            a[i] + ((20 * c5 * s + 12 * c4) * s + 6 * c3) * s,
        ]
    )


def largest_use(task: tuple[str, str, int, int, int]) -> tuple[int, np.ndarray]:
    """Control points driven, and the largest share [4] of each limit, over one stretch of wild input."""
    robot, kind, hop_frames, points, seed = task
    profile = RobotProfile.load(robot)
    rng = np.random.default_rng(seed)
    frames = points // 4
    targets = wild_targets("walk" if kind == "gaps" else kind, frames, profile, rng)
    planner = TrajectoryPlanner(profile, hop_frames)
    planner.resume(Retargeter(profile).joints(np.zeros((1, 3)))[0])
    centre, half = (profile.upper + profile.lower) / 2, (profile.upper - profile.lower) / 2
    limits = [joint.limits for joint in profile.joints]
    bounds = np.array([half, *([getattr(limit, q) for limit in limits] for q in ("velocity", "acceleration", "jerk"))])
    use, sent, before = np.zeros(4), None, None
    step_ns = 10 * MS // SAMPLES_PER_POINT
    now_ns = START_NS
    for first in range(0, frames - hop_frames + 1, hop_frames):
        ready_ns = START_NS + first * FRAME_NS - 50 * MS
        if kind == "gaps":
            ready_ns += int(rng.exponential(30)) * MS  # late, and now and then far too late
            if rng.random() < 0.1:
                continue
        ready_ns = max(ready_ns, now_ns)
        if sent is not None:
            times_ns = np.arange(now_ns, ready_ns, step_ns) + int(rng.integers(step_ns))
            motion, cycle = played(sent, times_ns), played(sent, times_ns + CYCLE_NS)
            jerks = (cycle[2] - motion[2]) / (CYCLE_NS * 1e-9)
            seen = np.stack([motion[0] - centre, motion[1], motion[2], jerks])
            use = np.maximum(use, (np.abs(seen) / bounds[:, None]).max(axis=(1, 2), initial=0.0))
            # Across from one trajectory to the next: a jump would show in the differences.
            if before is not None and len(times_ns):
                apart_s = (times_ns[0] - before[0]) * 1e-9
                slope = np.abs(motion[:, 0] - before[1]) / apart_s
                use[1:] = np.maximum(use[1:], (slope / bounds[1:]).max(axis=1))
            if len(times_ns):
                before = times_ns[-1], motion[:, -1]
        now_ns = ready_ns
        sent = planner.plan(targets[first : first + hop_frames], START_NS + first * FRAME_NS, now_ns)
        if rng.random() < 0.002:
            sent = planner.halt(now_ns)
    return points, use


def wild_tasks() -> list[tuple[str, str, int, int, int]]:
    """A million control points: every kind of input on several robots at several lengths of hop."""
    kinds = ("noise", "steps", "nan", "gaps", "reversals", "walk")
    robots = ("generic", "tiago", "reachy2", "stretch")
    shares = {1: 0.01, 2: 0.10, 4: 0.29, 25: 0.60}
    each = {hop: round(share * CONTROL_POINTS / len(kinds) / len(robots)) for hop, share in shares.items()}
    combinations = itertools.product(shares, robots, kinds)
    return [(robot, kind, hop, each[hop] + 4, seed) for seed, (hop, robot, kind) in enumerate(combinations)]


@pytest.mark.timeout(300)
def test_a_million_control_points_of_wild_input_stay_within_every_limit(capsys):
    begin = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = list(pool.imap_unordered(largest_use, wild_tasks()))
    points = sum(count for count, _ in results)
    use = np.max([used for _, used in results], axis=0)
    with capsys.disabled():
        shares = ", ".join(f"{name} {share:.2%}" for name, share in zip(QUANTITIES, use, strict=True))
        print(f"\n{points} control points in {time.monotonic() - begin:.0f} s; largest use of each limit: {shares}")
    assert points >= CONTROL_POINTS
    assert (use <= 1.0).all(), dict(zip(QUANTITIES, use, strict=True))
    assert (use > 0.9).all(), "the input does not press against the limits"


def test_the_output_that_is_checked_is_the_controllers():
    """`played` against the simulated joint_trajectory_controller, sample by sample."""
    from test_trajectory import Head

    profile = RobotProfile.load("generic")
    planner = TrajectoryPlanner(profile, 2)
    planner.resume(np.zeros(3))
    head = Head(profile)
    trajectory = planner.plan(np.full((2, 3), 0.4), START_NS + 80 * MS, START_NS)
    head.send(trajectory, START_NS)
    head.look(START_NS)
    times_ns = np.arange(int(trajectory.times_ns[0]) + MS, int(trajectory.times_ns[-1]), 3 * MS)
    for time_ns in times_ns.tolist():
        head.look(time_ns)
    seen = np.array(head.states[1:]).transpose(1, 0, 2)
    np.testing.assert_allclose(played(trajectory, times_ns), seen, atol=1e-6)


# ---- halts, in the running graph ---------------------------------------------------------------

DIALOGUES = Path(__file__).parent / "data" / "dialogues"
PACKET = 160
AT_REST = 1e-3
"""rad/s"""
CLEANUP, ACTIVATE, DEACTIVATE = 2, 3, 4
REACHED = {CLEANUP: "unconfigured", ACTIVATE: "active", DEACTIVATE: "inactive"}


def stamp_ns(message) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def offset_ns(point: JointTrajectoryPoint) -> int:
    return point.time_from_start.sec * 10**9 + point.time_from_start.nanosec


def planned_ns(command: JointTrajectory) -> int:
    """When it was planned: its first point is of the present; what rests on no sound is stamped with that."""
    return stamp_ns(command) + (0 if command.header.frame_id == NO_SOUND else offset_ns(command.points[0]))


def cpu_s(pid: int) -> float:
    """What a process has used of the processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Talk:
    """Both voices of a test dialogue, over and over, in packets of 10 ms, until it is stopped."""

    def __init__(self, graph: Graph) -> None:
        self._topics = [graph.publisher(Int16MultiArray, topic) for topic in ("microphone/audio", "partner/audio")]
        self._voices = [
            soundfile.read(DIALOGUES / f"dialogue_0_{party}.ogg", dtype="int16")[0] for party in ("self", "partner")
        ]
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        begin, length = time.monotonic(), min(map(len, self._voices)) // PACKET * PACKET
        for at in itertools.count(0, PACKET):
            if self._ending.wait(max(0.0, begin + (at + PACKET) / 16000 - time.monotonic())):
                return
            for topic, voice in zip(self._topics, self._voices, strict=True):
                topic.publish(Int16MultiArray(data=voice[at % length : at % length + PACKET]))

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()


class Scene:
    """The head node and a simulated head as processes, and what is seen of them."""

    def __init__(self, folder: Path, head_code: str | None = None, **parameters: object) -> None:
        self._folder = folder
        self._count = 0
        self.graph = Graph(start_node=None)
        self.simulated = self.start("simulated_head", robot=parameters.get("robot", "generic"))
        self.head = self.start("head_node", head_code, **parameters)
        self.states = self.graph.collect(JointState, "joint_states", 100_000)
        self.commands = self.graph.collect(JointTrajectory, "head_controller/joint_trajectory", 100_000)
        self.poses = self.graph.collect(QuaternionStamped, "head/head_pose", 100_000)
        self.diagnostics = self.graph.collect(DiagnosticArray, "/diagnostics", 1000, matched=2)
        self.graph.wait_until(lambda: self.states, "the first joint states")
        self.talk = Talk(self.graph)

    def start(self, module: str, code: str | None = None, **parameters: object) -> NodeProcess:
        self._count += 1
        command = [sys.executable, *(["-c", code] if code else ["-m", f"timar_ros.nodes.{module}"]), "--ros-args"]
        for name, value in parameters.items():
            command += ["-p", f"{name}:={json.dumps(value)}"]
        return NodeProcess(command, self._folder / f"{module}_{self._count}.log", {})

    def close(self) -> None:
        self.talk.stop()
        self.graph.close()  # first: a node that is killed may leave locks behind in what both share
        self.head.kill()
        self.simulated.kill()

    def positions(self, index: int = -1) -> np.ndarray:
        return np.array(self.states[index][1].position)

    def speed(self) -> float:
        return float(np.abs(self.states[-1][1].velocity).max())

    def wait_until_moving(self, timeout: float = TIMEOUT_S) -> None:
        """By commands that rest on sound."""
        since = len(self.commands)
        self.graph.wait_until(
            lambda: self.speed() > AT_REST and any(m.header.frame_id != NO_SOUND for _, m in self.commands[since:]),
            "the head to move with the conversation",
            timeout,
        )

    def rest_ms(self, since_ns: int, timeout: float = TIMEOUT_S) -> float:
        """From an instant until the joint states show the head at rest, as it then stays for 0.3 s."""

        def at_rest() -> bool:
            recent = [m for at, m in self.states[-60:] if at > self.graph.now_ns() - 300 * MS]
            return len(recent) > 5 and all(np.abs(m.velocity).max() <= AT_REST for m in recent)

        self.graph.wait_until(at_rest, "the head at rest", timeout)
        moving = [at for at, m in self.states if np.abs(m.velocity).max() > AT_REST]
        return max((moving[-1] - since_ns) / MS, 0.0) if moving else 0.0

    def pause(self, on: bool) -> None:
        assert self.graph.call(SetBool, "head/pause", SetBool.Request(data=on)).success

    def set(self, name: str, value: object) -> None:
        wanted = [Parameter(name, value=value).to_parameter_msg()]
        answer = self.graph.call(SetParameters, "head/set_parameters", SetParameters.Request(parameters=wanted))
        assert answer.results[0].successful

    def change_state(self, transition: int) -> None:
        request = ChangeState.Request()
        request.transition.id = transition
        answer = self.graph.call(ChangeState, "head/change_state", request, timeout=90, again_s=20)
        # Where the first answer was lost it was asked again, which a head that is there already refuses.
        state = self.graph.call(GetState, "head/get_state", GetState.Request()).current_state.label
        assert answer.success or state == REACHED[transition]

    def figure(self, status: str, key: str) -> str | None:
        """The newest value in the diagnostics."""
        for _, message in reversed(self.diagnostics):
            for found in message.status:
                if found.name == status:
                    return found.message if key == "message" else {p.key: p.value for p in found.values}.get(key)
        return None

    def wait_for_status(self, words: str) -> None:
        self.graph.wait_until(lambda: words in (self.figure("head: motion", "message") or ""), f"{words!r}")

    def assert_within_limits(self) -> None:
        since = len(self.diagnostics)
        self.graph.wait_until(lambda: len(self.diagnostics) > since + 2, "diagnostics")
        figures = [self.figure("simulated_head: commands", key) for key in ("limit_violations", "refusals")]
        # A machine that is busy elsewhere brings a command so late that the head is not where it was planned to be:
        # then they are judged as they would have been taken in time.
        assert figures == ["0", "0"] or self.violations_in_time() == 0

    def violations_in_time(self) -> int:
        """How often the limits are left where each command is taken when it was planned; fails where one is refused."""
        profile = RobotProfile.load("generic")
        joints = list(profile.joint_names)
        monitor = LimitMonitor(joints, motion_limits(profile))
        taken = [(planned_ns(message) if stamp_ns(message) else sent_ns, message) for sent_ns, message in self.commands]
        violations = 0
        first, last = taken[0][1], taken[-1][1]
        controller = JointTrajectoryController(joints, first.points[0].positions)
        time_ns, end_ns = stamp_ns(first) + offset_ns(first.points[0]), stamp_ns(last) + offset_ns(last.points[-1])
        while taken or time_ns < end_ns:
            while taken and taken[0][0] <= time_ns:
                at_ns, message = taken.pop(0)
                begins, meant = np.array(message.points[0].positions), controller.sample(at_ns).positions
                if stamp_ns(message) and np.abs(begins - meant).max() > 0.03:
                    # Taken up anew where the head was, since commands had come too late for it.
                    felt = [m.position for sent_ns, m in self.states if abs(sent_ns - at_ns) < 2000 * MS]
                    assert np.abs(np.array(felt) - begins).max(axis=1).min() < 0.01
                    violations += monitor.total
                    controller = JointTrajectoryController(joints, begins)
                    monitor = LimitMonitor(joints, motion_limits(profile))
                controller.accept(message, at_ns)
            monitor(time_ns, controller.sample(time_ns))
            time_ns += 10 * MS
        return violations + monitor.total

    def assert_no_jump(self, since: int) -> None:
        """The joint states from the one of that number on are a motion, however many of them a busy machine skips."""
        states = self.states[since:]
        path = np.array([m.position for _, m in states])
        seconds = np.diff([stamp_ns(m) for _, m in states]) * 1e-9
        assert (np.abs(np.diff(path, axis=0)).max(axis=1) < 0.02 + 3.0 * seconds).all()  # 3 rad/s


def told(what: str, milliseconds: float, capsys) -> None:
    with capsys.disabled():
        print(f"\n{what}: {milliseconds:.0f} ms")


@pytest.fixture
def scene(tmp_path, real_time):
    made = []

    def make(**options) -> Scene:
        made.append(Scene(tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.timeout(240)
def test_pause_lets_go_of_the_head_and_takes_it_up_where_it_is(scene, capsys):
    live = scene()
    live.wait_until_moving()
    begun_ns = live.graph.now_ns()
    live.pause(True)
    told("rest after pause", live.rest_ms(begun_ns), capsys)
    commands, poses = len(live.commands), len(live.poses)
    live.wait_for_status("paused")

    # Another program moves the head, and lets it go.
    other = live.graph.publisher(JointTrajectory, "head_controller/joint_trajectory", matched=2)  # the test listens too
    point = JointTrajectoryPoint(positions=[0.5, 0.2, -0.2], velocities=[0.0] * 3, accelerations=[0.0] * 3)
    point.time_from_start.sec = 1
    other.publish(JointTrajectory(joint_names=["neck_yaw", "neck_pitch", "neck_roll"], points=[point]))
    live.graph.wait_until(lambda: abs(live.positions()[0] - 0.5) < 1e-3, "the other program's motion")
    assert len(live.commands) == commands + 1 and len(live.poses) == poses

    taken_up = len(live.states)
    live.pause(False)
    live.graph.wait_until(lambda: len(live.commands) > commands + 5, "motion after the pause")
    live.graph.wait_until(lambda: abs(live.positions()[0]) < 0.4, "the head on its way back")
    live.assert_no_jump(taken_up)
    live.assert_within_limits()


@pytest.mark.timeout(240)
def test_taking_up_a_head_that_is_not_paused_does_not_break_its_motion_off(scene):
    live = scene()
    live.wait_until_moving()
    target = live.graph.publisher(PointStamped, "head/look_at")
    point = PointStamped()
    for side in (1.0, -1.0, 1.0):
        point.point.x, point.point.y = 1.0, side
        target.publish(point)
        live.graph.wait_until(lambda: live.speed() > 0.5, "the head in mid swing")
        since = len(live.states) - 1
        live.pause(False)
        seen = len(live.states)
        live.graph.wait_until(lambda seen=seen: len(live.states) > seen + 100, "a second after it")
        states = [m for _, m in live.states[since:]]
        speeds, times_s = np.array([m.velocity for m in states]), np.array([stamp_ns(m) for m in states]) * 1e-9
        changes = np.abs(np.diff(speeds, axis=0)).max(axis=1)
        assert (changes < 0.05 + 40.0 * np.diff(times_s)).all()  # rad/s^2
    live.assert_within_limits()


@pytest.mark.timeout(240)
def test_deactivation_halts_and_activation_takes_up_the_head(scene, capsys):
    live = scene()
    live.wait_until_moving()
    begun_ns = live.graph.now_ns()
    live.change_state(DEACTIVATE)
    told("rest after deactivation", live.rest_ms(begun_ns), capsys)
    silent = len(live.commands)
    live.change_state(ACTIVATE)
    live.wait_until_moving()
    assert len(live.commands) > silent
    live.assert_within_limits()


@pytest.mark.timeout(240)
def test_a_face_that_is_let_go_returns_to_rest(scene):
    live = scene(robot="reachy_mini")
    faces = live.graph.collect(JointState, "head/blendshapes", 100_000)
    servos = live.graph.collect(JointState, "face/joint_commands", 100_000)

    def shows(least: float) -> bool:
        return bool(faces) and max(faces[-1][1].position) > least

    for let_go, take_up in (
        (lambda: live.pause(True), lambda: live.pause(False)),
        (lambda: live.change_state(DEACTIVATE), lambda: live.change_state(ACTIVATE)),
    ):
        live.graph.wait_until(lambda: shows(0.3), "a face that shows something")
        let_go()
        live.graph.wait_until(lambda: not shows(0.0), "the face at rest")
        at_rest = len(faces)
        fade = np.array([m.position for _, m in faces[-8:]])
        # Of a blink little may be left by the time that it is let go.
        assert (np.diff(fade, axis=0) <= 0.0).all() and fade[0].max() > 0.0
        assert 0.2 < (faces[-1][0] - faces[-8][0]) * 1e-9 < 1.0
        assert np.abs(servos[-1][1].position).max() < 0.1
        time.sleep(0.3)
        assert len(faces) == at_rest
        take_up()


@pytest.mark.timeout(240)
def test_a_killed_node_leaves_the_head_at_rest_and_a_new_one_takes_it_up(scene, capsys):
    live = scene()
    live.wait_until_moving()
    killed_ns = live.graph.now_ns()
    live.head.stop(signal.SIGKILL)
    told("rest after kill -9", live.rest_ms(killed_ns), capsys)
    # By its last command's end, which is soon after it was planned.
    last = live.commands[-1][1]
    end_ns = stamp_ns(last) + offset_ns(last.points[-1])
    assert max(stamp_ns(m) for _, m in live.states if np.abs(m.velocity).max() > AT_REST) <= end_ns
    assert end_ns - planned_ns(last) < 500 * MS
    resting, commands = len(live.states) - 1, len(live.commands)
    restarted_ns = live.graph.now_ns()
    live.head = live.start("head_node")
    live.graph.wait_until(lambda: len(live.commands) > commands, "a command of the new node")
    taken_s = cpu_s(live.head.pid)
    live.wait_until_moving()
    live.assert_no_jump(resting)
    moving_ns = next(at for at, m in live.states if at > restarted_ns and np.abs(m.velocity).max() > AT_REST)
    told("from restart until it moves", (moving_ns - restarted_ns) / MS, capsys)
    assert taken_s < 10.0  # of a core: 3 s where nothing else runs beside it
    assert "has not told" not in live.head.output()  # joint_states, which would be waited for
    live.assert_within_limits()


STALLING = """
import sys, time
from timar_ros.stream.policy import IncrementalPolicy
step, hops = IncrementalPolicy.step, 0
def stalling(self, *arguments):
    global hops
    hops += 1
    if hops == 60:  # 15 of them warm up
        time.sleep(2.0)
    return step(self, *arguments)
IncrementalPolicy.step = stalling
from timar_ros.nodes.head_node import main
sys.exit(main())
"""


@pytest.mark.timeout(240)
def test_a_policy_that_stalls_halts_the_head_until_it_answers(scene, capsys):
    live = scene(head_code=STALLING)
    live.head.wait_for_output("has not answered for 0.3 s")

    def silences() -> list[tuple[int, int]]:
        """From a command to the next, where that was not to be seen for as long as this policy stalls."""
        answers = [at for at, m in live.commands if m.header.frame_id != NO_SOUND]
        return [(a, b) for a, b in itertools.pairwise(answers) if b - a > 1800 * MS]

    live.graph.wait_until(silences, "the policy to answer again")
    last_ns, next_ns = silences()[0]
    live.graph.wait_until(lambda: live.states[-1][0] > next_ns, "what was seen meanwhile")
    moving = [at for at, m in live.states if last_ns < at < next_ns and np.abs(m.velocity).max() > AT_REST]
    rest_ms = (max(moving, default=last_ns) - last_ns) / MS
    told("rest after a policy's last answer", rest_ms, capsys)
    assert rest_ms < 700
    live.wait_until_moving()
    live.assert_within_limits()


@pytest.mark.timeout(240)
def test_stale_sound_gives_way_to_idle_life_and_new_sound_ends_it(scene, capsys):
    live = scene()
    live.wait_until_moving()
    live.wait_for_status("moving")
    live.talk.stop()
    stopped_ns = live.graph.now_ns()
    live.wait_for_status("idle: no sound comes")
    told("idle after the last sound, told at 1 Hz", (live.graph.now_ns() - stopped_ns) / MS, capsys)
    silent = len(live.states)
    live.graph.wait_until(lambda: len(live.states) > silent + 300, "three seconds of idle life")
    path = np.array([m.position for _, m in live.states[silent:]])
    assert 0.0 < np.ptp(path, axis=0).max() < 0.5, "it breathes, and looks around slightly"
    live.talk = Talk(live.graph)
    live.wait_for_status("moving")
    live.assert_within_limits()


@pytest.mark.timeout(240)
def test_the_head_faces_a_target_and_intensity_scales_what_rides_on_it(scene):
    live = scene(idle_life=False)
    live.wait_until_moving()
    live.set("intensity", 0.0)
    target = live.graph.publisher(PointStamped, "head/look_at")
    point = PointStamped()
    point.point.x, point.point.y, point.point.z = 1.0, 0.5, 0.2
    target.publish(point)
    above = 0.2 - RobotProfile.load("generic").pivot[2]
    yaw, pitch = np.arctan2(0.5, 1.0), -np.arctan2(above, np.hypot(1.0, 0.5))
    live.graph.wait_until(
        lambda: np.allclose(live.positions(), [yaw, pitch, 0.0], atol=0.003), "the head to face the target"
    )
    live.set("intensity", 1.5)
    live.graph.wait_until(lambda: live.speed() > 5 * AT_REST, "motion on top of the gaze")
    point.header.frame_id = "camera"
    target.publish(point)
    live.head.wait_for_output("tf2_ros is not installed")
    # Not renewed for five seconds, the target is let go.
    live.set("intensity", 0.0)
    live.graph.wait_until(lambda: np.abs(live.positions()).max() < 0.003, "the head to look ahead again")
    live.assert_within_limits()


@pytest.mark.timeout(240)
def test_a_target_that_is_no_number_is_let_go_at_once(scene):
    live = scene(idle_life=False, intensity=0.0, look_at_timeout_s=0.0)
    live.graph.wait_until(lambda: live.commands, "the head to be taken up")
    target = live.graph.publisher(PointStamped, "head/look_at")
    point = PointStamped()
    point.point.x, point.point.y = 1.0, 0.5
    target.publish(point)
    live.graph.wait_until(lambda: live.positions()[0] > 0.4, "the head to face the target")
    point.point.y = float("nan")
    target.publish(point)
    live.graph.wait_until(lambda: np.abs(live.positions()).max() < 0.003, "the head to look ahead again")


HEARING_TF = """
import sys, time, types
from geometry_msgs.msg import TransformStamped
class TransformException(Exception): pass
class Buffer:
    def __init__(self):
        self.asked = {}
    def lookup_transform(self, base, frame, *_):
        since = self.asked.setdefault(frame, time.monotonic())
        if frame == "nowhere" or time.monotonic() - since < 0.7:
            raise TransformException("it has heard of none")
        found = TransformStamped()
        found.transform.rotation.z, found.transform.rotation.w = 0.24740396, 0.96891242
        return found
class TransformListener:
    def __init__(self, buffer, node): pass
    def unregister(self):
        print("hears tf no more", flush=True)
sys.modules["tf2_ros"] = types.SimpleNamespace(**globals())
from timar_ros.nodes.head_node import main
sys.exit(main())
"""


@pytest.mark.timeout(240)
def test_a_target_in_another_frame_waits_until_tf_has_told_of_it(scene):
    live = scene(head_code=HEARING_TF, idle_life=False, intensity=0.0, look_at_timeout_s=0.0)
    live.graph.wait_until(lambda: live.commands, "the head to be taken up")
    target = live.graph.publisher(PointStamped, "head/look_at")
    point = PointStamped()
    point.header.frame_id, point.point.x = "camera", 1.0
    target.publish(point)
    live.graph.wait_until(lambda: abs(live.positions()[0] - 0.5) < 0.003, "the head to face the target")
    assert "knows no way" not in live.head.output()
    live.graph.wait_until(lambda: live.figure("head: motion", "looking_at") == "a target", "that it looks at it")
    point.header.frame_id = "nowhere"
    target.publish(point)
    live.head.wait_for_output("in the frame 'nowhere', from which tf2 knows no way")
    # That one was given up does not shorten the waiting of the next.
    point.header.frame_id, point.point.y = "hand", -1.0
    target.publish(point)
    live.graph.wait_until(lambda: abs(live.positions()[0] - 0.5 + np.pi / 4) < 0.003, "the head to face the next")
    live.change_state(DEACTIVATE)
    live.change_state(CLEANUP)
    live.head.wait_for_output("hears tf no more")


@pytest.mark.timeout(240)
def test_tighter_limits_of_robot_description_win_from_then_on(scene):
    live = scene(idle_life=False)
    live.wait_until_moving()
    described = live.graph.publisher(String, "robot_description", LATCHED)
    joints = "".join(
        f'<joint name="neck_{axis}" type="revolute"><parent link="a"/><child link="{axis}"/>'
        f'<limit lower="-0.1" upper="0.1" velocity="0.5" effort="1"/></joint>'
        for axis in ("yaw", "pitch", "roll")
    )
    described.publish(String(data=f'<robot name="r">{joints}</robot>'))
    live.head.wait_for_output("tighter limits: neck_yaw: lower -1.2 -> -0.1")
    target = live.graph.publisher(PointStamped, "head/look_at")
    point = PointStamped()
    point.point.x, point.point.y = 1.0, 1.0
    target.publish(point)
    live.graph.wait_until(lambda: live.positions()[0] > 0.09, "the head at its new limit")
    since = len(live.states)
    live.graph.wait_until(lambda: len(live.states) > since + 100, "a second there")
    assert max(m.position[0] for _, m in live.states[since:]) <= 0.1
    described.publish(String(data="no URDF"))
    live.head.wait_for_output("robot_description is no XML")
    live.assert_within_limits()
