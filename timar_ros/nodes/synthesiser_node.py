"""An example synthesiser: says what comes on `say` (std_msgs/String), sentence by sentence, as fast as it can.

The sound goes out in one burst a sentence on `microphone/audio`, for a head node with `own_voice:=queued`. When that
is told to `~/flush`, sentences that wait are forgotten here too, and nothing is sent for a moment, since the head takes
what then comes for what was on its way. For the same reason all of a text is stamped with when it was begun. With
`keyboard:=true` lines that are typed are said; an empty line is a barge-in: it calls `~/flush`.

    say, keyboard -> sentences -> espeak-ng, flite or piper -> microphone/audio
"""

from __future__ import annotations

import sys
import threading
import time
from queue import SimpleQueue

import numpy as np
import soxr
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import Empty, String
from std_srvs.srv import Trigger

from timar_ros.errors import TimarError
from timar_ros.nodes import runtime
from timar_ros.nodes.parameters import Parameter, declare
from timar_ros.nodes.topics import BURST, message_type_parameter, publish_format
from timar_ros.stream.audio_messages import (
    audio_message_type,
    import_message_class,
    make_message,
)
from timar_ros.stream.synthesis import ALL_SAID, ENGINES, Synthesiser, sentences
from timar_ros.stream.voice_queue import OVERTAKEN_MS

HEAD_TIMEOUT_S = 3.0
"""So long a head node is waited for: to listen where others do, and to flush."""

PARAMETERS = (
    Parameter(
        "engine",
        "auto",
        "program that speaks; auto: the first of these that is installed",
        choices=("auto", *ENGINES),
        read_only=True,
    ),
    Parameter(
        "voice", "", "its voice: a name, for piper the path of an .onnx file; empty: its default", read_only=True
    ),
    Parameter("rate", 16000, "published sample rate, Hz", minimum=8000, maximum=48000, read_only=True),
    Parameter("packet_ms", 50, "length of a packet, ms", minimum=5, maximum=500, read_only=True),
    message_type_parameter(),
    Parameter("keyboard", False, "say the lines that are typed; an empty one breaks off", read_only=True),
    Parameter("head", "head", "name of the head node, whose ~/flush breaks off what is said", read_only=True),
)


class SynthesiserNode(Node):
    """The executor's thread takes in texts, a second one speaks, a third reads the keyboard."""

    def __init__(self):
        super().__init__("synthesiser")
        self._settings = settings = declare(self, PARAMETERS)
        self._synthesise = Synthesiser(settings.engine, settings.voice)
        self._type = audio_message_type(settings.message_type).name
        self._class = import_message_class(self._type)
        self._audio = self.create_publisher(self._class, "microphone/audio", BURST)
        publish_format(self, self._audio.topic_name, self._type, settings.rate)
        self._flush = self.create_client(Trigger, f"{settings.head}/flush")
        self.create_subscription(Empty, f"{settings.head}/voice_flush", self._hear_flush, QoSProfile(depth=1))
        self._texts: SimpleQueue[tuple[int, str] | str | None] = SimpleQueue()
        """Texts with how often speech was broken off before them; `ALL_SAID` to be told; None at the end."""
        self._broken_off = 0
        """How often speech was broken off: texts from before are not said any more."""
        self._silent_until = 0.0
        self._head_flushed = threading.Event()
        self.create_subscription(String, "say", lambda message: self._say(message.data), QoSProfile(depth=50))
        self._thread = runtime.start_thread(self._speak_all, "synthesiser")
        if settings.keyboard:
            # A read from the keyboard cannot be ended: the thread must not keep the process alive.
            threading.Thread(target=self._read_keyboard, name="keyboard", daemon=True).start()
        self.get_logger().info(f"speaking with {self._synthesise.engine}")

    def close(self) -> None:
        """Say nothing more."""
        self._broken_off += 1
        self._texts.put(None)
        self._thread.join()

    def _say(self, text: str) -> None:
        self._texts.put((self._broken_off, text))

    def _speak_all(self) -> None:
        while (item := self._texts.get()) is not None:
            if item == ALL_SAID:
                self.get_logger().info(ALL_SAID)
                continue
            before, text = item
            time.sleep(max(0.0, self._silent_until - time.monotonic()))
            begun_ns = self.get_clock().now().nanoseconds
            for sentence in sentences(text):
                try:
                    if before == self._broken_off:
                        self._publish(before, sentence, begun_ns)
                except TimarError as error:
                    self.get_logger().error(str(error))

    def _publish(self, before: int, sentence: str, begun_ns: int) -> None:
        chunk = self._synthesise(sentence)
        if not self._wait_for_listeners(before):
            return
        rate = self._settings.rate
        samples = soxr.resample(chunk.samples, chunk.rate, rate) if chunk.rate != rate else chunk.samples
        size = rate * self._settings.packet_ms // 1000
        for at in range(0, len(samples), size):
            if before != self._broken_off:
                return
            part = samples[at : at + size].astype(np.float32)
            # Not the same as the packet before: equal ones would be taken for one that came twice.
            self._audio.publish(make_message(self._class, self._type, part, rate, begun_ns + at))
        self.get_logger().info(f"said {sentence!r}: {len(samples) / rate:.1f} s")

    def _wait_for_listeners(self, before: int) -> bool:
        """Until all who listen are connected, a head node among them: what is said to nobody is lost.

        Without a head node whoever listens will do after a while. Returns False if speech was broken off meanwhile.
        """
        head, topic, began = self._settings.head.rsplit("/", 1)[-1], self._audio.topic_name, time.monotonic()
        warned = False
        while before == self._broken_off:
            waited_s = time.monotonic() - began
            known = self.get_subscriptions_info_by_topic(topic)
            there = waited_s > HEAD_TIMEOUT_S or any(listener.node_name == head for listener in known)
            if known and there and self._audio.get_subscription_count() >= len(known):
                return True
            if waited_s > HEAD_TIMEOUT_S and not warned:
                warned = True
                self.get_logger().warning(
                    f"nobody listens on {topic}; what is to be said waits for a head node with own_voice:=queued"
                )
            time.sleep(0.02)
        return False

    def _read_keyboard(self) -> None:
        for line in sys.stdin:
            if line.strip():
                self._say(line)
            else:
                self._break_off()
        self._texts.put(ALL_SAID)

    def _forget(self) -> None:
        self._silent_until = time.monotonic() + OVERTAKEN_MS / 1000
        self._broken_off += 1

    def _hear_flush(self, _message: Empty) -> None:
        self._forget()
        self._head_flushed.set()

    def _break_off(self) -> None:
        """Have the head flush, and wait until it tells so: what is typed next would be forgotten then."""
        self._forget()
        if self._flush.service_is_ready():
            self._head_flushed.clear()
            self._flush.call_async(Trigger.Request())
            self._head_flushed.wait(HEAD_TIMEOUT_S)


def main() -> int:
    """Run the synthesiser until SIGINT or SIGTERM; returns the exit code."""
    return runtime.run(SynthesiserNode, make_executor=runtime.events_executor)


if __name__ == "__main__":
    sys.exit(main())
