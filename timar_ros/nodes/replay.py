"""Plays a bag's sound, and the partner's face, into a live graph: `timar replay BAG`, `ros2 run timar_ros replay`.

    bag ─┬─ microphone/audio, partner/audio (and _info)   the bytes of the bag, or converted to `message_type`
         ├─ partner/blendshapes, partner/head_pose        the bytes of the bag
         └─ /clock, where asked for

Stamps are moved to the present, unless the clock is the bag's own: with `clock`, stamps stay and /clock tells the time
of the bag, for nodes with `use_sim_time`. Only then can the rate be another than 1: sound has a length of its own.
"""

from __future__ import annotations

import argparse
import math
import os
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from rosbags.typesys.store import Typestore
from rosgraph_msgs.msg import Clock

from timar_ros.errors import TimarError
from timar_ros.nodes import runtime
from timar_ros.nodes.parameters import Parameter, declare
from timar_ros.nodes.recorder import TypeUnknownError, import_type
from timar_ros.nodes.topics import LATCHED, message_type_parameter, publish_format
from timar_ros.rates import SAMPLE_RATE
from timar_ros.replay.bag import BagMessage, read_messages
from timar_ros.stream.audio_messages import (
    AUTO,
    AudioDecoder,
    audio_message_type,
    import_message_class,
    make_message,
)
from timar_ros.stream.resampling import StreamResampler

TOPICS = {
    "self_audio": "microphone/audio",
    "partner_audio": "partner/audio",
    "self_audio_info": "microphone/audio_info",
    "partner_audio_info": "partner/audio_info",
    "partner_blendshapes": "partner/blendshapes",
    "partner_head_pose": "partner/head_pose",
}
AUDIO = ("self_audio", "partner_audio")
CLOCK_STEP_S = 0.01
PLAYED_OUT_NS = 1_000_000_000
"""How long the clock runs on after the last sound."""
STAMP_AT = 4
"""Where a leading stamp lies in a serialized message: behind CDR's own header."""

CHECK_S = 0.1
TELL_WAITING_S = 3.0

PARAMETERS = (
    Parameter("bag", "", "rosbag2 to play: its folder or file", read_only=True),
    Parameter("rate", 1.0, "times real time; other than 1 only with clock", minimum=0.05, maximum=50, read_only=True),
    Parameter("clock", False, "publish /clock with the bag's time, for nodes with use_sim_time", read_only=True),
    message_type_parameter(),
    Parameter("start_s", 0.0, "where in the bag to begin, s", minimum=0, maximum=1e6, read_only=True),
    Parameter("topics", [], "further topics of the bag to publish as they are", type=list[str], read_only=True),
    Parameter(
        "names", [], "ROLE=TOPIC for topics of other names, such as self_audio=/voice", type=list[str], read_only=True
    ),
    Parameter(
        "wait_for_subscribers", 1, "subscribers of each voice to wait for", minimum=0, maximum=100, read_only=True
    ),
    Parameter("exit_at_end", True, "end the node with the bag", read_only=True),
)


class Replay(Node):
    """Publishes a bag's messages in their time; a thread of its own keeps it."""

    def __init__(self) -> None:
        super().__init__("replay")
        self._settings = settings = declare(self, PARAMETERS)
        if not settings.bag:
            raise TimarError("which bag? Give its folder: -p bag:=FOLDER, or timar replay FOLDER")
        if settings.rate != 1.0 and not settings.clock:
            raise TimarError(
                f"rate is {settings.rate:g}: sound at another rate than 1 needs the bag's own time; "
                "set clock to true, and use_sim_time in the nodes that listen"
            )
        names = dict(_role_and_topic(text) for text in settings.names)
        bag = Path(settings.bag).expanduser()
        self._messages, losses, self._store = read_messages(bag, TOPICS, settings.topics, names)
        for loss in losses:
            self.get_logger().warning(loss)
        self._audio_type = audio_message_type(settings.message_type).name
        if not any(message.role in AUDIO for message in self._messages):
            raise TimarError(
                f"{bag} holds no sound of either voice; name its topics: "
                "-p names:='[self_audio=/TOPIC, partner_audio=/TOPIC]'"
            )
        self._begin_ns = self._messages[0].time_ns + round(settings.start_s * 1e9)
        self._senders: dict[str, _Sender] = {}
        self._trouble: Exception | None = None
        self._unreadable: Counter[str] = Counter()
        for message in self._messages:
            if message.topic not in self._senders:
                self._senders[message.topic] = self._sender(message)
        # A format is told once, at the beginning of a bag.
        infos = [m for m in self._messages if (m.role or "").endswith("_info") and m.time_ns < self._begin_ns]
        self._messages = [message for message in self._messages if message.time_ns >= self._begin_ns]
        if not self._messages:
            raise TimarError(f"start_s is {settings.start_s:g}, which lies behind the bag's end")
        for message in infos:
            self._send(message, 0)
        self._clock_publisher = self.create_publisher(Clock, "/clock", 10) if settings.clock else None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replay")
        self._thread.start()
        self.create_timer(CHECK_S, self._report)

    def close(self) -> None:
        """Stop playing."""
        self._ending.set()
        self._thread.join()

    def _sender(self, message: BagMessage) -> _Sender:
        topic = TOPICS.get(message.role or "", message.topic)
        qos = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
        if message.role in AUDIO and message.type_name != self._audio_type:
            self.get_logger().info(f"{message.topic}: {message.type_name} is published as {self._audio_type}")
            publisher = self.create_publisher(import_message_class(self._audio_type), topic, qos)
            publish_format(self, topic, self._audio_type, SAMPLE_RATE)
            return _Sender(publisher, _ConvertedAudio(self._store, message, self._info_of(message), self._audio_type))
        if (message.role or "").endswith("_info"):
            qos = LATCHED
            if self._converted(message.role.removesuffix("_info")):
                return _Sender(None, lambda message, shift_ns: None)
        try:
            kind = import_type(message.type_name)
        except TypeUnknownError as error:
            self.get_logger().warning(f"{message.topic} is left out: {error}")
            return _Sender(None, lambda message, shift_ns: None)
        return _Sender(self.create_publisher(kind, topic, qos), _moved if _has_stamp(kind) else _as_it_is)

    def _converted(self, role: str) -> bool:
        return any(m.type_name != self._audio_type for m in self._messages if m.role == role)

    def _info_of(self, message: BagMessage) -> BagMessage | None:
        return next((m for m in self._messages if m.role == f"{message.role}_info"), None)

    def _run(self) -> None:
        try:
            self._play()
        except Exception as error:  # for the executor's thread to raise: this one's reaches nobody
            self._trouble = error

    def _report(self) -> None:
        if self._trouble is not None:
            raise self._trouble

    def _play(self) -> None:
        rate = self._settings.rate
        if not self._wait_for_subscribers():
            return
        end_ns = self._messages[-1].time_ns
        seconds = (end_ns - self._begin_ns) / 1e9
        self.get_logger().info(f"playing {self._settings.bag}, {seconds:.1f} s at {rate:g} × real time")
        shift_ns = 0 if self._settings.clock else self.get_clock().now().nanoseconds - self._begin_ns
        pace = _Pace(self._begin_ns, rate, self._ending, self._tick)
        for message in self._messages:
            if not pace.wait_until(message.time_ns):
                return
            self._send(message, shift_ns)
        for topic, count in self._unreadable.items():
            self.get_logger().warning(f"{topic}: {count} messages are damaged and were left out")
        # With the bag's clock standing still nobody would get to show what was heard last.
        if self._clock_publisher is not None and not pace.wait_until(end_ns + PLAYED_OUT_NS):
            return
        self.get_logger().info(f"end of {self._settings.bag}: nothing more is published")
        if self._settings.exit_at_end:
            self._wait_for_readers()
            runtime.request_stop()

    def _send(self, message: BagMessage, shift_ns: int) -> None:
        sender = self._senders[message.topic]
        try:
            converted = sender.convert(message, shift_ns)
        except Exception:  # damaged bytes make decoders raise anything
            self._unreadable[message.topic] += 1
            return
        if sender.publisher is not None and converted is not None:
            sender.publisher.publish(converted)

    def _tick(self, time_ns: int) -> None:
        if self._clock_publisher is not None:
            self._clock_publisher.publish(Clock(clock=Time(nanoseconds=time_ns).to_msg()))

    def _wait_for_subscribers(self) -> bool:
        """Until each voice, and the clock, has its subscribers; the clock stands meanwhile.

        False when the node ends before.
        """
        voices = {m.topic for m in self._messages if m.role in AUDIO}
        publishers = [sender.publisher for topic in voices if (sender := self._senders[topic]).publisher is not None]
        if self._clock_publisher is not None:
            publishers.append(self._clock_publisher)
        tell_at = time.monotonic() + TELL_WAITING_S
        while lacking := [p for p in publishers if p.get_subscription_count() < self._settings.wait_for_subscribers]:
            if time.monotonic() > tell_at:
                tell_at = math.inf
                self.get_logger().warning(
                    f"waiting for subscribers of {', '.join(p.topic_name for p in lacking)}; is the other side's "
                    f"ROS_DOMAIN_ID {os.environ.get('ROS_DOMAIN_ID', '0')}? With wait_for_subscribers:=0 (--no-wait) "
                    "the bag is played to nobody"
                )
            self._tick(self._begin_ns)
            if self._ending.wait(CLOCK_STEP_S):
                return False
        return True

    def _wait_for_readers(self) -> None:
        """A moment for reliable subscribers to take the last messages."""
        for sender in self._senders.values():
            if sender.publisher is not None:
                sender.publisher.wait_for_all_acked(runtime.LONGEST_FAREWELL)


class _Pace:
    """Waits for times of the bag, and tells the clock on the way."""

    def __init__(self, begin_ns: int, rate: float, ending: threading.Event, tick: Callable[[int], None]) -> None:
        self._begin_ns, self._rate, self._ending, self._tick = begin_ns, rate, ending, tick
        self._began_s, self._next_tick_s = time.monotonic(), 0.0

    def wait_until(self, time_ns: int) -> bool:
        """False when the node ends before."""
        due_s = (time_ns - self._begin_ns) / 1e9 / self._rate
        while True:
            now_s = time.monotonic() - self._began_s
            if now_s >= self._next_tick_s:
                # Where the messages come late the clock is as late: it does not run ahead of them, nor stand still.
                self._tick(self._begin_ns + round(min(now_s, due_s) * self._rate * 1e9))
                self._next_tick_s = now_s + CLOCK_STEP_S
            if now_s >= due_s:
                return True
            if self._ending.wait(min(due_s, self._next_tick_s) - now_s):
                return False


class _Sender(NamedTuple):
    """A publisher and what makes a recorded message one of the present."""

    publisher: Publisher | None
    convert: Callable[[BagMessage, int], Any]


def _as_it_is(message: BagMessage, shift_ns: int) -> bytes:
    return message.data


def _has_stamp(kind: type) -> bool:
    """Whether a message type begins with a header or a time."""
    first = next(iter(kind.get_fields_and_field_types().values()), "")
    return first in ("std_msgs/Header", "builtin_interfaces/Time")


def _moved(message: BagMessage, shift_ns: int) -> bytes:
    """The bytes of a message that begins with a stamp, moved in time. A stamp of zero stays one."""
    order = "<" if message.data[1] & 1 else ">"
    sec, nanosec = struct.unpack_from(f"{order}iI", message.data, STAMP_AT)
    if not shift_ns or (sec == 0 and nanosec == 0):
        return message.data
    stamp = divmod(sec * 1_000_000_000 + nanosec + shift_ns, 1_000_000_000)
    return message.data[:STAMP_AT] + struct.pack(f"{order}iI", *stamp) + message.data[STAMP_AT + 8 :]


class _ConvertedAudio:
    """Audio messages of one type as those of another, 16 kHz mono."""

    def __init__(self, store: Typestore, first: BagMessage, info: BagMessage | None, type_name: str) -> None:
        self._store, self._type_name = store, type_name
        self._class = import_message_class(type_name)
        self._decoder = AudioDecoder(first.type_name)
        if info is not None:
            self._decoder.set_info(store.deserialize_cdr(info.data, info.type_name))
        self._resampler: StreamResampler | None = None

    def __call__(self, message: BagMessage, shift_ns: int) -> Any:
        chunk = self._decoder.decode(self._store.deserialize_cdr(message.data, message.type_name))
        if self._resampler is None:
            self._resampler = StreamResampler(chunk.rate)
        begun_ns = message.time_ns - chunk.duration_ns if chunk.stamp_ns is None else chunk.stamp_ns
        begun_ns -= self._resampler.held_ns
        rest = np.zeros(0, np.float32)
        if self._resampler.rate_in != chunk.rate:
            rest = self._resampler.flush()
            self._resampler = StreamResampler(chunk.rate)
        samples = np.concatenate([rest, self._resampler.push(chunk.samples)])
        if not len(samples):
            return None
        return make_message(self._class, self._type_name, samples, SAMPLE_RATE, begun_ns + shift_ns)


def _role_and_topic(text: str) -> tuple[str, str]:
    role, equals, topic = text.partition("=")
    if not equals or role not in TOPICS:
        raise TimarError(f"{text!r} names no topic; expected ROLE=/TOPIC with a role of {', '.join(TOPICS)}")
    return role, topic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bag", help="rosbag2: its folder or file")
    parser.add_argument("--rate", type=float, default=1.0, help="times real time; other than 1 only with --clock")
    parser.add_argument("--clock", action="store_true", help="publish /clock, for nodes with use_sim_time")
    parser.add_argument("--start", type=float, default=0.0, metavar="S", help="where in the bag to begin, s")
    parser.add_argument("--topic", action="append", default=[], metavar="ROLE=TOPIC", help="as of timar evaluate")
    parser.add_argument("--also", nargs="+", default=[], metavar="TOPIC", help="further topics to publish as they are")
    parser.add_argument(
        "--no-wait", action="store_true", help="do not wait until somebody listens to the voices before playing"
    )
    parser.add_argument("--message-type", default=AUTO, help="type of the audio messages, as of the other nodes")


def run(args: argparse.Namespace) -> int:
    """`timar replay`: the node with its parameters from the command line."""
    parameters = {
        "bag": args.bag, "rate": float(args.rate), "clock": args.clock, "start_s": float(args.start),
        "wait_for_subscribers": 0 if args.no_wait else 1, "message_type": args.message_type,
    }  # fmt: skip
    parameters |= {name: values for name, values in (("topics", args.also), ("names", args.topic)) if values}
    return runtime.run(Replay, runtime.ros_arguments(parameters))


def main() -> int:
    """Play the bag until its end, SIGINT or SIGTERM; returns the exit code."""
    return runtime.run(Replay)


if __name__ == "__main__":
    sys.exit(main())
