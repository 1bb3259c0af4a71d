"""A head that is not there: takes commands as its robot would, and measures what comes.

Without hardware this node stands where `joint_trajectory_controller` (or a forward command controller, or NAOqi) and
`joint_state_broadcaster` stand on a robot. It refuses what they refuse, moves as they would, and counts how late
commands are and how often their motion leaves the robot's limits.

    head_controller/joint_trajectory, or the topic of the robot's profile -> joint_states (100 Hz),
    simulated_head/command_latency_ms, simulated_head/refusals, /diagnostics (1 Hz)

The servos of a face that the profile names go at once to where they are sent, and show in joint_states as well. For
RViz markers show who speaks, and the face of urdf/head.urdf follows the blendshapes where `face` names it (see
`display_node`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32, Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from timar_ros.nodes import display_node, runtime
from timar_ros.nodes.parameters import Parameter, declare
from timar_ros.nodes.topics import time_of
from timar_ros.robot.command_timing import NO_SOUND, STREAM_DEPTH, CommandTiming
from timar_ros.robot.commands import joint_angles_class
from timar_ros.robot.forward_controller import ForwardCommandController
from timar_ros.robot.limit_monitor import LimitMonitor, MotionLimits, Violation
from timar_ros.robot.profile import Command, RobotProfile
from timar_ros.robot.trajectory_controller import (
    JointMotion,
    JointTrajectoryController,
    TrajectoryRefusedError,
)

PARAMETERS = (
    Parameter(
        "robot",
        "generic",
        "robot profile whose joints and limits are simulated: a name or a YAML file",
        read_only=True,
    ),
    Parameter(
        "command",
        "profile",
        "what the neck takes: what its profile says, or joint trajectories",
        choices=("profile", "joint_trajectory"),
        read_only=True,
    ),
    Parameter(
        "rate_hz",
        100.0,
        "how often joint states are interpolated and published, Hz",
        minimum=1,
        maximum=1000,
        read_only=True,
    ),
    Parameter(
        "allow_partial_joints_goal",
        False,
        "take trajectories that leave joints out, as the controller's parameter of that name",
        read_only=True,
    ),
    *display_node.parameters(face=""),
)


class SimulatedHead(Node):
    """The node; all reckoning is done in `timar_ros.robot`."""

    def __init__(self):
        super().__init__("simulated_head")
        settings = declare(self, PARAMETERS)
        profile = RobotProfile.load(settings.robot)
        if settings.command == "joint_trajectory":
            profile = profile.taking_trajectories()
        self._joints = list(profile.joint_names)
        self._controller = self._make_controller(profile, settings.allow_partial_joints_goal)
        self._monitor = LimitMonitor(self._joints, motion_limits(profile))
        self._timing = CommandTiming()
        self._commands = 0
        self._refusals = 0
        self._last_refusal = ""
        self._faults_told = 0
        self._told_ns: dict[tuple[str, str], int] = {}

        self._states = self.create_publisher(JointState, "joint_states", 10)
        self._latency = self.create_publisher(Float32, "simulated_head/command_latency_ms", 10)
        self._refused = self.create_publisher(String, "simulated_head/refusals", 10)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._face = {joint.name: joint.rest for joint in profile.face.joints} if profile.face else {}
        if profile.face:
            self._listen_to_face(profile.face.command)
        self.create_timer(1.0 / settings.rate_hz, self._move)
        self.create_timer(1.0, self._report)
        self._display = display_node.Display(self, settings)
        self.get_logger().info(f"simulating {profile.name}: {', '.join(self._joints)}")

    def close(self) -> None:
        """Give the final figures."""
        self._report()
        figures = ", ".join(f"{key} {value}" for key, value in self._figures().items())
        self.get_logger().info(f"stopped: {figures}")

    def _make_controller(self, profile: RobotProfile, partial: bool):
        """What stands for the neck's controller, subscribed to its commands."""
        start = [joint.offset for joint in profile.joints]
        command = profile.command
        if command.kind == "joint_trajectory":
            self.create_subscription(JointTrajectory, command.topic, self._take, 10)
            return JointTrajectoryController(self._joints, start, allow_partial_joints_goal=partial)
        order, rate_hz = command.options["order"], command.options["rate_hz"]
        if command.kind == "forward_command":
            self.create_subscription(
                Float64MultiArray, command.topic, lambda m: self._take_positions(m.data), STREAM_DEPTH
            )
        else:
            self.create_subscription(joint_angles_class(), command.topic, self._take_angles, STREAM_DEPTH)
        return ForwardCommandController(order, self._joints, rate_hz, start)

    def _listen_to_face(self, command: Command) -> None:
        names = list(command.options.get("order", self._face))
        kinds = {
            "forward_command": (Float64MultiArray, lambda m: zip(names, m.data, strict=False)),
            "joint_state": (JointState, lambda m: zip(m.name, m.position, strict=False)),
            "joint_trajectory": (
                JointTrajectory,
                lambda m: zip(m.joint_names, m.points[-1].positions, strict=False) if m.points else (),
            ),
        }
        kind, positions = kinds[command.kind]
        self.create_subscription(kind, command.topic, lambda m: self._face.update(positions(m)), 10)

    def _take(self, message: JointTrajectory) -> None:
        received_ns = self.get_clock().now().nanoseconds
        try:
            self._controller.accept(message, received_ns)
        except TrajectoryRefusedError as refusal:
            self._refuse(refusal)
            return
        if message.header.frame_id == NO_SOUND:
            return
        self._commands += 1
        stamp_ns = time_of(message.header.stamp)
        latency_ms = self._timing(stamp_ns, received_ns)
        if latency_ms is not None:
            self._latency.publish(Float32(data=latency_ms))

    def _take_angles(self, message) -> None:
        if sorted(message.joint_names) != sorted(self._joints) or message.relative or not 0 < message.speed <= 1:
            self._refuse(
                f"absolute angles of {', '.join(self._joints)} with a speed in (0, 1] are expected, got "
                f"{', '.join(message.joint_names)}, relative {message.relative}, speed {message.speed:g}"
            )
            return
        given = dict(zip(message.joint_names, message.joint_angles, strict=True))
        self._take_positions([given[name] for name in self._controller.order])

    def _take_positions(self, positions: Sequence[float]) -> None:
        try:
            time_ns, motion = self._controller.accept(positions, self.get_clock().now().nanoseconds)
        except TrajectoryRefusedError as refusal:
            self._refuse(refusal)
            return
        self._commands += 1
        self._watch(time_ns, motion)

    def _refuse(self, reason: object) -> None:
        self._refusals += 1
        self._last_refusal = str(reason)
        self._refused.publish(String(data=self._last_refusal))
        self.get_logger().warning(f"command refused: {reason}")

    def _move(self) -> None:
        now = self.get_clock().now()
        motion = self._controller.sample(now.nanoseconds)
        if isinstance(self._controller, JointTrajectoryController):
            self._watch(now.nanoseconds, motion)
        self._states.publish(self._joint_state(now.to_msg(), motion))

    def _watch(self, time_ns: int, motion: JointMotion) -> None:
        for violation in self._monitor(time_ns, motion):
            self._tell(violation, time_ns)

    def _tell(self, violation: Violation, now_ns: int) -> None:
        """Say which limit was left, each at most once a second."""
        what = (violation.joint, violation.quantity)
        if now_ns - self._told_ns.get(what, 0) < 1_000_000_000:
            return
        self._told_ns[what] = now_ns
        self.get_logger().warning(
            f"{violation.joint} beyond its {violation.quantity} limit: {violation.value:.4g}, "
            f"allowed {violation.limit:.4g}"
        )

    def _joint_state(self, stamp, motion: JointMotion) -> JointState:
        message = JointState(name=[*self._joints, *self._face])
        message.header.stamp = stamp
        message.position = [*motion.positions.tolist(), *self._face.values()]
        message.velocity = [*motion.velocities.tolist(), *(0.0 for _ in self._face)]
        return message

    def _report(self) -> None:
        faults = self._refusals + self._monitor.total
        new_faults, self._faults_told = faults - self._faults_told, faults
        status = DiagnosticStatus(
            level=DiagnosticStatus.WARN if new_faults else DiagnosticStatus.OK,
            name="simulated_head: commands",
            message=self._summary(new_faults),
            hardware_id=self.get_fully_qualified_name(),
            values=[KeyValue(key=k, value=v) for k, v in self._figures().items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _summary(self, new_faults: int) -> str:
        if new_faults:
            return f"{self._refusals} commands refused, {self._monitor.total} limits violated so far"
        return "commands arrive" if self._commands else "no command yet"

    def _figures(self) -> dict[str, str]:
        """All since the start; `nan` where there is nothing to tell yet."""
        figures = {
            "commands": str(self._commands),
            "refusals": str(self._refusals),
            "last_refusal": self._last_refusal,
            "limit_violations": str(self._monitor.total),
        }
        for name, value in self._timing.percentiles().items():
            figures[name] = f"{math.nan if value is None else value:.2f}"
        for quantity, count in self._monitor.counts.items():
            figures[f"{quantity}_violations"] = str(count)
        for quantity, share in self._monitor.peaks.items():
            figures[f"{quantity}_peak_share"] = f"{share:.4f}"
        return figures


def motion_limits(profile: RobotProfile) -> MotionLimits:
    """The profile's limits as arrays, [J] in chain order."""
    limits = [joint.limits for joint in profile.joints]
    return MotionLimits(
        *(
            np.array([getattr(limit, name) for limit in limits])
            for name in ("lower", "upper", "velocity", "acceleration", "jerk")
        )
    )


def main() -> int:
    """Run the simulated head until SIGINT or SIGTERM; returns the exit code."""
    return runtime.run(SimulatedHead, make_executor=runtime.events_executor)


if __name__ == "__main__":
    sys.exit(main())
