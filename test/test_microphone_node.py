"""The microphone node: sound files in real time, and microphones that are not there."""

import importlib.util
import itertools
import signal

import numpy as np
import pytest
import soundfile
import soxr

pytest.importorskip("rclpy")

from builtin_interfaces.msg import Time
from rcl_interfaces.srv import GetParameters
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Int16MultiArray

from timar_ros.nodes.microphone_node import CaptureClock

MS = 1_000_000


@pytest.fixture
def stereo_file(tmp_path):
    """3.207 s of two tones in 44.1 kHz stereo FLAC, and the same as 16 kHz mono."""
    t = np.arange(round(44100 * 3.207)) / 44100
    sound = np.stack([0.4 * np.sin(2500 * t), 0.3 * np.sin(700 * t)], axis=1)
    path = tmp_path / "voice.flac"
    soundfile.write(path, sound, 44100, subtype="PCM_24")
    return path, soxr.resample(sound.mean(axis=1), 44100, 16000)


def heard(packets):
    return np.concatenate([np.array(m.data) for _, m in packets]) / 32768


def test_a_file_of_any_format_arrives_whole_and_in_real_time(graph, stereo_file):
    path, expected = stereo_file
    node = graph.start_node("microphone_node", {"file": path, "exit_at_end": True})
    packets = graph.collect(Int16MultiArray, "microphone/audio")
    assert node.wait() == 0
    assert "nothing more is published" in node.output()
    graph.wait_until(lambda: len(packets) == 321, "all packets")
    assert {len(m.data) for _, m in packets[:-1]} == {160}
    np.testing.assert_allclose(heard(packets), expected[: len(heard(packets))], atol=1e-3)
    assert abs(len(heard(packets)) - len(expected)) <= 1
    # Packet k is due (k + 1) * 10 ms after the start; how late one may come is the machine's affair.
    lateness = np.array([t for t, _ in packets]) / MS - np.arange(len(packets)) * 10.0
    assert lateness[:160].min() == pytest.approx(lateness[160:].min(), abs=20.0)


def test_start_at_is_when_the_file_begins(graph, tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * 16000)
    soundfile.write(tmp_path / "noise.wav", noise, 16000)
    for ahead_s in (4, 12, 36):  # a busy machine takes its time to start the node
        start_ns = graph.now_ns() + ahead_s * 1000 * MS
        parameters = {"file": tmp_path / "noise.wav", "start_at": f"{start_ns / 1e9:.9f}"}
        node = graph.start_node("microphone_node", parameters)
        packets = graph.collect(Int16MultiArray, "microphone/audio")
        if "left out" not in node.wait_for_output("playing"):
            break
        node.kill()
    node.wait_for_output("end of")
    graph.wait_until(lambda: np.abs(heard(packets[-1:]) - noise[-160:]).max() < 1e-3, "the last packet")
    # The first packets may have found nobody there yet: they are told by what they hold.
    pieces = noise.reshape(-1, 160)
    numbers = [int(np.abs(pieces - heard([packet])).max(axis=1).argmin()) for packet in packets]
    # The first packet is captured 10 ms after the start; how late one may come is the machine's affair.
    lateness = [(t - start_ns) / MS - 10.0 * (k + 1) for (t, _), k in zip(packets, numbers, strict=True)]
    assert -1.0 < min(lateness) < 50.0


@pytest.mark.parametrize(("start_at", "first"), [(1030.0, 1000), (0.0, 1030)])
def test_a_file_begins_by_simulated_time(graph, tmp_path, start_at, first):
    soundfile.write(tmp_path / "noise.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 16000), 16000)
    parameters = {"file": tmp_path / "noise.wav", "start_at": start_at, "use_sim_time": True}
    node = graph.start_node("microphone_node", parameters)
    packets = graph.collect(Int16MultiArray, "microphone/audio")
    clock = graph.publisher(Clock, "/clock")
    # An answer takes longer than a file that may begin.
    graph.call(GetParameters, "/microphone/get_parameters", GetParameters.Request(names=["file"]))
    assert "playing" not in node.output()
    seconds = itertools.chain(range(first, 1030), itertools.repeat(1030))

    def begun() -> bool:
        clock.publish(Clock(clock=Time(sec=next(seconds))))
        return "playing" in node.output()

    graph.wait_until(begun, "the file to begin")
    graph.wait_until(lambda: len(packets) >= 50, "packets")
    assert ("start_at is in 1030 s by this node's clock" in node.output()) == (start_at > 0)
    assert "left out" not in node.output()


def test_what_should_have_been_heard_by_now_is_left_out(graph, tmp_path):
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 30 * 16000)
    soundfile.write(tmp_path / "noise.wav", noise, 16000)
    start_ns = graph.now_ns() - 600 * MS
    node = graph.start_node(
        "microphone_node", {"file": tmp_path / "noise.wav", "start_at": f"{start_ns / 1e9:.9f}", "packet_ms": 10}
    )
    packets = graph.collect(Int16MultiArray, "microphone/audio")
    graph.wait_until(lambda: len(packets) >= 20, "packets")
    assert "left out" in node.output()
    pieces = noise.reshape(-1, 160)
    sent_ns, first = packets[0]
    number = int(np.abs(pieces - heard([(sent_ns, first)])).max(axis=1).argmin())
    assert number >= 60
    # In time from the first on: its last sample is captured when it is sent.
    assert (sent_ns - start_ns) / MS - 10.0 * (number + 1) < 50.0


def test_a_looped_file_goes_on_without_a_gap(graph, tmp_path):
    period = 800  # samples: 50 ms, no whole number of packets of 20 ms
    tone = 0.5 * np.sin(2 * np.pi * 3 * np.arange(period) / period)
    soundfile.write(tmp_path / "loop.wav", tone, 16000)
    graph.start_node("microphone_node", {"file": tmp_path / "loop.wav", "loop": True, "packet_ms": 20})
    packets = graph.collect(Int16MultiArray, "microphone/audio")
    graph.wait_until(lambda: len(packets) >= 40, "packets")
    sound = heard(packets[:40])
    np.testing.assert_allclose(sound[period:], sound[:-period], atol=1e-4)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (b"this is no sound at all", "no sound file that can be read"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "no sound file that can be read"),
    ],
)
def test_a_file_that_is_no_sound_file_ends_the_node_with_a_sentence(start_node, tmp_path, content, words):
    path = tmp_path / "voice.wav"
    if content is not None:
        path.write_bytes(content)
    node = start_node("microphone_node", {"file": path})
    assert node.wait() == 1
    assert words in node.output() and str(path) in node.output()
    assert "Traceback" not in node.output()


def test_a_file_that_breaks_off_ends_the_node_with_a_sentence(graph, stereo_file):
    path, expected = stereo_file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    node = graph.start_node("microphone_node", {"file": path})
    packets = graph.collect(Int16MultiArray, "microphone/audio")
    assert node.wait() == 1
    assert f"{path} cannot be read beyond" in node.output()
    assert "Traceback" not in node.output()
    assert len(packets) >= 50  # until there


def test_a_message_type_that_is_not_installed_is_named_with_its_package(start_node):
    if importlib.util.find_spec("naoqi_bridge_msgs") is not None:
        pytest.skip("naoqi_bridge_msgs is installed here")
    node = start_node("microphone_node", {"message_type": "naoqi_bridge_msgs/msg/AudioBuffer"})
    assert node.wait() == 1
    assert "sudo apt install ros-$ROS_DISTRO-naoqi-bridge-msgs" in node.output()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_missing_microphone_is_told_once_and_waited_for(start_node, ending):
    node = start_node("microphone_node", {"device": "no such device", "retry_s": 0.2})
    output = node.wait_for_output("trying again every 0.2 s")
    assert "no such device" in output or "PortAudio is missing" in output
    with pytest.raises(Exception, match="timed out"):
        node.wait(timeout=1.0)
    assert node.stop(ending) == 0
    assert node.output().count("trying again") == 1


def test_without_portaudio_it_says_what_to_install(start_node, tmp_path):
    # What sounddevice does at import where the library is missing.
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')\n")
    node = start_node("microphone_node", env={"PYTHONPATH": str(tmp_path)})
    node.wait_for_output("sudo apt install libportaudio2")
    assert node.running
    assert node.stop() == 0


FAILING_SOUNDDEVICE = """
_initialized = 1
starts = 0

class PortAudioError(Exception):
    pass

def _terminate():
    global _initialized
    if not _initialized:
        raise PortAudioError("it is not there to be ended")
    _initialized -= 1

def _initialize():
    global _initialized, starts
    starts += 1
    if starts == 1:
        raise PortAudioError("no sound server")
    _initialized += 1

def query_devices(*_):
    raise LookupError("a defect of the second start")
"""


def test_a_portaudio_that_does_not_start_is_tried_again_and_a_defect_ends_the_node(start_node, tmp_path):
    (tmp_path / "sounddevice.py").write_text(FAILING_SOUNDDEVICE)
    node = start_node("microphone_node", {"retry_s": 0.1}, env={"PYTHONPATH": str(tmp_path)})
    assert node.wait() == 1
    assert "PortAudio does not start: no sound server" in node.output()
    assert "Traceback" in node.output() and "a defect of the second start" in node.output()


def test_capture_times_are_smooth_and_follow_the_device():
    rng = np.random.default_rng(2)
    clock = CaptureClock(48000)
    start = 1_800_000_000_000 * MS
    true_rate = 48000 * (1 + 200e-6)
    errors = []
    for k in range(3000):
        index = k * 480
        true_ns = start + index * 1e9 / true_rate
        clock.update(index, round(true_ns + rng.uniform(0, 8) * MS))
        errors.append((clock.time_ns(index) - true_ns) / MS)
    assert np.std(errors[200:]) < 0.6
    assert abs(np.mean(errors[200:]) - 4.0) < 0.5


def test_a_gap_in_the_capture_is_a_leap_of_the_clock():
    clock = CaptureClock(16000)
    clock.update(0, 0)
    clock.update(160, 500 * MS)
    assert clock.time_ns(160) == 500 * MS
