"""Messages that command the servos of a face, frame after frame."""

from __future__ import annotations

import threading
import time

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from timar_ros.nodes.neck import UNKNOWN_POSITION_S
from timar_ros.nodes.topics import stamp_of
from timar_ros.rates import FRAME_NS
from timar_ros.robot.face import FaceServos
from timar_ros.robot.profile import Face

_TYPES = {"forward_command": Float64MultiArray, "joint_state": JointState, "joint_trajectory": JointTrajectory}

_GAP_NS = 2 * FRAME_NS


class FaceCommands:
    """Takes the servos up where they are, and brings them to where the blendshapes have them, within their limits.

    May be called from any thread.
    """

    def __init__(self, node: LifecycleNode, face: Face) -> None:
        self._lock = threading.Lock()
        self._servos = FaceServos(face)
        self._sent_ns: int | None = None
        self._waited_until_s = 0.0
        self._kind = face.command.kind
        names = [joint.name for joint in face.joints]
        self._names = list(face.command.options.get("order", names))
        self._columns = [names.index(name) for name in self._names]
        self.publisher = node.create_lifecycle_publisher(_TYPES[self._kind], face.command.topic, 10)

    def take(self) -> None:
        """Take up the servos where `joint_states` has them; where it tells of none in time, from their rest."""
        with self._lock:
            self._sent_ns = None
            self._waited_until_s = time.monotonic() + UNKNOWN_POSITION_S

    def feel(self, message: bytes) -> None:
        """Take the servos' positions from a serialised `joint_states`, which is read only where it is needed."""
        with self._lock:
            if self._sent_ns is None:
                state = deserialize_message(message, JointState)
                told = dict(zip(state.name, state.position, strict=False))
                self._servos.resume(told)
                if not told.keys().isdisjoint(self._names):
                    self._waited_until_s = 0.0

    def follow(self, weights: np.ndarray, now_ns: int) -> None:
        """Command the frame that is shown now; `weights` [52] of the blendshapes.

        The servos move on by the time that has passed since the last command, as late frames come close together; after
        a gap, in which they have come to a stand, by a frame.
        """
        with self._lock:
            if self._sent_ns is None and time.monotonic() < self._waited_until_s:
                return
            passed_ns = FRAME_NS if self._sent_ns is None else max(now_ns - self._sent_ns, 0)
            self._sent_ns = now_ns
            if passed_ns > _GAP_NS:
                self._servos.resume({})
            passed_ns = min(passed_ns, FRAME_NS)
            positions = self._servos.step(weights, passed_ns * 1e-9)
        self.publisher.publish(self._message(positions[self._columns].tolist(), now_ns))

    def _message(self, positions: list[float], now_ns: int) -> Float64MultiArray | JointState | JointTrajectory:
        if self._kind == "forward_command":
            return Float64MultiArray(data=positions)
        if self._kind == "joint_state":
            message = JointState(name=self._names, position=positions)
            message.header.stamp = stamp_of(now_ns)
            return message
        point = JointTrajectoryPoint(positions=positions)
        point.time_from_start.nanosec = FRAME_NS
        return JointTrajectory(joint_names=self._names, points=[point])
