"""The simulated head as a process: trajectories in, joint states, refusals and figures out."""

import math
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32, String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

JOINTS = ["neck_yaw", "neck_pitch", "neck_roll"]
COMMANDS = "head_controller/joint_trajectory"
MS = 1_000_000


def trajectory(stamp_ns, *points, joints=JOINTS):
    """Points are (ms from the stamp, position of all joints), at rest."""
    message = JointTrajectory(joint_names=joints)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    for ms, position in points:
        p = JointTrajectoryPoint(
            positions=[position] * len(joints),
            velocities=[0.0] * len(joints),
            accelerations=[0.0] * len(joints),
        )
        p.time_from_start.sec, p.time_from_start.nanosec = divmod(ms * MS, 1_000_000_000)
        message.points.append(p)
    return message


def stamp_ns(message):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def figures(diagnostics):
    """The newest figures of the simulated head."""
    for _, message in reversed(diagnostics):
        for status in message.status:
            if status.name == "simulated_head: commands":
                return {pair.key: pair.value for pair in status.values}
    return {}


def test_its_diagnostics_tell_which_of_several_robots_it_is(graph):
    graph.start_node("simulated_head", None, "-r", "__ns:=/robot2")
    diagnostics = graph.collect(DiagnosticArray, "/diagnostics")
    graph.wait_until(lambda: diagnostics, "diagnostics")
    assert [status.hardware_id for status in diagnostics[0][1].status] == ["/robot2/simulated_head"]


def test_moves_as_commanded_within_the_limits(graph):
    head = graph.start_node("simulated_head")
    states = graph.collect(JointState, "joint_states")
    diagnostics = graph.collect(DiagnosticArray, "/diagnostics")
    commands = graph.publisher(JointTrajectory, COMMANDS)
    # The motion begins 2 s after it was sent, so that a busy machine has taken the command by then.
    begin_ns = graph.now_ns() + 2000 * MS
    commands.publish(trajectory(begin_ns - 2000 * MS, (2000, 0.0), (3000, 0.2)))
    graph.wait_until(lambda: states and stamp_ns(states[-1][1]) > begin_ns + 1100 * MS, "the motion to end")
    taken = states[:]
    stamps = np.array([stamp_ns(m) for _, m in taken])
    positions = np.array([m.position for _, m in taken])
    assert list(taken[0][1].name) == JOINTS
    # A busy machine skips steps of the 100 Hz (`timar bench` tells how many are taken).
    moving = (stamps > begin_ns) & (stamps < begin_ns + 1000 * MS)
    assert 10 <= moving.sum() <= 110
    # Each is where it belongs, on the quintic from rest to rest.
    done = (stamps[moving] - begin_ns) / (1000 * MS)
    quintic = 0.2 * (10 * done**3 - 15 * done**4 + 6 * done**5)
    np.testing.assert_allclose(positions[moving], np.stack([quintic] * 3, axis=1), atol=1e-6)
    np.testing.assert_allclose(positions[-1], 0.2, atol=1e-9)
    graph.wait_until(lambda: figures(diagnostics).get("commands") == "1", "the figures")
    assert figures(diagnostics)["limit_violations"] == "0"
    assert head.stop() == 0
    assert "commands 1, refusals 0" in head.output()


def test_refuses_with_reasons_and_counts(graph):
    graph.start_node("simulated_head")
    refusals = graph.collect(String, "simulated_head/refusals")
    diagnostics = graph.collect(DiagnosticArray, "/diagnostics")
    commands = graph.publisher(JointTrajectory, COMMANDS)
    now_ns = graph.now_ns()
    moving = trajectory(now_ns, (1000, 0.1))
    moving.points[-1].velocities = [0.0, 0.5, 0.0]
    for message in (
        trajectory(now_ns, (1000, 0.1), joints=JOINTS[:2]),
        trajectory(now_ns - 2000 * MS, (1000, 0.1)),
        moving,
        trajectory(now_ns, (1000, 0.1), (1000, 0.1)),
    ):
        commands.publish(message)
    graph.wait_until(lambda: len(refusals) == 4, "four refusals")
    reasons = [message.data for _, message in refusals]
    for reason, part in zip(reasons, ("missing: neck_roll", "in the past", "still moves", "do not rise"), strict=True):
        assert part in reason
    graph.wait_until(lambda: figures(diagnostics).get("refusals") == "4", "the figures")
    assert figures(diagnostics)["commands"] == "0"


def test_counts_motion_beyond_the_limits(graph):
    head = graph.start_node("simulated_head")
    diagnostics = graph.collect(DiagnosticArray, "/diagnostics")
    commands = graph.publisher(JointTrajectory, COMMANDS)
    commands.publish(trajectory(graph.now_ns(), (1500, 0.0), (1560, 1.0)))
    graph.wait_until(lambda: int(figures(diagnostics).get("velocity_violations", 0)) > 0, "violations")
    assert int(figures(diagnostics)["limit_violations"]) > 0
    assert "velocity limit" in head.output()


def test_measures_latency_and_reaction(graph):
    graph.start_node("simulated_head")
    latencies = graph.collect(Float32, "simulated_head/command_latency_ms")
    diagnostics = graph.collect(DiagnosticArray, "/diagnostics")
    commands = graph.publisher(JointTrajectory, COMMANDS)
    start_ns, ages_ms = graph.now_ns() + 100 * MS, []
    for k in range(20):
        # Each command is sent 30 ms after the newest sample it rests on, or later where the machine is busy.
        stamp_ns = start_ns + k * 80 * MS
        time.sleep(max(0, stamp_ns + 30 * MS - graph.now_ns()) / 1e9)
        ages_ms.append((graph.now_ns() - stamp_ns) / MS)
        commands.publish(trajectory(stamp_ns, (30_000, 0.0)))
    graph.wait_until(lambda: figures(diagnostics).get("commands") == "20", "the figures")
    found = {k: float(v) for k, v in figures(diagnostics).items() if "_ms_" in k}
    assert np.median([m.data for _, m in latencies]) == pytest.approx(found["latency_ms_p50"], abs=0.2)
    assert 0 <= found["latency_ms_p50"] - np.median(ages_ms) < 20
    # The samples of a hop of 80 ms wait for 40 ms more in the median.
    assert found["reaction_ms_p50"] - found["latency_ms_p50"] == pytest.approx(40, abs=20)
    assert not math.isnan(found["reaction_ms_p99"])


def test_moves_on_after_its_clock_went_back(graph):
    """As a bag's does that is played again."""
    head = graph.start_node("simulated_head", {"use_sim_time": True})
    states = graph.collect(JointState, "joint_states")
    clock, commands = graph.publisher(Clock, "/clock"), graph.publisher(JointTrajectory, COMMANDS)

    def run_clock(begin_s: int, position: float) -> None:
        """Until the head is at a position, to which it is sent by that clock."""
        begin, sent = time.monotonic(), False

        def arrived() -> bool:
            nonlocal sent
            now_ns = begin_s * 10**9 + round((time.monotonic() - begin) * 1e9)
            clock.publish(Clock(clock=Time(sec=now_ns // 10**9, nanosec=now_ns % 10**9)))
            told = [m for _, m in states if 0 <= stamp_ns(m) - begin_s * 10**9 < 100 * 10**9]
            if told and not sent:
                commands.publish(trajectory(now_ns, (1000, told[-1].position[0]), (2000, position)))
                sent = True
            return bool(told) and abs(told[-1].position[0] - position) < 1e-6

        graph.wait_until(arrived, f"the head at {position} rad by a clock that began at {begin_s} s")

    run_clock(1000, 0.2)
    run_clock(100, -0.1)
    assert head.stop() == 0
    assert "commands 2, refusals 0" in head.output() and "limit_violations 0" in head.output()


def test_an_unknown_robot_ends_the_node_with_a_sentence(start_node):
    head = start_node("simulated_head", {"robot": "hal9000"})
    assert head.wait() == 1
    assert "hal9000" in head.output() and "generic" in head.output()
    assert "Traceback" not in head.output()
