"""The example synthesiser: what is to be said is heard from its first word on, or not at all."""

import shutil

import numpy as np
import pytest

pytest.importorskip("rclpy")

from std_msgs.msg import Int16MultiArray, String

pytestmark = pytest.mark.skipif(
    not (shutil.which("espeak-ng") or shutil.which("flite")), reason="neither espeak-ng nor flite is installed"
)
RATE = 16_000
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


def test_what_waits_for_a_head_is_forgotten_when_the_synthesiser_ends(start_node, graph):
    synthesiser = start_node("synthesiser_node")
    graph.publisher(String, "say").publish(String(data="Nobody hears this."))
    synthesiser.wait_for_output("waits for a head node")
    assert synthesiser.stop() == 0
    assert "said '" not in synthesiser.output()
