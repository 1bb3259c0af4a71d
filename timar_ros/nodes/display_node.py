"""What RViz needs to show a conversation: the face as joint states, both voices and the floor as markers.

    head/blendshapes -> joint_states (the face's joints, as each frame is shown)
    self/is_speaking, partner/is_speaking, self/is_muted, partner/is_muted, head/floor -> conversation_markers

The simulated head holds a `Display` of its own, with the face where it is asked for, as rviz.launch.py does; beside a
real robot `display_node` runs by itself.
"""

from __future__ import annotations

import sys

from geometry_msgs.msg import Point
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, ColorRGBA, String
from visualization_msgs.msg import Marker, MarkerArray

from timar_ros.nodes import runtime
from timar_ros.nodes.muting import is_muted_topic
from timar_ros.nodes.parameters import Parameter, Parameters, declare
from timar_ros.nodes.topics import LATCHED
from timar_ros.replay.colours import FLOOR_COLOURS, PARTY_COLOURS
from timar_ros.robot.face_map import FaceMap, weights_by_name
from timar_ros.stream.frames import PARTNER, SELF


def parameters(face: str) -> tuple[Parameter, ...]:
    """What a `Display` needs to be told, with a default for the face."""
    return (
        Parameter(
            "face",
            face,
            "face map that turns blendshapes into joint states: a name under config/faces/ or a YAML file; empty: none",
            read_only=True,
        ),
        Parameter("marker_frame", "base_link", "frame that the markers stand in, under the head", read_only=True),
    )


PARAMETERS = parameters(face="head")


# Where the markers stand in `marker_frame`, m: a lamp for each party beside the chest, the floor above the head.
LAMPS = {SELF: Point(x=0.0, y=0.20, z=0.06), PARTNER: Point(x=0.0, y=-0.20, z=0.06)}
FLOOR = Point(x=0.0, y=0.0, z=0.47)
LAMP_M, TEXT_M = 0.045, 0.030
DIM = 0.25
REPEAT_S = 0.2


class Display:
    """Subscriptions and publishers on a node that has declared `parameters`.

    Raises:
        TimarError: there is no such face map, or it breaks a rule.
    """

    def __init__(self, node: Node, settings: Parameters) -> None:
        self._frame = settings.marker_frame
        self._speaking = dict.fromkeys(LAMPS, False)
        self._muted = dict.fromkeys(LAMPS, False)
        self._floor = "nobody"
        self._markers = node.create_publisher(MarkerArray, "conversation_markers", LATCHED)
        for party in LAMPS:
            node.create_subscription(Bool, f"{party}/is_speaking", self._taker(self._speaking, party), LATCHED)
            node.create_subscription(Bool, is_muted_topic(party), self._taker(self._muted, party), LATCHED)
        node.create_subscription(String, "head/floor", self._take_floor, LATCHED)
        self._publish_markers()
        if settings.face:
            self._face = FaceMap.load(settings.face)
            self._joint_names = list(self._face.joint_names)
            self._states = node.create_publisher(JointState, "joint_states", 10)
            self._clock = node.get_clock()
            node.create_subscription(JointState, "head/blendshapes", self._show_face, 10)
            self._positions = self._face.joints(weights_by_name((), ())).tolist()
            self._quiet = True
            node.create_timer(REPEAT_S, self._repeat)

    def _show_face(self, message: JointState) -> None:
        self._positions = self._face.joints(weights_by_name(message.name, message.position)).tolist()
        self._quiet = False
        self._publish_face()

    def _repeat(self) -> None:
        """Say again where the face is while the head node is silent: who starts later needs a place for every link."""
        if self._quiet:
            self._publish_face()
        self._quiet = True

    def _publish_face(self) -> None:
        """Stamped now, as joint states are: blendshapes carry the capture of the sound that they belong to."""
        state = JointState(name=self._joint_names, position=self._positions)
        state.header.stamp = self._clock.now().to_msg()
        self._states.publish(state)

    def _taker(self, known: dict[str, bool], party: str):
        def take(message: Bool) -> None:
            known[party] = message.data
            self._publish_markers()

        return take

    def _take_floor(self, message: String) -> None:
        self._floor = message.data
        self._publish_markers()

    def _publish_markers(self) -> None:
        markers = []
        for number, (party, place) in enumerate(LAMPS.items()):
            strength = 1.0 if self._speaking[party] else DIM
            size = LAMP_M if self._speaking[party] else 0.7 * LAMP_M
            markers.append(self._marker("voice", number, Marker.SPHERE, place, size, PARTY_COLOURS[party], strength))
            below = Point(x=place.x, y=place.y, z=place.z - 0.05)
            name = self._marker("name", number, Marker.TEXT_VIEW_FACING, below, TEXT_M, (230, 235, 240))
            name.text = f"{party} (muted)" if self._muted[party] else party
            markers.append(name)
        colour = FLOOR_COLOURS.get(self._floor, FLOOR_COLOURS["nobody"])
        if self._floor == "nobody":
            colour = (140, 150, 160)  # the videos' colour for it would not be seen as text
        floor = self._marker("floor", 0, Marker.TEXT_VIEW_FACING, FLOOR, TEXT_M, colour)
        floor.text = f"floor: {self._floor}"
        self._markers.publish(MarkerArray(markers=[*markers, floor]))

    def _marker(self, namespace, number, kind, place: Point, size: float, colour, strength: float = 1.0) -> Marker:
        """A marker without a stamp: RViz then takes the newest transform, and keeps it."""
        marker = Marker(ns=namespace, id=number, type=kind, action=Marker.ADD, frame_locked=True)
        marker.header.frame_id = self._frame
        marker.pose.position = place
        marker.pose.orientation.w = 1.0
        marker.scale.x = marker.scale.y = marker.scale.z = size
        red, green, blue = (strength * part / 255.0 for part in colour)
        marker.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
        return marker


class DisplayNode(Node):
    def __init__(self) -> None:
        super().__init__("display")
        self._display = Display(self, declare(self, PARAMETERS))


def main() -> int:
    """Run the node until SIGINT or SIGTERM; returns the exit code."""
    return runtime.run(DisplayNode, make_executor=runtime.events_executor)


if __name__ == "__main__":
    sys.exit(main())
