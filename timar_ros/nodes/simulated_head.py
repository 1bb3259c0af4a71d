"""A head that is not there: takes trajectories as ros2_control would, and measures what comes.

Without hardware this node stands where `joint_trajectory_controller` and `joint_state_broadcaster`
stand on a robot. It refuses what they refuse, moves as they would, and counts how late commands are
and how often their motion leaves the robot's limits.

    head_controller/joint_trajectory -> joint_states (100 Hz), simulated_head/command_latency_ms,
    simulated_head/refusals, /diagnostics (1 Hz)
"""

from __future__ import annotations

import math
import sys

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32, String
from trajectory_msgs.msg import JointTrajectory

from timar_ros.nodes import runtime
from timar_ros.nodes.parameters import Parameter, declare
from timar_ros.robot.command_timing import CommandTiming
from timar_ros.robot.limit_monitor import LimitMonitor, MotionLimits, Violation
from timar_ros.robot.profile import RobotProfile
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
)


class SimulatedHead(Node):
    """The node; all reckoning is done in `timar_ros.robot`."""

    def __init__(self):
        super().__init__("simulated_head")
        settings = declare(self, PARAMETERS)
        profile = RobotProfile.load(settings.robot)
        self._joints = list(profile.joint_names)
        self._controller = JointTrajectoryController(
            self._joints,
            [joint.offset for joint in profile.joints],
            allow_partial_joints_goal=settings.allow_partial_joints_goal,
        )
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
        self.create_subscription(JointTrajectory, "head_controller/joint_trajectory", self._take, 10)
        self.create_timer(1.0 / settings.rate_hz, self._move)
        self.create_timer(1.0, self._report)
        self.get_logger().info(f"simulating {profile.name}: {', '.join(self._joints)}")

    def close(self) -> None:
        """Give the final figures."""
        self._report()
        figures = ", ".join(f"{key} {value}" for key, value in self._figures().items())
        self.get_logger().info(f"stopped: {figures}")

    def _take(self, message: JointTrajectory) -> None:
        received_ns = self.get_clock().now().nanoseconds
        try:
            self._controller.accept(message, received_ns)
        except TrajectoryRefusedError as refusal:
            self._refusals += 1
            self._last_refusal = str(refusal)
            self._refused.publish(String(data=self._last_refusal))
            self.get_logger().warning(f"trajectory refused: {refusal}")
            return
        self._commands += 1
        stamp_ns = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        latency_ms = self._timing(stamp_ns, received_ns)
        if latency_ms is not None:
            self._latency.publish(Float32(data=latency_ms))

    def _move(self) -> None:
        now = self.get_clock().now()
        motion = self._controller.sample(now.nanoseconds)
        for violation in self._monitor(now.nanoseconds, motion):
            self._tell(violation, now.nanoseconds)
        self._states.publish(self._joint_state(now.to_msg(), motion))

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
        message = JointState(name=self._joints)
        message.header.stamp = stamp
        message.position = motion.positions.tolist()
        message.velocity = motion.velocities.tolist()
        return message

    def _report(self) -> None:
        faults = self._refusals + self._monitor.total
        new_faults, self._faults_told = faults - self._faults_told, faults
        status = DiagnosticStatus(
            level=DiagnosticStatus.WARN if new_faults else DiagnosticStatus.OK,
            name="simulated_head: commands",
            message=self._summary(new_faults),
            hardware_id="simulated_head",
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
