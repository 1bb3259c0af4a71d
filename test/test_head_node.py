"""The head node as a process: two voices in; trajectories, face, pose, speaking, floor and diagnostics out."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import Graph, NodeProcess

pytest.importorskip("rclpy")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import QuaternionStamped
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from safetensors.torch import load_file
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Int16MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from timar_ros.model.checkpoint import save_policy
from timar_ros.model.published_checkpoint import published_network, speech_config
from timar_ros.motion.channels import ARKIT_BLENDSHAPES
from timar_ros.motion.flame import FLAME_CHANNELS
from timar_ros.nodes.head_node import PARAMETERS
from timar_ros.robot.command_timing import NO_SOUND

DIALOGUES = Path(__file__).parent / "data" / "dialogues"
LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
PACKET = 160
START, CONFIGURE, ACTIVATE, DEACTIVATE, CLEANUP = 0, 1, 3, 4, 2


def ns(stamp: Time) -> int:
    return stamp.sec * 10**9 + stamp.nanosec


def voices(seconds: float) -> list[np.ndarray]:
    """A part of a test dialogue in which both speak, int16 at 16 kHz."""
    count = int(seconds * 16000)
    return [soundfile.read(DIALOGUES / f"dialogue_0_{p}.ogg", dtype="int16")[0][:count] for p in ("self", "partner")]


def talk(graph, own: np.ndarray, partner: np.ndarray) -> None:
    """Publish both voices in packets of 10 ms, each when its last sample is due."""
    topics = [graph.publisher(Int16MultiArray, topic) for topic in ("microphone/audio", "partner/audio")]
    begin = time.monotonic()
    for at in range(0, min(len(own), len(partner)), PACKET):
        due = begin + (at + PACKET) / 16000
        time.sleep(max(0.0, due - time.monotonic()))
        for topic, voice in zip(topics, (own, partner), strict=True):
            topic.publish(Int16MultiArray(data=voice[at : at + PACKET]))


def tell_where_the_head_is(graph) -> None:
    """As joint_state_broadcaster does, again and again; without it nothing is commanded for some seconds."""
    where = JointState(name=["neck_yaw", "neck_pitch", "neck_roll"], position=[0.0, 0.0, 0.0])
    publisher = graph.publisher(JointState, "joint_states")
    for _ in range(10):  # the node may see this publisher later than it was seen
        publisher.publish(where)
        time.sleep(0.05)


def change_state(graph, transition: int) -> bool:
    request = ChangeState.Request()
    request.transition.id = transition
    return graph.call(ChangeState, "head/change_state", request, timeout=45, again_s=20).success


def state(graph) -> str:
    return graph.call(GetState, "head/get_state", GetState.Request()).current_state.label


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """What came of ten seconds of conversation: topic -> [(reception in ns, message)]."""
    command = [sys.executable, "-m", "timar_ros.nodes.head_node"]
    head = NodeProcess(command, tmp_path_factory.mktemp("head") / "head.log", {})
    graph = Graph(start_node=None)
    try:
        head.wait_for_output("active", timeout=60)
        topics = {
            "head_controller/joint_trajectory": (JointTrajectory, 1000),
            "head/blendshapes": (JointState, 1000),
            "head/head_pose": (QuaternionStamped, 1000),
            "head/turns": (String, 1000),
            "head/floor": (String, LATCHED),
            "self/is_speaking": (Bool, LATCHED),
            "partner/is_speaking": (Bool, LATCHED),
            "/diagnostics": (DiagnosticArray, 100),
        }
        received = {topic: graph.collect(kind, topic, qos) for topic, (kind, qos) in topics.items()}
        tell_where_the_head_is(graph)
        graph.wait_until(lambda: received["head_controller/joint_trajectory"], "idle life")
        talk(graph, *voices(10.0))
        heard_s = len(received["/diagnostics"])
        graph.wait_until(lambda: len(received["/diagnostics"]) >= heard_s + 2, "a report after the last frame")
    finally:
        head.kill()
        graph.close()
    return received


def sound_commands(heard) -> list[tuple[int, JointTrajectory]]:
    """Those that rest on sound; before it the head shows idle life."""
    return [(at, m) for at, m in heard["head_controller/joint_trajectory"] if m.header.frame_id == ""]


def test_every_hop_is_commanded_and_every_frame_shown(heard):
    assert len(sound_commands(heard)) >= 120
    poses = [ns(m.header.stamp) for _, m in heard["head/head_pose"]]
    assert len(heard["head/blendshapes"]) == pytest.approx(len(poses), abs=1)
    # From the second frame of sound on: idle life, before it, counts by the node's own clock.
    poses = [stamp for stamp in poses if stamp > ns(sound_commands(heard)[1][1].header.stamp)]
    assert len(poses) >= 235
    assert set(np.diff(poses)) == {40_000_000}


def test_a_trajectory_counts_from_its_sound_moves_in_time_and_ends_at_rest(heard):
    ages_ns = [received_ns - ns(m.header.stamp) for received_ns, m in sound_commands(heard)]
    assert np.median(ages_ns) > 0  # of unstamped sound the capture is known to some tens of ms only
    for received_ns, message in heard["head_controller/joint_trajectory"]:
        assert list(message.joint_names) == ["neck_yaw", "neck_pitch", "neck_roll"]
        offsets = [p.time_from_start.sec * 10**9 + p.time_from_start.nanosec for p in message.points]
        assert all(np.diff(offsets) > 0)
        assert received_ns < ns(message.header.stamp) + offsets[-1]
        assert np.allclose([message.points[-1].velocities, message.points[-1].accelerations], 0)


def test_the_face_carries_the_arkit_names_and_weights(heard):
    for _, message in heard["head/blendshapes"]:
        assert tuple(message.name) == ARKIT_BLENDSHAPES
        assert 0 <= min(message.position) <= max(message.position) <= 1
    weights = np.array([m.position for _, m in heard["head/blendshapes"]])
    assert weights[:, ARKIT_BLENDSHAPES.index("jawOpen")].std() > 0.01


def test_the_pose_is_a_rotation_in_the_head_frame(heard):
    quaternions = np.array(
        [[m.quaternion.x, m.quaternion.y, m.quaternion.z, m.quaternion.w] for _, m in heard["head/head_pose"]]
    )
    assert np.allclose(np.linalg.norm(quaternions, axis=1), 1)
    assert {m.header.frame_id for _, m in heard["head/head_pose"]} == {"head"}
    assert quaternions.std(axis=0).max() > 1e-3


def test_speaking_and_floor_are_told_when_they_change(heard):
    """Against the dialogue's known speech: who speaks in the ten seconds is told to have spoken."""
    speech = json.loads((DIALOGUES / "dialogue_0.json").read_text())["speech"]
    for party in ("self", "partner"):
        spoke = any(start < 9 and end - start > 0.3 for start, end in speech[party])
        told = [m.data for _, m in heard[f"{party}/is_speaking"]]
        assert any(told) == spoke
        assert all(a != b for a, b in zip(told, told[1:], strict=False))
    floors = [m.data for _, m in heard["head/floor"]]
    assert set(floors) <= {"self", "partner", "both", "nobody"} and len(floors) > 1
    assert all(a != b for a, b in zip(floors, floors[1:], strict=False))


def test_turns_are_told_with_their_first_frame(heard):
    turns = [json.loads(m.data) for _, m in heard["head/turns"]]
    frames = [turn["frame"] for turn in turns]
    assert len(turns) > 8 and sorted(set(frames)) == frames
    assert {turn["reason"] for turn in turns} == {"floor", "length"}
    assert max(np.diff([0, *frames])) <= 25


def test_diagnostics_hold_latency_deadlines_inputs_and_device(heard):
    statuses = {s.name: {p.key: p.value for p in s.values} for _, m in heard["/diagnostics"] for s in m.status}
    latency = statuses["head: latency"]
    assert 0 < float(latency["latency_ms_p50"]) <= float(latency["latency_ms_p99"])
    assert int(latency["hops"]) >= 120 and int(latency["turns_by_floor"]) >= 1
    assert 100 < float(latency["rss_mb"]) < 900
    assert int(statuses["head: audio self"]["packets"]) > 900
    assert statuses["head: policy"]["device"] in ("cpu", "cuda:0", "cuda")


def test_the_lifecycle_is_managed_and_deactivation_halts_and_silences(graph):
    head = graph.start_node("head_node", {"autostart": False})
    assert state(graph) == "unconfigured"
    assert change_state(graph, CONFIGURE)
    commands = graph.collect(JointTrajectory, "head_controller/joint_trajectory")
    talk(graph, *voices(1.0))
    assert commands == []
    assert change_state(graph, ACTIVATE)
    tell_where_the_head_is(graph)
    talk(graph, *voices(2.0))
    assert len(commands) > 10
    assert change_state(graph, DEACTIVATE)
    time.sleep(0.2)
    silent = len(commands)
    assert np.allclose(commands[-1][1].points[-1].velocities, 0)
    talk(graph, *voices(0.5))
    assert len(commands) == silent
    assert change_state(graph, ACTIVATE)
    tell_where_the_head_is(graph)
    talk(graph, *voices(1.0))
    assert len(commands) > silent
    assert change_state(graph, DEACTIVATE) and change_state(graph, CLEANUP)
    assert change_state(graph, CONFIGURE) and state(graph) == "inactive"
    assert head.stop() == 0


def test_wrong_messages_are_told_and_the_head_goes_on(graph):
    head = graph.start_node("head_node", {"audio_reliability": "reliable"})
    head.wait_for_output("active", timeout=60)
    commands = graph.collect(JointTrajectory, "head_controller/joint_trajectory")
    microphone = graph.publisher(Int16MultiArray, "microphone/audio")
    microphone.publish(Int16MultiArray(data=[]))
    microphone.publish(Int16MultiArray(data=np.zeros(5_000_001, np.int16)))
    assert "expected at most" in head.wait_for_output("microphone/audio: ")
    tell_where_the_head_is(graph)
    talk(graph, *voices(1.0))
    assert len(commands) >= 8
    assert head.running


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"policy": "nobody"}, "no policy folder at"),
        ({"robot": "nobody"}, "There is no robot profile named 'nobody'"),
        ({"device": "tpu"}, "one of 'auto', 'cuda', 'cpu'"),
        ({"hop_frames": 26}, "an integer from 1 to 25"),
        ({"temperature": "warm"}, "a number from 0 to 4"),
        ({"lookahead_ms": 120}, "'lookahead_ms' is 120, but the own voice is live"),
        ({"lookahead_ms": 100, "own_voice": "queued"}, "0 to 1000 in steps of 40"),
        ({"lookahead_ms": 200, "own_voice": "queued"}, "policy default knows 0 to 160; set it to 160"),
        ({"audio_message_type": "std_msgs/msg/String"}, "one of 'auto', 'audio_common_msgs/msg/AudioDataStamped'"),
        ({"audio_message_type": "foxglove_msgs/msg/RawAudio"}, "foxglove_msgs cannot be imported"),
        ({"audio_encoding": "mp3"}, "The audio encoding 'mp3' is not known here"),
    ],
)
def test_a_wrong_parameter_ends_the_node_with_a_sentence(start_node, parameters, sentence):
    head = start_node("head_node", parameters)
    assert head.wait(60) == 1
    assert sentence in head.output()
    assert "Traceback" not in head.output()


def test_parameters_are_described_and_checked_at_run_time(graph):
    graph.start_node("head_node", {"autostart": False})
    request = DescribeParameters.Request(names=[p.name for p in PARAMETERS])
    described = graph.call(DescribeParameters, "head/describe_parameters", request).descriptors
    assert all(d.description and d.type != ParameterType.PARAMETER_NOT_SET for d in described)
    choices = "one of 'timeline', 'zero'"
    changes = (("intensity", 1.4, None), ("intensity", 9.0, "Max: 1.5"), ("stamp", "never", choices))
    for name, value, sentence in changes:
        wanted = Parameter(name, value=value).to_parameter_msg()
        answer = graph.call(SetParameters, "head/set_parameters", SetParameters.Request(parameters=[wanted]))
        assert answer.results[0].successful == (sentence is None)
        assert sentence is None or sentence in answer.results[0].reason


def test_published_weights_are_drawn_when_their_second_is_over_and_what_the_face_lacks_is_said(graph, tmp_path):
    """The tiny network of the parity fixture, converted: FLAME motion out, a second at a time."""
    published = Path(__file__).parent / "data" / "published" / "official_tiny"
    tensors = load_file(f"{published}.safetensors")
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    speech = speech_config(json.loads(Path(f"{published}.json").read_text())["wav2vec2"])
    save_policy(tmp_path / "tiny", published_network(weights, speech, 4), FLAME_CHANNELS, {})
    head = graph.start_node("head_node", {"policy": str(tmp_path / "tiny"), "idle_life": False})
    head.wait_for_output("active", timeout=60)
    tell_where_the_head_is(graph)
    commands = graph.collect(JointTrajectory, "head_controller/joint_trajectory")
    poses = graph.collect(QuaternionStamped, "head/head_pose")
    reports = graph.collect(DiagnosticArray, "/diagnostics")
    talk(graph, *voices(4.0))
    graph.wait_until(lambda: len(poses) >= 50, "two seconds of poses")
    graph.wait_until(lambda: reports, "a report")
    resting_on_sound = [m for _, m in commands if m.header.frame_id != NO_SOUND]
    assert 3 <= len(resting_on_sound) <= 5
    steps = np.diff([ns(m.header.stamp) for _, m in poses])
    assert np.sum(steps != 40_000_000) <= 1  # the seam between waiting for sound and the first second
    policy = next(s for _, m in reports for s in m.status if s.name == "head: policy")
    assert "of the face only jawOpen moves" in policy.message
    assert {p.key: p.value for p in policy.values}["hop_frames"] == "25"
