"""Messages that command a neck: whole trajectories, or positions one after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from timar_ros.motion.trajectory import Trajectory
from timar_ros.nodes import runtime
from timar_ros.nodes.ending_clock import EndingClock
from timar_ros.nodes.topics import stamp_of
from timar_ros.robot.command_timing import NO_SOUND, STREAM_DEPTH
from timar_ros.robot.commands import PlainValues, joint_angles_class
from timar_ros.robot.profile import Command

# So many positions are sent late rather than left out, so that the steps between them stay what was planned. After a
# longer gap the head has stopped where the last one had it, and motion begins anew from there.
MOST_LATE = 3
# A simulated clock is not late that goes by steps, of up to so long.
LONGEST_CLOCK_STEP_NS = 200_000_000
# Where a trajectory starts when it arrives, the controller has at least so long to go over to it from where it is then.
BLEND_NS = 40_000_000


class TrajectoryCommands:
    """Sends each trajectory as it is planned."""

    def __init__(self, node: LifecycleNode, command: Command, joints: Sequence[str], stamp_zero: Callable[[], bool]):
        self._node = node
        self._joints = list(joints)
        self._always_zero = command.options.get("stamp") == "zero"
        self._stamp_zero = stamp_zero
        self.publisher = node.create_lifecycle_publisher(JointTrajectory, command.topic, 10)

    def send(self, trajectory: Trajectory, rests_on_ns: int | None) -> None:
        """Publish it, stamped with the newest sample that it rests on, if any; unstamped only what is new of it."""
        now_ns = self._node.get_clock().now().nanoseconds
        if self._always_zero or self._stamp_zero():
            new_ns = max(trajectory.join_ns, now_ns + BLEND_NS)
            from_ns = min(new_ns, int(trajectory.times_ns[-1]))  # a short one still ends where it rests
            message = trajectory_message(trajectory, self._joints, now_ns, from_ns)
            message.header.stamp = Time()
        else:
            message = trajectory_message(trajectory, self._joints, now_ns if rests_on_ns is None else rests_on_ns)
        if rests_on_ns is None:
            message.header.frame_id = NO_SOUND
        self.publisher.publish(message)

    def start(self) -> None:
        """Nothing to start: the controller interpolates."""

    def stop(self) -> None:
        """Nothing to stop."""


class PositionCommands:
    """Sends what is planned for each instant of a steady grid of times, until the head is at rest.

    On the grid, so that a receiver that knows the rate knows the motion: the time of arrival jitters.
    """

    # A simulated clock may run at any rate and may jump: never sleep longer than this.
    LONGEST_SLEEP_S = 0.02
    # Nor wait longer than this for the head to be at rest.
    LONGEST_STOP_S = 2.0

    def __init__(
        self,
        node: LifecycleNode,
        command: Command,
        joints: Sequence[str],
        planned: Callable[[int], np.ndarray | None],
        interrupted: Callable[[np.ndarray], None],
    ) -> None:
        """
        Args:
            planned: of a time, ns, the state [3, J], or None where there is nothing to send.
            interrupted: told the positions [J] that were sent last, when the next ones would come too late.
        """
        self._clock = node.get_clock()
        self._now_ns = EndingClock(lambda: self._clock.now().nanoseconds)
        self._planned = planned
        self._interrupted = interrupted
        self._values = PlainValues(command, joints)
        self._period_ns = round(1e9 / command.options["rate_hz"])
        # A position controller goes to where the head is to be now, NAOqi to where it is to be by the next message.
        self._angles = command.kind == "joint_angles_with_speed"
        self._type = joint_angles_class() if self._angles else Float64MultiArray
        self.publisher = node.create_lifecycle_publisher(self._type, command.topic, STREAM_DEPTH)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._running = False
        self._stop_by_s = 0.0

    def send(self, trajectory: Trajectory, rests_on_ns: int | None) -> None:
        """There is new motion: what `planned` tells has changed."""
        with self._changed:
            self._changed.notify()

    def start(self) -> None:
        self._now_ns.begin()
        self._running = True
        self._thread = runtime.start_thread(self._run, "positions")

    def stop(self) -> None:
        """End once the head is at rest, or `LONGEST_STOP_S` have passed by the wall's clock."""
        if self._thread is None:
            return
        self._now_ns.end()
        with self._changed:
            self._running = False
            self._stop_by_s = time.monotonic() + self.LONGEST_STOP_S
            self._changed.notify()
        self._thread.join()
        self._thread = None

    def _run(self) -> None:
        sent_ns, sent = 0, None
        before_ns, step_ns = self._now_ns(), 0
        while True:
            now_ns = self._now_ns()
            if self._clock.ros_time_is_active and now_ns != before_ns:
                before_ns, step_ns = now_ns, min(max(now_ns - before_ns, 0), LONGEST_CLOCK_STEP_NS)
            due_ns = sent_ns + self._period_ns
            if abs(now_ns - due_ns) > MOST_LATE * self._period_ns + step_ns:
                due_ns = now_ns // self._period_ns * self._period_ns
                if sent is not None:
                    self._interrupted(sent[0])
                    sent = None
            state = self._planned(due_ns + self._period_ns if self._angles else due_ns)
            with self._changed:
                if not self._running and (state is None or time.monotonic() > self._stop_by_s):
                    return
                if state is None:
                    sent = None
                    self._changed.wait(self.LONGEST_SLEEP_S)
                    continue
                if due_ns > now_ns:
                    self._changed.wait(min((due_ns - now_ns) * 1e-9, self.LONGEST_SLEEP_S))
                    continue
            self.publisher.publish(self._message(state, due_ns))
            sent_ns, sent = due_ns, state

    def _message(self, state: np.ndarray, time_ns: int):
        positions = self._values.positions(state)
        if not self._angles:
            return Float64MultiArray(data=positions)
        message = self._type(
            joint_names=self._values.names, joint_angles=positions, speed=self._values.speed(state), relative=0
        )
        message.header.stamp = stamp_of(time_ns)
        return message


def trajectory_message(
    trajectory: Trajectory, joint_names: Sequence[str], stamp_ns: int, from_ns: int = 0
) -> JointTrajectory:
    """Points after `stamp_ns`, which is the time that time_from_start counts from, and not before `from_ns`."""
    message = JointTrajectory(joint_names=list(joint_names))
    message.header.stamp = stamp_of(stamp_ns)
    ahead = (trajectory.times_ns > stamp_ns) & (trajectory.times_ns >= from_ns)
    rows = zip(
        (trajectory.times_ns[ahead] - stamp_ns).tolist(),
        trajectory.positions[ahead].tolist(),
        trajectory.velocities[ahead].tolist(),
        trajectory.accelerations[ahead].tolist(),
        strict=True,
    )
    for time_ns, positions, velocities, accelerations in rows:
        point = JointTrajectoryPoint(positions=positions, velocities=velocities, accelerations=accelerations)
        point.time_from_start.sec, point.time_from_start.nanosec = divmod(time_ns, 10**9)
        message.points.append(point)
    return message
