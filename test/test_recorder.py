"""The recorder: what was on the topics is in the bag, byte for byte."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import TIMEOUT_S

pytest.importorskip("rclpy")

import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import JointState
from std_msgs.msg import Int16MultiArray, String

from timar_ros.nodes import runtime
from timar_ros.nodes.recorder import Recorder, TypeUnknownError, register_type
from timar_ros.replay.bag import read_recording

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
BEST_EFFORT = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)


def read(path):
    """{topic: [(time in ns, bytes)]}, {topic: connection}"""
    with Reader(Path(path)) as reader:
        messages = {c.topic: [] for c in reader.connections}
        for connection, time_ns, data in reader.messages():
            messages[connection.topic].append((time_ns, bytes(data)))
        return messages, {c.topic: c for c in reader.connections}


def test_every_topic_is_recorded_byte_for_byte(graph, tmp_path):
    bag = tmp_path / "bag"
    latched = graph.node.create_publisher(String, "floor", LATCHED)
    latched.publish(String(data="self"))
    recorder = graph.start_node("recorder", {"out": bag})
    recorder.wait_for_output("recording to")
    audio = graph.publisher(Int16MultiArray, "microphone/audio", BEST_EFFORT)
    states = graph.publisher(JointState, "joint_states", 50)
    graph.wait_for_match(latched)
    came = {
        "/microphone/audio": graph.collect_raw(Int16MultiArray, "microphone/audio", BEST_EFFORT),
        "/joint_states": graph.collect_raw(JointState, "joint_states"),
        "/floor": graph.collect_raw(String, "floor", LATCHED),
    }
    sounds = [Int16MultiArray(data=[k, -k, 7]) for k in range(40)]
    poses = [JointState(name=["jaw"], position=[0.01 * k]) for k in range(40)]
    begin_ns = graph.now_ns()
    for sound, pose in zip(sounds, poses, strict=True):
        audio.publish(sound)
        states.publish(pose)
        time.sleep(0.005)
    # The last pose was acknowledged: so all before it has come, sound as well.
    assert states.wait_for_all_acked() and latched.wait_for_all_acked()
    graph.wait_until(lambda: [len(messages) for messages in came.values()] == [40, 40, 1], "all messages")
    assert recorder.stop(signal.SIGINT) == 0
    messages, connections = read(bag)
    for topic, count in (("/microphone/audio", 40), ("/joint_states", 40), ("/floor", 1)):
        assert len(messages[topic]) == len(came[topic]) == count
        for (_, recorded), own in zip(messages[topic], came[topic], strict=True):
            # On the way between processes messages are filled up to a multiple of 4 bytes.
            assert recorded.startswith(own) and len(recorded) - len(own) < 4
    times = np.array([t for t, _ in messages["/joint_states"]])
    assert (np.diff(times) > 0).all()
    assert begin_ns < times[0] and times[-1] < graph.now_ns()
    offered = {topic: c.ext.offered_qos_profiles[0] for topic, c in connections.items()}
    assert offered["/microphone/audio"].reliability == QosReliability.BEST_EFFORT
    assert offered["/joint_states"].reliability == QosReliability.RELIABLE
    assert offered["/floor"].durability == QosDurability.TRANSIENT_LOCAL
    typestore = get_typestore(Stores.ROS2_JAZZY)
    last = typestore.deserialize_cdr(messages["/joint_states"][-1][1], "sensor_msgs/msg/JointState")
    assert last.position.tolist() == pytest.approx([0.39])


def test_a_full_disk_ends_it_with_a_sentence_and_what_was_written_opens(graph, tmp_path):
    """The largest file that the process may write is small, which is an error as that of a full disk."""
    bag = tmp_path / "bag"
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000));"
        "from timar_ros.nodes import recorder; sys.exit(recorder.main())"
    )
    command = [sys.executable, "-c", script, "--ros-args", "-p", f"out:={bag}", "-p", "topics:=[talk]"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as recorder:
        talk = graph.publisher(String, "talk", 10)
        limit = time.monotonic() + TIMEOUT_S
        while recorder.poll() is None:
            assert time.monotonic() < limit
            talk.publish(String(data="x" * 20_000))
            time.sleep(0.02)
        told = recorder.stderr.read()
    assert recorder.returncode == 1
    assert told.count("recorder: writing the bag") == 1, told
    assert "make room on the disk" in told and "Traceback" not in told
    recording = read_recording(bag)
    assert recording.topics["/talk"][1] > 3


def test_only_the_topics_asked_for_are_recorded(graph, tmp_path):
    bag = tmp_path / "bag"
    recorder = graph.start_node("recorder", {"out": bag, "topics": "[wanted]"})
    recorder.wait_for_output("recording to")
    wanted = graph.publisher(String, "wanted")
    other = graph.node.create_publisher(String, "other", 10)
    other.publish(String(data="no"))
    wanted.publish(String(data="yes"))
    assert wanted.wait_for_all_acked()
    assert recorder.stop(signal.SIGTERM) == 0
    messages, _ = read(bag)
    assert list(messages) == ["/wanted"] and len(messages["/wanted"]) == 1


def test_a_later_best_effort_publisher_is_heard_too(graph, tmp_path):
    bag = tmp_path / "bag"
    recorder = graph.start_node("recorder", {"out": bag, "topics": "[talk]"})
    first = graph.publisher(String, "talk", 10)
    first.publish(String(data="first"))
    second = graph.publisher(String, "talk", BEST_EFFORT)
    for _ in range(100):  # again and again: nobody asks for best effort that was lost
        second.publish(String(data="second"))
        time.sleep(0.02)
    assert recorder.stop() == 0
    messages, _ = read(bag)
    assert any(b"second" in data for _, data in messages["/talk"])


def test_a_killed_recorder_leaves_a_bag_that_opens(graph, tmp_path):
    bag = tmp_path / "bag"
    recorder = graph.start_node("recorder", {"out": bag, "topics": "[talk]"})
    talk = graph.publisher(String, "talk", 10)
    sent = 0

    def send() -> None:
        nonlocal sent
        talk.publish(String(data=str(sent)))
        sent += 1
        time.sleep(0.02)

    def held() -> int:
        """How many messages the unfinished bag holds."""
        try:
            return len(read(bag)[0]["/talk"])
        except Exception:  # it has just been opened, or is being written
            return 0

    end = time.monotonic() + TIMEOUT_S
    while sent < 175 or (before := held()) <= 0.3 * sent:
        assert time.monotonic() < end, "most of what was sent is not in the bag"
        send()
    recorder.kill()
    messages, _ = read(bag)
    assert len(messages["/talk"]) >= before


def test_what_has_come_but_was_not_taken_is_recorded_at_the_end(graph, tmp_path):
    bag = tmp_path / "bag"
    rclpy.init(args=runtime.ros_arguments({"out": str(bag), "topics": ["talk"]}))
    try:
        talk = graph.node.create_publisher(String, "talk", 100)
        recorder = Recorder()
        while not talk.get_subscription_count():
            rclpy.spin_once(recorder, timeout_sec=0.05)
        for k in range(100):
            talk.publish(String(data=str(k)))
        assert talk.wait_for_all_acked()
        recorder.close()
        recorder.destroy_node()
    finally:
        rclpy.shutdown()
    assert len(read(bag)[0]["/talk"]) == 100


def test_an_existing_folder_is_not_touched(start_node, tmp_path):
    (tmp_path / "bag").mkdir()
    recorder = start_node("recorder", {"out": tmp_path / "bag"})
    assert recorder.wait() == 1
    assert "exists already" in recorder.output()
    assert not any((tmp_path / "bag").iterdir())


def test_keeps_up_with_600_messages_a_second(graph, tmp_path):
    bag = tmp_path / "bag"
    publishers = [graph.node.create_publisher(Int16MultiArray, f"load_{k}", 500) for k in range(6)]
    recorder = graph.start_node("recorder", {"out": bag})
    for publisher in publishers:
        graph.wait_for_match(publisher)
    message = Int16MultiArray(data=list(range(320)))

    due = time.monotonic()
    for _ in range(300):
        for publisher in publishers:
            publisher.publish(message)
        due = max(due + 0.01, time.monotonic())  # after a stop of this process the rest is no faster
        time.sleep(max(0.0, due - time.monotonic()))
    for publisher in publishers:
        assert publisher.wait_for_all_acked()
    assert recorder.stop() == 0
    messages, _ = read(bag)
    assert [len(messages[f"/load_{k}"]) for k in range(6)] == [300] * 6


@pytest.fixture
def own_package(tmp_path, monkeypatch):
    """An installed package with message definitions that rosbags does not know."""
    folder = tmp_path / "share" / "toy_msgs" / "msg"
    folder.mkdir(parents=True)
    (folder / "Toy.msg").write_text("std_msgs/Header header\nPart[] parts\nfloat32 size\n")
    (folder / "Part.msg").write_text("string name\n")
    (folder / "Broken.msg").write_text("other_toy_msgs/Thing thing\n")
    index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "toy_msgs").touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path), prepend=os.pathsep)


def test_a_type_rosbags_does_not_know_is_read_from_its_package(own_package):
    typestore = get_typestore(Stores.ROS2_JAZZY)
    register_type(typestore, "toy_msgs/msg/Toy")
    toy, part = typestore.types["toy_msgs/msg/Toy"], typestore.types["toy_msgs/msg/Part"]
    header = typestore.types["std_msgs/msg/Header"](
        stamp=typestore.types["builtin_interfaces/msg/Time"](sec=1, nanosec=2), frame_id="f"
    )
    message = toy(header=header, parts=[part(name="wheel")], size=2.5)
    data = typestore.serialize_cdr(message, "toy_msgs/msg/Toy")
    assert typestore.deserialize_cdr(data, "toy_msgs/msg/Toy").parts[0].name == "wheel"


@pytest.mark.parametrize("name", ["toy_msgs/msg/Broken", "not_there_msgs/msg/Thing"])
def test_a_type_that_is_nowhere_is_named_with_its_package(own_package, name):
    with pytest.raises(TypeUnknownError, match="sudo apt install ros-.*-msgs"):
        register_type(get_typestore(Stores.ROS2_JAZZY), name)
