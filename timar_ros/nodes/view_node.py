"""The browser view of a running graph: `ros2 run timar_ros view`.

    joint_states, head/blendshapes, head/head_pose, self/is_speaking, partner/is_speaking, self/is_muted,
    partner/is_muted, head/floor, /diagnostics
        -> a page at http://127.0.0.1:8080
    the page -> head/pause, the head node's parameter `intensity`

One thread, the executor's: messages are taken down as they come, and a timer moves the page.
"""

from __future__ import annotations

import sys
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import QuaternionStamped
from rcl_interfaces.msg import ParameterEvent, ParameterType
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool

from timar_ros.nodes import runtime
from timar_ros.nodes.muting import is_muted_topic
from timar_ros.nodes.parameters import Parameter, declare
from timar_ros.nodes.topics import LATCHED
from timar_ros.robot.face_map import FaceMap
from timar_ros.stream.frames import PARTNER, SELF
from timar_ros.view.page import RATE_HZ, Page
from timar_ros.view.shown import LiveSource

PARAMETERS = (
    Parameter("host", "127.0.0.1", "where the page is served: this machine only, or 0.0.0.0 for all", read_only=True),
    Parameter("port", 8080, "the page's port, or the next free one", minimum=0, maximum=65535, read_only=True),
    Parameter("urdf", "", "robot to show: a URDF file; empty: the head that comes with the package", read_only=True),
    Parameter("face", "head", "face map of that robot: a name under config/faces/ or a YAML file", read_only=True),
)

# Joint states come 100 times a second, and only the newest matters.
SENSOR = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
ANSWER_S = 3.0


class ViewNode(Node):
    """Wires the graph to a `Page`; expects `head` and, of a simulated robot, `simulated_head` in its namespace."""

    def __init__(self) -> None:
        super().__init__("view")
        settings = declare(self, PARAMETERS)
        urdf = Path(settings.urdf).expanduser() if settings.urdf else None
        self._source = LiveSource(FaceMap.load(settings.face), self._now_s, own_urdf=urdf is not None)
        self._page = Page(self._source, settings.host, settings.port, urdf)
        self._page.add_live_controls(self._ask_pause, self._ask_intensity)
        self._waiting: dict[str, float] = {}

        subscribe = self.create_subscription
        subscribe(JointState, "joint_states", self._take_joints, SENSOR)
        subscribe(JointState, "head/blendshapes", self._take_face, SENSOR)
        subscribe(QuaternionStamped, "head/head_pose", self._take_pose, SENSOR)
        for party in (SELF, PARTNER):
            subscribe(Bool, f"{party}/is_speaking", self._hearer(party), LATCHED)
            subscribe(Bool, is_muted_topic(party), self._muter(party), LATCHED)
        subscribe(String, "head/floor", self._take_floor, LATCHED)
        subscribe(DiagnosticArray, "/diagnostics", self._take_diagnostics, 10)
        subscribe(ParameterEvent, "/parameter_events", self._take_parameters, 100)
        namespace = self.get_namespace().rstrip("/")
        self._head = f"{namespace}/head"
        self._shown = (self._head, f"{namespace}/simulated_head")
        self._pause = self.create_client(SetBool, "head/pause")
        # ROS 2 Humble has no client for parameters.
        self._get_parameters = self.create_client(GetParameters, "head/get_parameters")
        self._set_parameters = self.create_client(SetParameters, "head/set_parameters")
        self._intensity_known = False
        self.create_timer(1.0 / RATE_HZ, self._update)
        self.create_timer(1.0, self._ask_known)
        print(f"the head is at {self._page.address}", flush=True)
        if settings.host not in ("127.0.0.1", "localhost", "::1"):
            self.get_logger().warning(f"everyone who reaches {settings.host} can look, and can pause the head")

    def close(self) -> None:
        self._page.close()

    def _now_s(self) -> float:
        return self.get_clock().now().nanoseconds * 1e-9

    def _update(self) -> None:
        self._page.update()
        for service, asked_s in list(self._waiting.items()):
            if self._now_s() - asked_s > ANSWER_S:
                del self._waiting[service]
                self._page.notify("No answer", f"{service} did not answer within {ANSWER_S:.0f} s")

    # In

    def _take_joints(self, message: JointState) -> None:
        self._source.joints.joint_states(message.name, message.position, self._now_s())

    def _take_face(self, message: JointState) -> None:
        self._source.joints.blendshapes(message.name, message.position)

    def _take_pose(self, message: QuaternionStamped) -> None:
        q = message.quaternion
        self._source.joints.head_pose((q.x, q.y, q.z, q.w))

    def _hearer(self, party: str):
        def hear(message: Bool) -> None:
            self._source.history.change(self._now_s(), party, "yes" if message.data else "")

        return hear

    def _muter(self, party: str):
        def mute(message: Bool) -> None:
            self._source.mute(party, message.data)

        return mute

    def _take_floor(self, message: String) -> None:
        self._source.history.change(self._now_s(), "floor", message.data)

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.hardware_id not in self._shown:  # another robot's
                continue
            values = {pair.key: pair.value for pair in status.values}
            self._source.diagnostics(status.name, status.level != DiagnosticStatus.OK, status.message, values)
            if "paused" in values:  # by whomever
                self._page.set_paused(values["paused"] == "True")

    def _take_parameters(self, event: ParameterEvent) -> None:
        if event.node == self._head:
            for parameter in [*event.new_parameters, *event.changed_parameters]:
                if parameter.name == "intensity" and parameter.value.type == ParameterType.PARAMETER_DOUBLE:
                    self._page.set_intensity(parameter.value.double_value)

    # Out

    def _ask_pause(self, pause: bool) -> None:
        service = f"{self._head}/pause"
        if not self._pause.service_is_ready():
            self._page.notify("Cannot pause", f"nobody offers {service}; is a head node running in this namespace?")
            return

        def answered(future: Future) -> None:
            self._waiting.pop(service, None)
            answer = future.result()
            if answer.success:
                self._page.set_paused(pause)
            self._page.notify("Paused" if pause else "Going on", answer.message or ("done" if answer.success else "no"))

        self._waiting[service] = self._now_s()
        self._pause.call_async(SetBool.Request(data=pause)).add_done_callback(answered)

    def _ask_intensity(self, value: float) -> None:
        if not self._set_parameters.service_is_ready():
            self._page.notify("Cannot set the intensity", f"nobody answers as {self._head}; is a head node running?")
            return

        def answered(future: Future) -> None:
            for result in future.result().results:
                if not result.successful:
                    self._page.notify("The intensity was refused", result.reason)
                    self._intensity_known = False

        wanted = [RosParameter("intensity", value=value).to_parameter_msg()]
        self._set_parameters.call_async(SetParameters.Request(parameters=wanted)).add_done_callback(answered)

    def _ask_known(self) -> None:
        """Learn the present intensity once the head node is there."""
        if self._intensity_known or not self._get_parameters.service_is_ready():
            return
        self._intensity_known = True

        def answered(future: Future) -> None:
            for value in future.result().values:
                if value.type == ParameterType.PARAMETER_DOUBLE:
                    self._page.set_intensity(value.double_value)

        request = GetParameters.Request(names=["intensity"])
        self._get_parameters.call_async(request).add_done_callback(answered)


def main() -> int:
    """Serve the view until SIGINT or SIGTERM; returns the exit code."""
    return runtime.run(ViewNode, make_executor=runtime.events_executor)


if __name__ == "__main__":
    sys.exit(main())
