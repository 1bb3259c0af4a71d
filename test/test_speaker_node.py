"""The speaker node: the own voice, late by a set delay, on a device that may come and go."""

import os
import shutil
import signal
import subprocess
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
from std_msgs.msg import Int16MultiArray

from timar_ros.nodes import head_parameters, runtime, speaker_node
from timar_ros.nodes.speaker_node import PlayoutBuffer, SpeakerNode
from timar_ros.stream.audio_messages import AudioChunk
from timar_ros.stream.lookahead import lips_lead_ms

MS = 1_000_000
START = 1_800_000_000_000 * MS
RATE = 16000
PACKET = 160


def tone(packet):
    """Packet number ``packet`` of a tone that is never 0 for long."""
    index = np.arange(packet * PACKET, (packet + 1) * PACKET)
    return (0.5 + 0.4 * np.sin(0.05 * index)).astype(np.float32)


def at(packet, late_ms=0.0):
    return START + round((packet * 10 + late_ms) * MS)


def test_what_is_written_for_a_time_is_read_at_that_time():
    buffer = PlayoutBuffer(RATE)
    for k in range(5):
        buffer.write(at(k), tone(k))
    np.testing.assert_array_equal(buffer.read(at(2), PACKET), tone(2))
    np.testing.assert_array_equal(buffer.read(at(3), PACKET), tone(3))


def test_sound_is_heard_at_the_longest_delay_that_a_head_tells():
    (longest,) = (parameter.maximum for parameter in head_parameters.PARAMETERS if parameter.name == "playout_delay_ms")
    delay_ns = round(longest * 1e6) + round(lips_lead_ms(0) * 1e6)
    buffer, voice = PlayoutBuffer(RATE), np.ones(RATE // 100, np.float32)
    heard = []
    for packet in range(1000):  # ten seconds, in which what was spoken at a time is read the delay later
        now_ns = packet * 10_000_000
        buffer.write(now_ns, voice)
        heard.append(buffer.read(now_ns - delay_ns, len(voice)).mean())
    assert np.mean(heard[-100:]) > 0.99


def test_gaps_are_silent():
    buffer = PlayoutBuffer(RATE)
    buffer.write(at(0), tone(0))
    buffer.write(at(10), tone(10))
    read = np.concatenate([buffer.read(at(k), PACKET) for k in range(12)])
    np.testing.assert_array_equal(read[:PACKET], tone(0))
    assert not read[PACKET : 10 * PACKET].any()
    np.testing.assert_array_equal(read[10 * PACKET : 11 * PACKET], tone(10))


def test_jitter_of_stamps_and_callbacks_leaves_the_sound_whole():
    rng = np.random.default_rng(3)
    buffer = PlayoutBuffer(RATE)
    buffer.write(at(0), tone(0))
    buffer.read(at(-20), PACKET)
    for k in range(1, 100):
        buffer.write(at(k, rng.uniform(-8, 8)), tone(k))
    for k in range(-19, 0):
        buffer.read(at(k, rng.uniform(-1.5, 1.5)), PACKET)
    read = [buffer.read(at(k, rng.uniform(-1.5, 1.5)), PACKET) for k in range(100)]
    np.testing.assert_array_equal(np.concatenate(read), np.concatenate(list(map(tone, range(100)))))


def test_drift_between_the_clocks_is_followed_sample_by_sample():
    buffer = PlayoutBuffer(RATE)
    read = []
    for k in range(3000):
        buffer.write(at(k), np.full(PACKET, 0.5, np.float32))
        # The device is 500 ppm slow: its blocks fall ever later.
        read.append(buffer.read(at(k * (1 + 500e-6)) - 100 * MS, PACKET))
    sound = np.concatenate(read)[20 * PACKET :]
    assert (sound == 0.5).all()


def test_late_packets_do_not_come_round_again():
    buffer = PlayoutBuffer(RATE, seconds=1.0)
    buffer.read(at(50), PACKET)
    buffer.write(at(0), tone(0))
    assert not np.concatenate([buffer.read(at(k), PACKET) for k in range(51, 260)]).any()


def test_a_leap_of_the_reader_leaves_nothing_behind():
    buffer = PlayoutBuffer(RATE, seconds=1.0)
    buffer.read(at(0), PACKET)
    for k in range(1, 40):
        buffer.write(at(k), tone(k))
    assert buffer.read(at(60), PACKET).max() == 0
    assert not np.concatenate([buffer.read(at(k), PACKET) for k in range(61, 200)]).any()


def test_a_missing_loudspeaker_is_told_once_and_waited_for(graph):
    node = graph.start_node("speaker_node", {"device": "no such device", "retry_s": 0.2})
    node.wait_for_output("trying again every 0.2 s")
    voice = graph.publisher(Int16MultiArray, "microphone/audio")
    for _ in range(20):
        voice.publish(Int16MultiArray(data=[1000] * 160))
        time.sleep(0.01)
    assert node.running
    assert node.stop(signal.SIGTERM) == 0
    assert node.output().count("trying again") == 1


def test_a_voice_of_another_rate_than_the_device_is_laid_down_at_its_time_after_a_gap_too():
    buffer, device_rate, hertz = PlayoutBuffer(48_000), 48_000, 250.0
    speaker = SimpleNamespace(_resampler=None, _settings=SimpleNamespace(volume=1.0))
    buffer.read(START, 1)

    def wave(time_s: np.ndarray) -> np.ndarray:
        return np.sin(2 * np.pi * hertz * time_s).astype(np.float32)

    for begin_s in [*np.arange(0.1, 0.5, 0.01), *np.arange(1.0, 1.4, 0.01)]:
        samples = wave(begin_s + np.arange(PACKET) / RATE)
        SpeakerNode._lay_down(speaker, buffer, AudioChunk(START + round(begin_s * 1e9), RATE, samples), START)
    for begin_s, end_s in ((0.12, 0.48), (1.02, 1.38)):
        time_s = np.arange(begin_s, end_s, 1 / device_rate)
        heard = buffer.read(START + round(begin_s * 1e9), len(time_s))
        np.testing.assert_allclose(heard, wave(time_s), atol=0.01)


class IdleDeviceKeeper:
    """Stands in for `DeviceKeeper` where the test itself is the device."""

    def __init__(self, *_) -> None:
        pass

    def start(self) -> None:
        pass


def test_what_a_device_played_before_it_was_unplugged_is_told_at_its_rate(graph, monkeypatch):
    monkeypatch.setattr(speaker_node, "DeviceKeeper", IdleDeviceKeeper)
    rclpy.init(args=runtime.ros_arguments({"delay_ms": 100.0}))
    try:
        speaker = SpeakerNode()
        told = graph.collect(Int16MultiArray, "speaker/played")
        graph.wait_until(lambda: speaker._played_publisher.get_subscription_count(), "the subscription")
        device_rate, seconds = 48_000, 0.5
        buffer = PlayoutBuffer(device_rate)
        begin_ns = speaker.get_clock().now().nanoseconds
        for at_s in np.arange(0, seconds, 0.01):
            heard_ns = begin_ns + round(at_s * 1e9)
            speaker._fill(buffer, device_rate // 100, heard_ns - speaker.get_clock().now().nanoseconds)
        speaker._buffer = None
        graph.wait_until(lambda: speaker.get_clock().now().nanoseconds > begin_ns + seconds * 1e9, "the sound's end")
        speaker._tell_played()
        graph.wait_until(lambda: len(told) >= 24, "what was played")  # of 25 packets; the resampler holds some back
        assert len(told) <= 25
        speaker.destroy_node()
    finally:
        rclpy.shutdown()


@pytest.fixture
def sound_server(tmp_path):
    """The environment of a PulseAudio of the test's own, whose loudspeaker can be listened to."""
    if not shutil.which("pulseaudio") or not shutil.which("pactl"):
        pytest.skip("needs pulseaudio and libasound2-plugins")
    (tmp_path / "asound.conf").write_text("pcm.!default { type pulse hint { show on description pulse } }\n")
    runtime = tmp_path / "xdg"
    runtime.mkdir(mode=0o700)
    env = {
        "XDG_RUNTIME_DIR": str(runtime),
        "HOME": str(tmp_path),
        "ALSA_CONFIG_PATH": str(tmp_path / "asound.conf"),
    }
    arguments = ["--daemonize=no", "--exit-idle-time=-1", "-n"]
    modules = ["module-native-protocol-unix", "module-null-sink sink_name=void rate=48000"]
    server = subprocess.Popen(
        ["pulseaudio", *arguments, *(f"--load={module}" for module in modules)],
        env={**os.environ, **env},
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 10
    while time.monotonic() < end:
        asked = subprocess.run(["pactl", "info"], env={**os.environ, **env}, capture_output=True, timeout=10)
        if asked.returncode == 0:
            break
        time.sleep(0.1)
    else:
        server.kill()
        server.wait()
        pytest.skip("pulseaudio does not start here")
    yield env
    server.terminate()
    server.wait(10)


def test_the_voice_is_heard_the_delay_after_its_capture(graph, sound_server):
    """Played on a real sound server and recorded from it again by a microphone node."""
    speaker = graph.start_node("speaker_node", env=sound_server)
    ear = graph.start_node(
        "microphone_node",
        {},
        "-r",
        "__node:=ear",
        "-r",
        "microphone/audio:=ear/audio",
        env=sound_server,
    )
    for node in (speaker, ear):
        node.wait_for_output(" Hz")
    heard = graph.collect(Int16MultiArray, "ear/audio")
    voice = graph.publisher(Int16MultiArray, "microphone/audio")
    graph.wait_until(lambda: len(heard) >= 20, "the recording to run")
    count = 120
    sound = np.random.default_rng(4).uniform(-8000, 8000, count * PACKET).astype(np.int16)
    begin_ns = graph.now_ns()
    for k in range(count):
        # A packet leaves when its last sample is due.
        time.sleep(max(0, begin_ns + (k + 1) * 10 * MS - graph.now_ns()) / 1e9)
        voice.publish(Int16MultiArray(data=sound[k * PACKET : (k + 1) * PACKET].tolist()))
    graph.wait_until(lambda: graph.now_ns() > begin_ns + (count * 10 + 800) * MS, "the sound to come back")
    packets = heard[:]
    ear_begin_ns = np.median([t - (k + 1) * 10 * MS for k, (t, _) in enumerate(packets)])
    returned = np.concatenate([np.array(m.data, np.float64) for _, m in packets])
    # Pieces of 100 ms, each found by itself: a busy machine drops a few.
    delays_ms = []
    for start in range(0, len(sound), 10 * PACKET):
        piece = sound[start : start + 10 * PACKET].astype(np.float64)
        match = np.correlate(returned, piece, "valid") / (piece @ piece)
        lag = int(np.argmax(match))
        if match[lag] > 0.5:
            delays_ms.append((ear_begin_ns - begin_ns) / MS + (lag - start) * 1000 / RATE)
    assert len(delays_ms) >= 4
    # The way back through the recording adds some 10 to 30 ms.
    assert 220 < np.median(delays_ms) < 295
