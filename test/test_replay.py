"""A bag is played into the running graph in its time, or by its own clock; a graph is recorded by a command."""

import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic_bag import START_NS, Invented, invented_messages, write_bag, write_messages

pytest.importorskip("rclpy")

from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Int16MultiArray, String

from timar_ros.nodes import replay
from timar_ros.replay.bag import BagMessage, read_recording
from timar_ros.stream.audio_messages import AudioChunk

INVENTED = Invented(seconds=2.0)
STAMPED = "audio_common_msgs/msg/AudioDataStamped"


@pytest.fixture
def bag(tmp_path):
    return write_bag(tmp_path / "bag", INVENTED)


def joined(received: list) -> np.ndarray:
    return np.concatenate([np.asarray(message.data, np.int16) for _, message in received])


def test_sound_is_played_in_its_time_to_the_last_sample(graph, tmp_path):
    invented = Invented(seconds=4.0)
    bag = write_bag(tmp_path / "bag", invented)
    node = graph.start_node("replay", {"bag": bag})
    own = graph.collect(Int16MultiArray, "microphone/audio")
    partner = graph.collect(Int16MultiArray, "partner/audio")
    assert node.wait(30) == 0
    graph.wait_until(lambda: len(own) == len(partner) == 200, "200 packets of each voice")
    assert np.array_equal(joined(own), invented.voice("self"))
    assert np.array_equal(joined(partner), invented.voice("partner"))
    # In its time: what of each half was sent soonest, as the rest may have been kept by a busy machine.
    late = np.array([sent_ns - k * 20_000_000 for k, (sent_ns, _) in enumerate(own)])
    assert late[:100].min() == pytest.approx(late[100:].min(), abs=0.05e9)


def test_with_its_clock_a_bag_plays_at_any_rate(graph, tmp_path):
    bag = write_bag(tmp_path / "bag", Invented(seconds=8.0))
    clock = graph.collect(Clock, "/clock", matched=0)
    node = graph.start_node("replay", {"bag": bag, "clock": True, "rate": 4.0})
    own = graph.collect(Int16MultiArray, "microphone/audio")
    graph.collect(Int16MultiArray, "partner/audio")
    assert node.wait(30) == 0
    graph.wait_until(lambda: len(own) == 400, "all packets")
    assert (own[-1][0] - own[0][0]) / 1e9 < 5.0  # eight seconds of sound in two, and what a busy machine adds
    times = [message.clock.sec * 10**9 + message.clock.nanosec for _, message in clock]
    assert times == sorted(times)
    assert abs(times[0] - START_NS) < 1e8
    assert abs(times[-1] - START_NS - 9e9) < 2e8  # it runs on for a second, so that what was heard last is shown


def test_a_queued_voice_is_played_as_it_was_spoken(graph, tmp_path):
    messages, store = invented_messages(INVENTED)
    own = [(topic, time_ns, m) for topic, time_ns, m in messages if topic == "/microphone/audio"]
    spoken = [("/head/voice", time_ns, m) for _, time_ns, m in own]
    others = [each for each in messages if each[0] != "/microphone/audio"]
    bag = write_messages(tmp_path / "bag", sorted([*others, *spoken, *own[:5]], key=lambda each: each[1]), store)
    node = graph.start_node("replay", {"bag": bag})
    heard = graph.collect(Int16MultiArray, "microphone/audio")
    graph.collect(Int16MultiArray, "partner/audio")
    assert node.wait(30) == 0
    graph.wait_until(lambda: len(heard) == len(own), "all packets")
    assert np.array_equal(joined(heard), INVENTED.voice("self"))


def test_sound_of_a_type_that_is_not_installed_is_played_as_one_that_is(graph, tmp_path):
    try:
        import audio_common_msgs  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("audio_common_msgs is installed here")
    bag = write_bag(tmp_path / "bag", INVENTED, audio_type=STAMPED)
    node = graph.start_node("replay", {"bag": bag})
    own = graph.collect(Int16MultiArray, "microphone/audio")
    graph.collect(Int16MultiArray, "partner/audio")
    assert node.wait(30) == 0
    assert f"{STAMPED} is published as std_msgs/msg/Int16MultiArray" in node.output()
    graph.wait_until(lambda: len(own) == 100, "all packets")
    assert np.array_equal(joined(own), INVENTED.voice("self"))


def test_converted_sound_is_stamped_with_its_own_beginning_and_whole(monkeypatch):
    """Into a type of message that has a stamp, none of which is on a package index; its rate changes on the way."""
    told, hertz = [], 250.0
    monkeypatch.setattr(replay, "import_message_class", lambda name: None)
    monkeypatch.setattr(replay, "make_message", lambda _class, _type, samples, _rate, ns: told.append((ns, samples)))
    first = BagMessage("self_audio", "/microphone/audio", STAMPED, START_NS, b"")
    convert = replay._ConvertedAudio(SimpleNamespace(deserialize_cdr=lambda data, _: data), first, None, STAMPED)
    convert._decoder = SimpleNamespace(decode=lambda chunk: chunk)
    for k in range(100):
        rate = 48_000 if k < 50 else 24_000
        samples = np.sin(2 * np.pi * hertz * (k * 0.02 + np.arange(rate // 50) / rate)).astype(np.float32)
        convert(first._replace(data=AudioChunk(START_NS + k * 20_000_000, rate, samples)), 0)
    for stamp_ns, samples in told:
        time_s = (stamp_ns - START_NS) / 1e9 + np.arange(len(samples)) / 16_000
        seam = (np.abs(time_s) < 0.01) | (np.abs(time_s - 1.0) < 0.01)  # the filter hears silence beyond it
        np.testing.assert_allclose(samples[~seam], np.sin(2 * np.pi * hertz * time_s[~seam]), atol=0.01)
    assert sum(len(samples) for _, samples in told) / 16_000 == pytest.approx(2.0, abs=0.011)
    assert (told[50][0] - told[49][0]) * 16_000 == len(told[49][1]) * 1_000_000_000


def test_a_damaged_message_is_left_out_and_told(graph, tmp_path):
    """The rest is played, and the node ends with the bag."""
    messages, store = invented_messages(INVENTED, audio_type=STAMPED)
    sound = [message for topic, _, message in messages if topic == "/microphone/audio"]
    sound[40].audio.data = sound[40].audio.data[:3]
    bag = write_messages(tmp_path / "bag", messages, store)
    node = graph.start_node("replay", {"bag": bag})
    own = graph.collect(Int16MultiArray, "microphone/audio")
    graph.collect(Int16MultiArray, "partner/audio")
    assert node.wait(30) == 0
    assert "/microphone/audio: 1 messages are damaged and were left out" in node.output()
    graph.wait_until(lambda: len(own) == 99, "all other packets")


def test_nobody_listening_is_told(start_node, bag):
    node = start_node("replay", {"bag": bag})
    told = node.wait_for_output("waiting for subscribers of ")
    assert "/microphone/audio" in told and "ROS_DOMAIN_ID" in told and "--no-wait" in told
    assert node.stop() == 0


def test_further_topics_are_played_as_they_are_with_stamps_of_the_present(graph, bag):
    node = graph.start_node("replay", {"bag": bag, "topics": "[/head/blendshapes, /head/floor]"})
    faces = graph.collect(JointState, "/head/blendshapes")
    floors = graph.collect(String, "/head/floor")
    graph.collect(Int16MultiArray, "microphone/audio")
    graph.collect(Int16MultiArray, "partner/audio")
    assert node.wait(30) == 0
    graph.wait_until(lambda: len(faces) >= 45 and floors, "faces and floors")
    ages_ms = [(at - m.header.stamp.sec * 10**9 - m.header.stamp.nanosec) / 1e6 for at, m in faces]
    assert min(ages_ms) == pytest.approx(INVENTED.playout_ms, abs=150)  # a busy machine sends some late
    face = faces[10][1]
    assert face.position[17] == pytest.approx(INVENTED.face(0.4)[17], abs=0.3)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({}, "which bag? Give its folder"),
        ({"bag": "/nowhere"}, "there is no recording at /nowhere"),
        ({"bag": "BAG", "rate": 2.0}, "sound at another rate than 1 needs the bag's own time; set clock to true"),
        ({"bag": "BAG", "start_s": 100.0}, "which lies behind the bag's end"),
        ({"bag": "BAG", "names": "[mic=/a]"}, "expected ROLE=/TOPIC"),
        ({"bag": "SILENT"}, "holds no sound of either voice; name its topics"),
    ],
)
def test_what_cannot_be_played_is_refused_with_a_sentence(start_node, bag, tmp_path, parameters, sentence):
    silent = tmp_path / "silent"
    if parameters.get("bag") == "SILENT":
        write_bag(silent, INVENTED, without=("/microphone/audio", "/partner/audio"))
    places = {"BAG": bag, "SILENT": silent}
    node = start_node("replay", {name: places.get(value, value) for name, value in parameters.items()})
    assert node.wait(30) == 1
    assert sentence in node.output() and "Traceback" not in node.output()


def test_replayed_sound_moves_a_live_head_by_the_bags_clock(graph, tmp_path):
    """`timar replay BAG --clock --rate 2` with a head node that uses simulated time."""
    bag = write_bag(tmp_path / "bag", Invented(seconds=4.0))
    command = [sys.executable, "-m", "timar_ros.cli", "replay", str(bag), "--clock", "--rate", "2"]

    def played() -> list[int]:
        """The stamps of the faces that a head of its own showed."""
        head = graph.start_node("head_node", {"use_sim_time": True, "threads": 1})
        head.wait_for_output("active: policy")
        faces = graph.collect(JointState, "/head/blendshapes")
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        graph.wait_until(lambda: len(faces) > 20, "faces of the replayed conversation")
        assert head.stop() == 0
        return [message.header.stamp.sec * 10**9 + message.header.stamp.nanosec for _, message in faces]

    def seams(stamps: list[int]) -> int:
        return int(np.sum(np.diff(stamps) != 40_000_000))

    # Frames that come more than 300 ms too late are left out: at twice the speed a machine need be busy with something
    # else for a moment only. The seam is that between idle life and the first sound.
    stamps = played()
    for _ in range(3):
        if len(stamps) <= 60 or seams(stamps) > 1:
            stamps = played()
    assert len(stamps) > 60
    assert stamps[0] == pytest.approx(START_NS, abs=3e8)  # the bag's time, not the present
    assert seams(stamps) <= 1


def test_graph_is_recorded_by_a_command_that_says_what_it_lacks(graph, bag, tmp_path):
    out = tmp_path / "recorded"
    command = [sys.executable, "-m", "timar_ros.cli", "record", "--out", str(out)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        limit = time.monotonic() + 30
        while not (out / "recorded.mcap").exists():
            assert running.poll() is None and time.monotonic() < limit
            time.sleep(0.05)
        node = graph.start_node("replay", {"bag": bag})
        assert node.wait(40) == 0
    finally:
        running.send_signal(signal.SIGINT)
        try:
            printed, _ = running.communicate(timeout=30)
        finally:
            running.kill()
    assert running.returncode == 0 and "nothing was recorded of the head's trace" in printed
    recording = read_recording(out)
    assert {"/microphone/audio", "/partner/audio"} <= recording.topics.keys()
    assert len(recording.voices["self"].samples) > 1.5 * 16_000
