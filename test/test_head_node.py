"""The head node as a process: two voices in; trajectories, face, pose, speaking, floor and diagnostics out."""

import gc
import json
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import TIMEOUT_S, Graph, NodeProcess

pytest.importorskip("rclpy")

import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import QuaternionStamped
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from safetensors.torch import load_file
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Int16MultiArray, String, UInt8MultiArray
from trajectory_msgs.msg import JointTrajectory

from timar_ros.channels import ARKIT_BLENDSHAPES, CHANNELS
from timar_ros.model.checkpoint import save_policy
from timar_ros.model.published_checkpoint import published_network, speech_config
from timar_ros.motion.flame import FLAME_CHANNELS
from timar_ros.nodes.head_node import PARAMETERS, HeadNode
from timar_ros.robot.command_timing import NO_SOUND
from timar_ros.stream.trace import decode_hop

DIALOGUES = Path(__file__).parent / "data" / "dialogues"
LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
PACKET = 160
MS = 1_000_000
START, CONFIGURE, ACTIVATE, DEACTIVATE, CLEANUP = 0, 1, 3, 4, 2
REACHED = {CONFIGURE: "inactive", ACTIVATE: "active", DEACTIVATE: "inactive", CLEANUP: "unconfigured"}


def ns(stamp: Time) -> int:
    return stamp.sec * 10**9 + stamp.nanosec


def voices(seconds: float) -> list[np.ndarray]:
    """A part of a test dialogue in which both speak, int16 at 16 kHz."""
    count = int(seconds * 16000)
    return [soundfile.read(DIALOGUES / f"dialogue_0_{p}.ogg", dtype="int16")[0][:count] for p in ("self", "partner")]


def microphones(graph) -> list:
    """Publishers of both voices."""
    return [graph.publisher(Int16MultiArray, topic) for topic in ("microphone/audio", "partner/audio")]


def talk(microphones: list, own: np.ndarray, partner: np.ndarray) -> None:
    """Publish both voices in packets of 10 ms, each when its last sample is due."""
    begin = time.monotonic()
    for at in range(0, min(len(own), len(partner)), PACKET):
        due = begin + (at + PACKET) / 16000
        time.sleep(max(0.0, due - time.monotonic()))
        for microphone, voice in zip(microphones, (own, partner), strict=True):
            microphone.publish(Int16MultiArray(data=voice[at : at + PACKET]))


def talk_until(condition, what: str, microphones: list, own: np.ndarray, partner: np.ndarray) -> None:
    """Publish both voices again and again: the head may hear these publishers later than they were seen."""
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, what
        talk(microphones, own, partner)


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
    answer = graph.call(ChangeState, "head/change_state", request, timeout=90, again_s=20)
    # Where the first answer was lost it was asked again, which a head that is there already refuses.
    return answer.success or state(graph) == REACHED[transition]


def state(graph) -> str:
    return graph.call(GetState, "head/get_state", GetState.Request()).current_state.label


@pytest.fixture(scope="module")
def heard(tmp_path_factory, real_time):
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
        voice_topics, silence = microphones(graph), np.zeros(1600, np.int16)
        talk_until(lambda: hears_both(received), "the head to hear both voices", voice_topics, silence, silence)
        talk(voice_topics, *voices(10.0))
        heard_s = len(received["/diagnostics"])
        graph.wait_until(lambda: len(received["/diagnostics"]) >= heard_s + 2, "a report after the last frame")
    finally:
        graph.close()
        head.kill()
    return received


def newest_figures(received) -> dict[str, dict[str, str]]:
    """What the diagnostics told last: status -> key -> value."""
    return {s.name: {p.key: p.value for p in s.values} for _, m in received["/diagnostics"] for s in m.status}


def hears_both(received) -> bool:
    figures = newest_figures(received)
    return all(int(figures.get(f"head: audio {p}", {}).get("packets", 0)) for p in ("self", "partner"))


def on_sound(commands) -> list[tuple[int, JointTrajectory]]:
    """Those that rest on sound; before it the head shows idle life."""
    return [(at, m) for at, m in commands if m.header.frame_id != NO_SOUND]


def sound_commands(heard) -> list[tuple[int, JointTrajectory]]:
    return on_sound(heard["head_controller/joint_trajectory"])


def test_every_hop_is_commanded_and_every_frame_shown(heard):
    figures = newest_figures(heard)
    sent_ns = np.array([at for at, _ in sound_commands(heard)])
    ends_ns = np.array([ns(m.header.stamp) for _, m in sound_commands(heard)])  # of each hop's last frame
    assert (np.diff(ends_ns) > 0).all() and set(np.diff(ends_ns) % (80 * MS)) == {0}
    poses, faces = ([ns(m.header.stamp) for _, m in heard[f"head/{name}"]] for name in ("head_pose", "blendshapes"))
    # Idle life, before the sound, counts by the node's own clock.
    idle = [stamp for stamp in poses if (stamp - ends_ns[0]) % (40 * MS)]
    begin_ns, end_ns = max([ends_ns[0], *idle]), min(poses[-1], faces[-1])
    due = [stamp for stamp in range(ends_ns[0], end_ns + 1, 40 * MS) if stamp > begin_ns]
    assert len(due) >= 235
    shown = [stamp for stamp in poses if begin_ns < stamp <= end_ns]
    assert [stamp for stamp in faces if begin_ns < stamp <= end_ns] == shown
    left_out = sorted(set(due) - set(shown))
    assert shown == [stamp for stamp in due if stamp not in left_out]
    # Left out is only what a machine that was busy elsewhere brought more than 300 ms too late.
    latest_ns = int(figures["head: policy"]["playout_delay_ms"]) * MS + 300 * MS
    for stamp in left_out:
        assert stamp + latest_ns < sent_ns[np.searchsorted(ends_ns, stamp, "right")]
    # And drawn together are only hops that waited for one that took too long.
    merged = int(figures["head: latency"]["merged_hops"])
    assert len(ends_ns) + merged + len(left_out) // 2 >= 120


def test_a_trajectory_counts_from_its_sound_moves_in_time_and_ends_at_rest(heard):
    ages_ns = [sent_ns - ns(m.header.stamp) for sent_ns, m in sound_commands(heard)]
    assert np.median(ages_ns) > 0  # of unstamped sound the capture is known to some tens of ms only
    for sent_ns, message in heard["head_controller/joint_trajectory"]:
        assert list(message.joint_names) == ["neck_yaw", "neck_pitch", "neck_roll"]
        offsets = [p.time_from_start.sec * 10**9 + p.time_from_start.nanosec for p in message.points]
        assert all(np.diff(offsets) > 0)
        planned_ns = ns(message.header.stamp) + offsets[0]  # the first point is of the present
        stopped_ns = sent_ns - planned_ns  # between planning and sending, by a machine that is busy elsewhere
        assert sent_ns < ns(message.header.stamp) + offsets[-1] or stopped_ns > 100 * MS
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
    statuses = newest_figures(heard)
    latency = statuses["head: latency"]
    assert 0 < float(latency["latency_ms_p50"]) <= float(latency["latency_ms_p99"])
    # Hops that a busy machine was late with are drawn together.
    assert int(latency["hops"]) + int(latency["merged_hops"]) >= 120 and int(latency["turns_by_floor"]) >= 1
    assert int(latency["frames"]) >= 240
    assert 100 < float(latency["rss_mb"]) < 900
    assert int(statuses["head: audio self"]["packets"]) > 900
    assert statuses["head: policy"]["device"] in ("cpu", "cuda:0", "cuda")
    assert {s.hardware_id for _, m in heard["/diagnostics"] for s in m.status} == {"/head"}


def test_the_lifecycle_is_managed_and_deactivation_halts_and_silences(graph):
    head = graph.start_node("head_node", {"autostart": False})
    assert state(graph) == "unconfigured"
    assert change_state(graph, CONFIGURE)
    commands = graph.collect(JointTrajectory, "head_controller/joint_trajectory")
    voice_topics = microphones(graph)
    talk(voice_topics, *voices(1.0))
    assert commands == []
    assert change_state(graph, ACTIVATE)
    tell_where_the_head_is(graph)
    talk_until(lambda: len(on_sound(commands)) > 10, "commands", voice_topics, *voices(2.0))
    assert change_state(graph, DEACTIVATE)
    graph.wait_until(lambda: commands[-1][1].header.frame_id == NO_SOUND, "the halt, which is the last command")
    silent = len(commands)
    assert np.allclose(commands[-1][1].points[-1].velocities, 0)
    talk(voice_topics, *voices(0.5))
    assert len(commands) == silent
    for transition in (CONFIGURE, 99):  # neither is offered now
        request = ChangeState.Request()
        request.transition.id = transition
        assert not graph.call(ChangeState, "head/change_state", request, timeout=90, again_s=20).success
    assert "transition 1 is refused: the node is inactive" in head.output() and state(graph) == "inactive"
    assert change_state(graph, ACTIVATE)
    tell_where_the_head_is(graph)
    talk_until(lambda: len(commands) > silent, "commands", voice_topics, *voices(1.0))
    assert change_state(graph, DEACTIVATE) and change_state(graph, CLEANUP)
    assert change_state(graph, CONFIGURE) and state(graph) == "inactive"
    assert head.stop() == 0


def test_a_head_that_nobody_tells_of_is_not_commanded_and_the_diagnostics_say_so(graph):
    head = graph.start_node("head_node")
    commands = graph.collect(JointTrajectory, "head_controller/joint_trajectory")
    told = graph.collect(DiagnosticArray, "/diagnostics")
    joints = graph.publisher(JointState, "joint_states")

    def errors() -> list[str]:
        joints.publish(JointState(name=["neck_yaw", "neck_pitch", "tilt"], position=[0.3, np.nan, 0.0]))
        return [s.message for _, m in told for s in m.status if s.level == DiagnosticStatus.ERROR]

    graph.wait_until(errors, "an error")
    assert "does not tell where neck_pitch, neck_roll is" in errors()[0]
    seen = len(told)
    graph.wait_until(lambda: len(told) > seen + 2, "two seconds more")
    assert commands == [] and head.running
    assert head.output().count("/joint_states does not tell where") == 1


@pytest.mark.parametrize("sound", [False, True], ids=["without sound", "with sound"])
def test_a_clock_that_goes_back_does_not_stop_neck_and_face(graph, sound):
    """As a simulator does that is reset, or a bag that is played again; sound was captured before time began, then."""
    head = graph.start_node("head_node", {"use_sim_time": True})
    head.wait_for_output("active", timeout=60)
    received = {
        topic: graph.collect(kind, topic)
        for topic, kind in {"head_controller/joint_trajectory": JointTrajectory, "head/blendshapes": JointState}.items()
    }
    clock, joints = graph.publisher(Clock, "/clock", matched=1), graph.publisher(JointState, "joint_states")
    heard = microphones(graph) if sound else []

    def run_clock(begin_s: int, most_s: int) -> None:
        """Until neck and face move before a time."""
        begin = time.monotonic()
        spoken = 0

        def moved() -> bool:
            nonlocal spoken
            time.sleep(0.01)
            elapsed_ns = round((time.monotonic() - begin) * 1e9)
            while spoken * 10 * MS < elapsed_ns:
                spoken += 1
                for microphone in heard:
                    microphone.publish(Int16MultiArray(data=np.full(PACKET, 100, np.int16)))
            clock.publish(Clock(clock=Time(sec=begin_s + elapsed_ns // 10**9, nanosec=elapsed_ns % 10**9)))
            joints.publish(JointState(name=["neck_yaw", "neck_pitch", "neck_roll"], position=[0.0, 0.0, 0.0]))
            found = [[m for _, m in got if m.header.stamp.sec < most_s] for got in received.values()]
            if sound:
                found[0] = [m for m in found[0] if m.header.frame_id != NO_SOUND]
            return all(len(messages) > 10 for messages in found)

        graph.wait_until(moved, f"motion before {most_s} s")

    run_clock(1000, 2000)
    run_clock(0, 900)
    assert "the clock went back by" in head.output()


def test_who_listens_to_the_trace_later_hears_nothing_that_was_said_before(graph):
    head = graph.start_node("head_node", {})
    head.wait_for_output("active", timeout=60)
    latched = QoSProfile(depth=500, durability=DurabilityPolicy.TRANSIENT_LOCAL)

    def said(messages: list) -> list[bool]:
        hops = [decode_hop(message.data.tobytes()).hop for _, message in messages]
        return [any(frame.partner.any() for frame in hop.frames) for hop in hops]

    first = graph.collect(UInt8MultiArray, "head/trace", latched)
    heard = microphones(graph)
    own, partner = voices(1.0)
    talk_until(lambda: said(first).count(False) > 3, "silence", heard, np.zeros_like(own), np.zeros_like(partner))
    talk_until(lambda: said(first).count(True) > 3, "speech", heard, own, partner)
    time.sleep(3.0)
    later = graph.collect(UInt8MultiArray, "head/trace", latched)
    graph.wait_until(lambda: len(later) > 3, "the silence before the first sound")
    time.sleep(0.5)
    assert not any(said(later))


def test_the_partners_face_reaches_the_policy(graph):
    head = graph.start_node("head_node", {})
    head.wait_for_output("active", timeout=60)
    trace = graph.collect(UInt8MultiArray, "head/trace", 1000)
    faces = graph.publisher(JointState, "partner/blendshapes")
    voice_topics, (own, partner) = microphones(graph), voices(0.2)

    def seen() -> list[np.ndarray]:
        faces.publish(JointState(name=["jawOpen", "nose"], position=[0.7, 1.0]))
        talk(voice_topics, own, partner)
        frames = [frame for _, m in trace[-3:] for frame in decode_hop(m.data.tobytes()).hop.frames]
        return [frame.partner_motion for frame in frames if frame.partner_motion is not None]

    graph.wait_until(seen, "a face that is seen")
    motion = seen()[-1]
    assert motion[CHANNELS.index("jawOpen")] == pytest.approx(0.7)
    assert np.isnan(motion).sum() == len(CHANNELS) - 1


def test_wrong_messages_are_told_and_the_head_goes_on(graph):
    head = graph.start_node("head_node", {"audio_reliability": "reliable"})
    head.wait_for_output("active", timeout=60)
    for topic in ("partner/blendshapes", "partner/head_pose"):  # of trackers, which do not wait
        graph.wait_until(lambda name=topic: graph.node.get_subscriptions_info_by_topic(f"/{name}"), topic)
        (found,) = graph.node.get_subscriptions_info_by_topic(f"/{topic}")
        assert found.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    commands = graph.collect(JointTrajectory, "head_controller/joint_trajectory")
    microphone = graph.publisher(Int16MultiArray, "microphone/audio")
    microphone.publish(Int16MultiArray(data=[]))
    microphone.publish(Int16MultiArray(data=np.zeros(5_000_001, np.int16)))
    assert "expected at most" in head.wait_for_output("microphone/audio: ")
    tell_where_the_head_is(graph)
    talk_until(lambda: len(on_sound(commands)) >= 8, "commands", microphones(graph), *voices(1.0))
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


@pytest.fixture
def head_here():
    """A head node of this process that nothing was asked of yet."""
    rclpy.init(args=["--ros-args", "-p", "autostart:=false"])
    head = HeadNode()
    yield head
    head.close()
    head.destroy_node()
    rclpy.shutdown()


def endpoints(node) -> list[str]:
    topics = [f"{type(end).__name__} {end.topic_name}" for end in (*node.publishers, *node.subscriptions)]
    return sorted([*topics, *(service.srv_name for service in node.services), *("timer" for _ in node.timers)])


def test_cleanup_gives_the_policy_back(head_here):
    """And with it a GPU's memory; configured again it would be there twice."""
    assert head_here.trigger_configure() == TransitionCallbackReturn.SUCCESS
    network = weakref.ref(head_here._policy.network)
    assert head_here.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    gc.collect()
    assert network() is None


@pytest.mark.parametrize("step", ["_warm_up", "_make_subscriptions", "_begin_conversation", "_fall_silent"])
def test_a_defect_in_a_transition_is_logged_and_leaves_nothing_behind(head_here, monkeypatch, capfd, step):
    monkeypatch.setattr(head_here, "_warm_up", lambda: 20.0)
    before = endpoints(head_here)

    def break_down(*_) -> None:
        raise RuntimeError("CUDA error: out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(head_here, step, break_down)
        transitions = (head_here.trigger_configure, head_here.trigger_activate, head_here.trigger_deactivate)
        assert any(change() != TransitionCallbackReturn.SUCCESS for change in transitions)
    said = capfd.readouterr().err
    assert "Traceback" in said and "RuntimeError: CUDA error: out of memory" in said
    assert endpoints(head_here) == before
    assert head_here.trigger_configure() == TransitionCallbackReturn.SUCCESS


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
    talk_until(lambda: len(on_sound(commands)) >= 3, "three seconds", microphones(graph), *voices(4.0))
    graph.wait_until(lambda: reports, "a report")
    ends = [ns(m.header.stamp) for _, m in on_sound(commands)]
    graph.wait_until(lambda: ns(poses[-1][1].header.stamp) > ends[0] + 2000 * MS, "two seconds of poses")
    assert set(np.diff(ends)) == {1000 * MS}
    stamps = [ns(m.header.stamp) for _, m in poses]
    drawn = [stamp for stamp in stamps if (stamp - ends[0]) % (40 * MS) == 0]  # before it: waiting for sound
    assert len(drawn) >= 50 and set(np.diff(drawn)) == {40 * MS}
    policy = next(s for _, m in reports for s in m.status if s.name == "head: policy")
    assert "of the face only jawOpen moves" in policy.message
    assert {p.key: p.value for p in policy.values}["hop_frames"] == "25"
