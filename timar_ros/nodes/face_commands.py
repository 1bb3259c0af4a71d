"""Messages that command the servos of a face, frame after frame."""

from __future__ import annotations

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.time import Time
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from timar_ros.rates import FRAME_NS
from timar_ros.robot.face import FaceServos
from timar_ros.robot.profile import Face

_TYPES = {"forward_command": Float64MultiArray, "joint_state": JointState, "joint_trajectory": JointTrajectory}


class FaceCommands:
    """Brings the servos to where the blendshapes have them, within their limits."""

    def __init__(self, node: LifecycleNode, face: Face) -> None:
        self._servos = FaceServos(face)
        self._kind = face.command.kind
        names = [joint.name for joint in face.joints]
        self._names = list(face.command.options.get("order", names))
        self._columns = [names.index(name) for name in self._names]
        self.publisher = node.create_lifecycle_publisher(_TYPES[self._kind], face.command.topic, 10)

    def follow(self, weights: np.ndarray, now_ns: int) -> None:
        """Command the frame that is shown now; `weights` [52] of the blendshapes."""
        self.publisher.publish(self._message(self._servos.step(weights)[self._columns].tolist(), now_ns))

    def _message(self, positions: list[float], now_ns: int) -> Float64MultiArray | JointState | JointTrajectory:
        if self._kind == "forward_command":
            return Float64MultiArray(data=positions)
        if self._kind == "joint_state":
            message = JointState(name=self._names, position=positions)
            message.header.stamp = Time(nanoseconds=now_ns).to_msg()
            return message
        point = JointTrajectoryPoint(positions=positions)
        point.time_from_start.nanosec = FRAME_NS
        return JointTrajectory(joint_names=self._names, points=[point])
