"""What RViz shows beside the neck: the face as joint states, voices and floor as markers."""

import pytest

pytest.importorskip("rclpy")

from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from visualization_msgs.msg import MarkerArray

from timar_ros.robot.face_map import FaceMap

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
FACE = FaceMap.load("head")


def faces(states):
    """The newest positions of the face's joints by name, {} before the first."""
    for _, message in reversed(states):
        if "jaw" in message.name:
            return dict(zip(message.name, message.position, strict=True))
    return {}


def markers(received):
    return {(m.ns, m.id): m for m in received[-1][1].markers} if received else {}


@pytest.mark.parametrize(("module", "parameters"), [("simulated_head", {"face": "head"}), ("display_node", {})])
def test_the_face_follows_the_blendshapes(graph, module, parameters):
    graph.start_node(module, parameters)
    states = graph.collect(JointState, "joint_states")
    blendshapes = graph.publisher(JointState, "head/blendshapes")
    graph.wait_until(lambda: faces(states), "a face at rest, for those that start late")
    assert tuple(faces(states)) == FACE.joint_names
    assert faces(states)["jaw"] == 0.0
    blendshapes.publish(JointState(name=["jawOpen", "eyeBlinkLeft"], position=[0.5, 1.0]))
    graph.wait_until(lambda: faces(states)["jaw"] == pytest.approx(0.1225), "the jaw to open")
    assert faces(states)["lid_upper_left"] == pytest.approx(1.08)
    assert faces(states)["lid_upper_right"] == 0.0
    # It stays, though nothing more is said.
    told = len(states)
    graph.wait_until(lambda: sum("jaw" in m.name for _, m in states[told:]) >= 2, "the face to be told again")
    assert faces(states)["jaw"] == pytest.approx(0.1225)


def test_markers_show_both_voices_and_the_floor(graph):
    speaking = graph.node.create_publisher(Bool, "partner/is_speaking", LATCHED)
    floor = graph.node.create_publisher(String, "head/floor", LATCHED)
    graph.start_node("display_node")
    received = graph.collect(MarkerArray, "conversation_markers", LATCHED)
    graph.wait_until(lambda: markers(received), "markers for those that start late")
    assert {m.header.frame_id for m in markers(received).values()} == {"base_link"}
    assert markers(received)["floor", 0].text == "floor: nobody"
    dim = markers(received)["voice", 1]

    speaking.publish(Bool(data=True))
    floor.publish(String(data="partner"))
    graph.wait_until(lambda: markers(received)["floor", 0].text == "floor: partner", "the floor")
    graph.wait_until(lambda: markers(received)["voice", 1].color.r > 2 * dim.color.r, "the partner's lamp")
    assert markers(received)["voice", 0].color.r < 0.5 and markers(received)["voice", 1].scale.x > dim.scale.x
    assert {markers(received)["name", i].text for i in (0, 1)} == {"self", "partner"}

    graph.node.create_publisher(Bool, "self/is_muted", LATCHED).publish(Bool(data=True))
    graph.wait_until(lambda: markers(received)["name", 0].text == "self (muted)", "who is muted")
    assert markers(received)["name", 1].text == "partner"


def test_a_face_that_is_not_there_ends_the_node_with_a_sentence(start_node):
    node = start_node("display_node", {"face": "kismet"})
    assert node.wait() == 1
    assert "no face map named 'kismet'" in node.output() and "Traceback" not in node.output()
