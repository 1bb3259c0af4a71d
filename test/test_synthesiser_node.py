"""The example synthesiser: what is to be said is heard from its first word on, or not at all."""

import logging
import shutil
import sys
import time
from functools import partial
from queue import SimpleQueue
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import NodeProcess

pytest.importorskip("rclpy")

from std_msgs.msg import Empty, Int16MultiArray, String
from std_srvs.srv import Trigger

from timar_ros.nodes import synthesiser_node
from timar_ros.stream.audio_messages import AudioChunk
from timar_ros.stream.voice_queue import OVERTAKEN_MS, RESERVE_MS, VoiceQueue

pytestmark = pytest.mark.skipif(
    not (shutil.which("espeak-ng") or shutil.which("flite")), reason="neither espeak-ng nor flite is installed"
)
RATE = 16_000
MS = 1_000_000
SENTENCES = ("Hello.", "It is good to see you.")


def test_what_is_said_waits_for_a_head_and_is_heard_from_its_first_word(start_node, graph):
    synthesiser = start_node("synthesiser_node", {"head": "test"})  # the node of the graph
    say = graph.publisher(String, "say")
    say.publish(String(data=" ".join(SENTENCES)))
    synthesiser.wait_for_output("waits for a head node")
    assert "said '" not in synthesiser.output()
    packets = graph.collect(Int16MultiArray, "microphone/audio")
    told = synthesiser.wait_for_output(f"said '{SENTENCES[-1]}'").splitlines()
    said_s = sum(float(line.rsplit(": ", 1)[1].removesuffix(" s")) for line in told if "said '" in line)
    assert sum(f"said '{sentence}'" in line for line in told for sentence in SENTENCES) == 2

    def heard():
        return np.concatenate([np.array(message.data) for _, message in packets] or [np.zeros(0)])

    graph.wait_until(lambda: len(heard()) / RATE > said_s - 0.15, "all that was said")
    assert len(heard()) / RATE == pytest.approx(said_s, abs=0.15)
    assert np.abs(heard()[: RATE // 2]).max() > 1000


def test_after_a_barge_in_nothing_is_sent_for_a_moment(start_node, graph):
    """The head takes what then comes for what was on its way."""
    start_node("synthesiser_node", {"head": "test"}).wait_for_output("speaking with")
    packets = graph.collect(Int16MultiArray, "microphone/audio")
    say, flush = graph.publisher(String, "say"), graph.publisher(Empty, "test/voice_flush")
    say.publish(String(data="Hello."))
    graph.wait_until(lambda: packets, "sound")  # all is matched from here on
    time.sleep(0.5)
    flushed_ns = graph.now_ns()
    flush.publish(Empty())
    time.sleep(0.02)  # or the text might come before it, and be forgotten
    say.publish(String(data="Yes?"))
    graph.wait_until(lambda: packets[-1][0] > flushed_ns, "what is said after it")
    assert min(t for t, _ in packets if t > flushed_ns) > flushed_ns + OVERTAKEN_MS * MS


def test_what_is_typed_right_after_a_barge_in_is_said(graph, tmp_path):
    """The head tells of the flush only when the next line lies there already."""
    flushes = []
    voice_flush = graph.node.create_publisher(Empty, "test/voice_flush", 1)

    def flush(request: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        flushes.append(request)
        voice_flush.publish(Empty())
        answer.success = True
        return answer

    graph.node.create_service(Trigger, "test/flush", flush)
    module, parameters = "timar_ros.nodes.synthesiser_node", ["-p", "head:=test", "-p", "keyboard:=true"]
    command = [sys.executable, "-m", module, "--ros-args", *parameters]
    synthesiser = NodeProcess(command, tmp_path / "synthesiser.log", {}, typed=True)
    try:
        graph.collect(Int16MultiArray, "microphone/audio")
        graph.wait_for_match(voice_flush)

        def barged_in() -> list:
            synthesiser.type("")
            return flushes

        graph.wait_until(barged_in, "a flush")  # the service is found from here on
        synthesiser.type("\nYes?")
        synthesiser.wait_for_output("said 'Yes?'")
        assert len(flushes) >= 2
    finally:
        synthesiser.kill()


def test_a_text_is_stamped_with_its_beginning_and_spoken_without_a_pause(monkeypatch):
    """With a type of message that has a stamp, none of which is on a package index."""
    stamps_ns, queue = [], VoiceQueue(RATE)
    monkeypatch.setattr(synthesiser_node, "make_message", lambda _class, _type, samples, rate, stamp_ns: stamp_ns)
    node = SimpleNamespace(
        _texts=SimpleQueue(), _broken_off=0, _silent_until=0.0, _wait_for_listeners=lambda before: True,
        _class=None, _type="", _audio=SimpleNamespace(publish=stamps_ns.append),
        _settings=SimpleNamespace(rate=RATE, packet_ms=50), get_logger=lambda: logging.getLogger(),
        get_clock=lambda: SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=time.time_ns())),
    )  # fmt: skip
    node._publish = partial(synthesiser_node.SynthesiserNode._publish, node)

    def synthesise(_sentence: str) -> AudioChunk:
        time.sleep(0.2)
        return AudioChunk(None, RATE, np.zeros(RATE // 5, np.float32))

    node._synthesise = synthesise
    node._texts.put((0, "One. Two."))
    node._texts.put(None)
    synthesiser_node.SynthesiserNode._speak_all(node)
    assert len(stamps_ns) == 8 and np.diff(stamps_ns).all() and np.ptp(stamps_ns) < MS
    for stamp_ns in stamps_ns:
        queue.push(AudioChunk(stamp_ns, RATE, np.zeros(RATE // 20, np.float32)), stamps_ns[0])
    assert queue.queued_ns == (8 * 50 + RESERVE_MS) * MS


def test_what_waits_for_a_head_is_forgotten_when_the_synthesiser_ends(start_node, graph):
    synthesiser = start_node("synthesiser_node")
    graph.publisher(String, "say").publish(String(data="Nobody hears this."))
    synthesiser.wait_for_output("waits for a head node")
    assert synthesiser.stop() == 0
    assert "said '" not in synthesiser.output()
