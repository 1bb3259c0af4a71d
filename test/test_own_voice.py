"""The own voice from a synthesiser, in the running graph: bursts, barge-in, mute, what is recorded."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import Graph, NodeProcess

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Empty, Int16MultiArray, String
from std_srvs.srv import SetBool, Trigger

from timar_ros.channels import ARKIT_BLENDSHAPES
from timar_ros.replay.bag import read_recording

DIALOGUES = Path(__file__).parent / "data" / "dialogues"
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
RATE = 16_000
JAW = ARKIT_BLENDSHAPES.index("jawOpen")
MS = 1_000_000


def speech(seconds: float) -> np.ndarray:
    """Speech without pauses, int16 at 16 kHz."""
    samples, _ = soundfile.read(DIALOGUES / "dialogue_0_self.ogg", dtype="int16")
    intervals = json.loads((DIALOGUES / "dialogue_0.json").read_text())["speech"]["self"]
    spoken = np.concatenate([samples[int(a * RATE) : int(b * RATE)] for a, b in intervals])
    return np.resize(spoken, int(seconds * RATE))


def sound(packets, from_ns=0):
    """(time of each packet's end in ns, its loudness) of unstamped packets after a time."""
    found = [(t, np.abs(np.array(m.data, np.float64)).max() / 32768) for t, m in packets if t > from_ns]
    return np.array([t for t, _ in found]), np.array([level for _, level in found])


@pytest.fixture(scope="module")
def stage(tmp_path_factory, real_time):
    """A head whose own voice is queued and known ahead, its speaker, a recorder, and what they say.

    (graph, topics, publisher of the voice, ends the recorder and gives its bag)
    """
    folder = tmp_path_factory.mktemp("own_voice")
    commands = {
        "recorder": ["-p", f"out:={folder / 'bag'}"],
        "head_node": ["-p", "own_voice:=queued", "-p", "lookahead_ms:=120"],
        "speaker_node": ["-r", "microphone/audio:=head/voice", "-p", "device:=no such device"],
    }
    nodes = [
        NodeProcess([sys.executable, "-m", f"timar_ros.nodes.{m}", "--ros-args", *a], folder / f"{m}.log", {})
        for m, a in commands.items()
    ]
    graph = Graph(start_node=None)
    try:
        nodes[1].wait_for_output("active", timeout=90)
        nodes[0].wait_for_output("recording /head/trace ")
        topics = {
            "voice": graph.collect(Int16MultiArray, "head/voice"),
            "played": graph.collect(Int16MultiArray, "speaker/played"),
            "face": graph.collect(JointState, "head/blendshapes"),
            "diagnostics": graph.collect(DiagnosticArray, "/diagnostics", 100),
            "muted": graph.collect(Bool, "self/is_muted", LATCHED),
        }
        voice = graph.publisher(Int16MultiArray, "microphone/audio", 5000, matched=2)

        def recorded() -> Path:
            assert nodes[0].stop(signal.SIGINT) == 0
            return folder / "bag"

        yield graph, topics, voice, recorded
    finally:
        graph.close()
        for node in nodes:
            node.kill()


def say(voice, samples: np.ndarray) -> None:
    """All at once, as a synthesiser that is faster than speech."""
    for part in np.array_split(samples, max(1, len(samples) // 800)):
        voice.publish(Int16MultiArray(data=part))


def wait_for_silence(graph, topics) -> None:
    def silent():
        levels = sound(topics["played"][-20:])[1]
        return len(levels) == 20 and levels.max() < 0.001

    graph.wait_until(silent, "silence")


def test_a_live_voice_has_nothing_to_flush(graph):
    graph.start_node("head_node", {}).wait_for_output("active", timeout=90)
    answer = graph.call(Trigger, "head/flush", Trigger.Request())
    assert not answer.success and "own_voice:=queued" in answer.message


def test_a_muted_partner_is_not_heard(graph):
    head = graph.start_node("head_node", {})
    head.wait_for_output("active", timeout=90)
    speaking = graph.collect(Bool, "partner/is_speaking", LATCHED)
    microphone = graph.start_node(
        "microphone_node",
        {"file": DIALOGUES / "dialogue_0_partner.ogg", "loop": True},
        "-r",
        "microphone/audio:=partner/audio",
    )
    packets = graph.collect(Int16MultiArray, "partner/audio")
    graph.wait_until(lambda: packets and any(m.data for _, m in speaking), "the partner to speak")
    assert graph.call(SetBool, "head/mute_partner", SetBool.Request(data=True)).success
    graph.wait_until(lambda: not speaking[-1][1].data, "the partner to be silent")
    graph.wait_until(lambda: graph.now_ns() > packets[-1][0] + 800 * MS, "the microphone to be silent")
    count = len(packets)
    assert graph.call(SetBool, "head/mute_partner", SetBool.Request(data=False)).success
    graph.wait_until(lambda: len(packets) > count + 10, "the partner to be heard again")
    assert microphone.running


def test_deactivation_breaks_the_own_voice_off_and_tells_that_nobody_speaks(graph):
    graph.start_node("head_node", {"own_voice": "queued"}).wait_for_output("active", timeout=90)
    packets = graph.collect(Int16MultiArray, "head/voice")
    flushed = graph.collect(Empty, "head/voice_flush")
    told = {
        topic: graph.collect(kind, topic, LATCHED)
        for topic, kind in {"self/is_speaking": Bool, "partner/is_speaking": Bool, "head/floor": String}.items()
    }
    voice = graph.publisher(Int16MultiArray, "microphone/audio", 5000)

    def newest() -> list:
        return [messages[-1][1].data if messages else None for messages in told.values()]

    def loud(since_ns: int) -> bool:
        return bool((sound(packets, since_ns)[1] > 0.02).any())

    def change_state(transition: int, reached: str) -> None:
        request = ChangeState.Request()
        request.transition.id = transition
        answer = graph.call(ChangeState, "head/change_state", request, again_s=20)
        state = graph.call(GetState, "head/get_state", GetState.Request()).current_state.label
        assert answer.success or state == reached

    say(voice, speech(60.0))
    graph.wait_until(lambda: newest() == [True, False, "self"], "the own voice")
    change_state(4, "inactive")
    inactive_ns = graph.now_ns()
    graph.wait_until(lambda: newest() == [False, False, "nobody"], "silence to be told")
    assert flushed, "the speaker and the synthesiser must fall silent as well"
    graph.wait_until(lambda: graph.now_ns() > inactive_ns + 700 * MS, "what may come after")
    assert not [t for t, _ in packets if t > inactive_ns + 100 * MS]
    change_state(3, "active")
    active_ns = graph.now_ns()
    graph.wait_until(lambda: sum(t > active_ns for t, _ in packets) > 50, "the voice topic, silent")
    assert not loud(active_ns)
    say(voice, speech(1.0))
    graph.wait_until(lambda: loud(active_ns), "what is said now")


# The tests from here on share a head, a speaker and a recorder, which run to the end of the module.


def test_a_burst_is_spoken_in_real_time_and_heard_with_the_lips(stage):
    graph, topics, voice, _ = stage
    said = speech(3.0)
    middle = said[RATE : 2 * RATE].astype(np.float64)

    def speak_and_hear() -> dict[str, tuple[float, float]]:
        """Of each topic how much of the middle second is found on it, and how long in s the whole was."""
        nonlocal begin_ns
        wait_for_silence(graph, topics)
        begin_ns = graph.now_ns()
        say(voice, said)
        graph.wait_until(lambda: (sound(topics["played"], begin_ns)[1] > 0.02).any(), "the sound")
        wait_for_silence(graph, topics)
        found = {}
        for name in ("voice", "played"):
            heard = np.concatenate([np.array(m.data) for t, m in topics[name] if t > begin_ns]).astype(np.float64)
            times, levels = sound(topics[name], begin_ns)
            loud = times[levels > 0.02]
            share = np.correlate(heard, middle, "valid").max() / np.square(middle).sum()
            found[name] = float(share), float(loud[-1] - loud[0]) / 1e9
        return found

    def whole(found: dict[str, tuple[float, float]]) -> bool:
        return all(share > 0.9 and 2.6 < seconds < 3.5 for share, seconds in found.values())

    begin_ns = 0
    found = speak_and_hear()
    for _ in range(4):  # a machine that is busy elsewhere for a moment leaves a gap in what is played
        if not whole(found):
            found = speak_and_hear()
    assert whole(found), found
    jaws = [m.position[JAW] for t, m in topics["face"] if t > begin_ns]
    assert np.std(jaws) > 0.02


def test_a_barge_in_silences_at_once_and_closes_the_mouth(stage):
    graph, topics, voice, _ = stage
    flush = graph.client(Trigger, "head/flush")
    assert graph.call(Trigger, "head/flush", Trigger.Request()).success  # both ways are matched from here on

    def mouth_is_open(begin_ns: int) -> bool:
        times, levels = sound(topics["played"][-4:], begin_ns)
        return len(levels) and levels[-1] > 0.1 and topics["face"][-1][1].position[JAW] > 0.15

    def barge_in() -> str:
        """What was not as it should be, if anything."""
        wait_for_silence(graph, topics)
        begin_ns = graph.now_ns()
        say(voice, speech(8.0))
        graph.wait_until(
            lambda: graph.now_ns() > begin_ns + 1000 * MS and mouth_is_open(begin_ns), "an open mouth that speaks"
        )
        asked_ns = graph.now_ns()
        answer = flush.call_async(Trigger.Request())
        graph.wait_until(lambda: answer.done() and graph.now_ns() > asked_ns + 900 * MS, "what comes after")
        assert answer.result().success and "dropped" in answer.result().message
        times, levels = sound(topics["played"], asked_ns)
        silent_ms = (times[levels > 0.01].max(initial=asked_ns) - asked_ns) / MS
        jaws = [((t - asked_ns) / MS, m.position[JAW]) for t, m in topics["face"] if t > asked_ns - 100 * MS]
        closed_ms = max((t for t, jaw in jaws if jaw > 0.1), default=0.0)
        step = max((abs(b[1] - a[1]) for a, b in zip(jaws, jaws[1:], strict=False)), default=0.0)
        told = (
            f"silent {silent_ms:.0f} ms and closed {closed_ms:.0f} ms after ~/flush was called; largest step {step:.2f}"
        )
        print(told)
        # 100 and 200 ms where the machine keeps up; counted in packets of 20 ms and frames of 40 ms, as it may be late.
        in_time = (levels > 0.01).sum() <= 6 and sum(0 < t <= closed_ms for t, _ in jaws) <= 5
        gentle = jaws and step < 0.75 * max(jaw for _, jaw in jaws)
        return "" if in_time and gentle else told

    wrong = barge_in()
    for _ in range(4):  # a machine that is busy elsewhere for a moment lets the speaker, or the head, know too late
        wrong = wrong and barge_in()
    assert not wrong
    wait_for_silence(graph, topics)


def test_what_is_on_its_way_at_a_barge_in_is_not_spoken(stage):
    graph, topics, voice, _ = stage
    flush = graph.client(Trigger, "head/flush")

    def spoken_after() -> int:
        """Packets of sound that came out of the head after a flush amid a burst."""
        wait_for_silence(graph, topics)
        parts, answer = np.array_split(speech(2.0), 40), None
        for i, part in enumerate(parts):
            if i == 10:
                answer = flush.call_async(Trigger.Request())
            say(voice, part)
            time.sleep(0.001)
        graph.wait_until(answer.done, "the answer")
        answered_ns = graph.now_ns()
        graph.wait_until(lambda: graph.now_ns() > answered_ns + 500 * MS, "what comes after")
        return int((sound(topics["voice"], answered_ns)[1] > 0.01).sum())

    spoken = spoken_after()
    for _ in range(4):  # a machine that is busy elsewhere amid the burst brings it later than 100 ms after the flush
        spoken = spoken and spoken_after()
    assert not spoken
    begin_ns = graph.now_ns()
    say(voice, speech(1.0))
    graph.wait_until(lambda: (sound(topics["voice"], begin_ns)[1] > 0.02).any(), "what is said after it")


def test_a_muted_voice_is_neither_spoken_nor_shown_nor_recorded(stage, start_node, tmp_path):
    graph, topics, voice, _ = stage
    wait_for_silence(graph, topics)
    assert [m.data for _, m in topics["muted"]][-1] is False
    answer = graph.call(SetBool, "head/mute_self", SetBool.Request(data=True))
    assert answer.success and answer.message == "self is muted"
    graph.wait_until(lambda: topics["muted"][-1][1].data, "the mute to be told")
    recorder = start_node("recorder", {"out": tmp_path / "bag"})
    recorder.wait_for_output("recording /head/blendshapes")
    graph.wait_for_match(voice, 3)
    begin_ns = graph.now_ns()
    say(voice, speech(2.0))
    graph.wait_until(lambda: graph.now_ns() > begin_ns + 1500 * MS, "time to be heard in")
    graph.wait_until(lambda: sum(t > begin_ns for t, _ in topics["face"]) > 30, "frames")
    assert recorder.stop(signal.SIGINT) == 0
    assert graph.call(SetBool, "head/mute_self", SetBool.Request(data=False)).success
    for name in ("voice", "played"):
        levels = sound(topics[name], begin_ns)[1]
        assert len(levels) and levels.max() == 0
    with Reader(tmp_path / "bag") as bag:
        counts = {c.topic: c.msgcount for c in bag.connections}
        told = [(c, data) for c, _, data in bag.messages() if c.topic == "/self/is_muted"]
    assert counts["/head/blendshapes"] > 10
    for topic in ("/microphone/audio", "/head/voice", "/speaker/played"):
        assert counts.get(topic, 0) == 0
    typestore = get_typestore(Stores.ROS2_JAZZY)
    assert typestore.deserialize_cdr(told[0][1], told[0][0].msgtype).data
    assert [span.value for span in read_recording(tmp_path / "bag").muted["self"]] == ["yes"]


def test_diagnostics_tell_of_the_queue_and_the_echo(stage):
    graph, topics, voice, _ = stage

    def figures() -> dict[str, dict[str, str]]:
        before = len(topics["diagnostics"])
        graph.wait_until(lambda: len(topics["diagnostics"]) > before, "diagnostics")
        return {s.name: {p.key: p.value for p in s.values} for s in topics["diagnostics"][-1][1].status}

    def underruns_of_a_burst() -> int:
        before = int(figures()["head: own voice"]["underruns"])
        say(voice, speech(1.0))
        begin_ns = graph.now_ns()
        graph.wait_until(lambda: (sound(topics["played"], begin_ns)[1] > 0.02).any(), "the sound")
        return int(figures()["head: own voice"]["underruns"]) - before

    underruns = underruns_of_a_burst()
    for _ in range(4):  # a machine that is busy elsewhere amid the burst makes it one
        underruns = underruns and underruns_of_a_burst()
    statuses = figures()
    assert int(statuses["head: own voice"]["chunks"]) > 100
    assert underruns == 0
    assert statuses["head: echo"]["echo_cancel"] == "auto" and statuses["head: echo"]["active"] == "True"


def test_what_was_heard_ahead_is_recorded_and_gives_the_same_motion_again(stage, tmp_path):
    """Bursts, what was dropped of them, and what was muted: all that the tests before this one said."""
    graph, topics, voice, recorded = stage
    wait_for_silence(graph, topics)
    begin_ns = graph.now_ns()
    say(voice, speech(1.0))
    graph.wait_until(lambda: (sound(topics["played"], begin_ns)[1] > 0.02).any(), "the sound")
    wait_for_silence(graph, topics)
    bag = recorded()
    frames = [frame for traced in read_recording(bag).hops for frame in traced.hop.frames]
    own, ahead = (np.array([getattr(frame, name) for frame in frames]) for name in ("own", "own_ahead"))
    # Of what is heard 120 ms later all was known but the beginnings of sentences that found the queue empty, and what
    # was dropped. By loudness, since packets that a busy machine brings late are moved by the pairing.
    loudness, known = (np.log(np.square(voice).mean(axis=1) + 1e-5) for voice in (own[3:], ahead[:-3]))
    assert np.ptp(loudness) > 5 and np.corrcoef(loudness, known)[0, 1] > 0.7
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "timar_ros.cli", "evaluate", bag, "--json", figures]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    live = json.loads(figures.read_text())["live"]
    assert live["exact"] and live["lookahead_frames"] == 3, done.stdout
