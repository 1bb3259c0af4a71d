"""Records the topics of the graph into a rosbag2 (mcap) where no rosbag2 is installed.

Subscriptions appear as topics do, with the QoS their publishers offer, and take the bytes as they
come. The executor's thread only stamps and queues them; a second thread writes. Once a second what
was written is made a complete file, so that even a killed recorder leaves a bag that opens. A muted
voice is not recorded.

    topic --raw bytes--> queue --writer thread--> OUT/OUT_NAME.mcap, OUT/metadata.yaml
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import rclpy.qos
from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from rclpy.node import Node
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from timar_ros.errors import TimarError
from timar_ros.nodes import runtime
from timar_ros.nodes.muting import MuteListener, mute_topic_of
from timar_ros.nodes.parameters import Parameter, declare

PARAMETERS = (
    Parameter(
        "out",
        "",
        "folder of the bag, which must not exist yet; empty: rosbag2_DATE-TIME here",
        read_only=True,
    ),
    Parameter("topics", [], "topics to record; empty: all but hidden ones", type=list[str], read_only=True),
    Parameter("discovery_s", 0.1, "how often to look for new topics, s", minimum=0.02, maximum=10),
)

DEPTH = 500
"""Messages a subscription keeps while the recorder is busy elsewhere."""

QOS_CHECK_S = 2.0
"""How often known topics are looked at for publishers that their subscription cannot hear."""

CHECKPOINT_NS = 1_000_000_000
"""At most this much of a recording is lost when the process is killed."""

UNTOLD_S = 3.0
"""How long the sound of a voice is held back until it is told that it is not muted; discovery takes up to that."""

METADATA_NS = 10_000_000_000
"""How often metadata.yaml is brought up to date although no topics came."""

# The end of an mcap file that has no summary (https://mcap.dev/spec): data end, footer, magic.
_TRAILER = b"".join(
    [
        b"\x0f" + (4).to_bytes(8, "little") + bytes(4),
        b"\x02" + (20).to_bytes(8, "little") + bytes(20),
        b"\x89MCAP0\r\n",
    ]
)


class TypeUnknownError(TimarError):
    """A message type whose definition is not to be had here."""


@dataclass(frozen=True)
class _Topic:
    name: str
    type: str
    offered: tuple[Qos, ...]


class BagWriter:
    """Writes serialized messages into a new bag from a thread of its own.

    ``add_topic`` and ``write`` only queue. ``error`` holds what ended the writing early (a full
    disk), else None. ``close`` writes what is queued and finishes the bag. Raises TimarError where
    ``path`` exists or cannot be made.
    """

    def __init__(self, path: Path):
        self.path = path
        self.error: Exception | None = None
        self.messages = 0
        self._queue: SimpleQueue = SimpleQueue()
        if path.exists():
            raise TimarError(
                f"{path} exists already and is not overwritten; give another folder (out:=...) or remove it"
            )
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        try:
            self._writer.open()
        except (OSError, WriterError) as error:
            raise TimarError(
                f"cannot make the bag's folder {path}: {error}; give a folder that does not exist "
                "yet, in one that may be written to"
            ) from error
        self._typestore = get_typestore(Stores.ROS2_JAZZY)
        self._connections: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._run, name="bag writer")
        self._thread.start()

    def add_topic(self, topic: str, message_type: str, offered: tuple[Qos, ...] = ()) -> None:
        """Announce a topic; raises TypeUnknownError where its type's definition is not found."""
        register_type(self._typestore, message_type)
        self._queue.put(_Topic(topic, message_type, offered))

    def write(self, topic: str, time_ns: int, data: bytes) -> None:
        """Queue one serialized message (CDR with its header) of an announced topic."""
        self._queue.put((topic, time_ns, data))

    def close(self) -> None:
        """Write what is queued and finish the bag; safe to call again."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        try:
            self._write_until_closed()
        except Exception as error:
            # For the node to tell: a thread's own traceback reaches nobody.
            self.error = error
        try:
            self._writer.close()
        except OSError as error:
            self.error = self.error or error

    def _write_until_closed(self) -> None:
        checkpoint_ns = metadata_ns = time.monotonic_ns()
        known = -1
        while True:
            try:
                item = self._queue.get(timeout=0.5)
            except Empty:
                item = ()
            if item is None:
                return
            if isinstance(item, _Topic):
                self._connections[item.name] = self._writer.add_connection(
                    item.name,
                    item.type,
                    typestore=self._typestore,
                    offered_qos_profiles=item.offered,
                )
            elif item:
                topic, time_ns, data = item
                self._writer.write(self._connections[topic], time_ns, data)
                self.messages += 1
            now_ns = time.monotonic_ns()
            if now_ns - checkpoint_ns >= CHECKPOINT_NS:
                checkpoint_ns = now_ns
                stale = known != len(self._connections) or now_ns - metadata_ns >= METADATA_NS
                _checkpoint(self._writer, with_metadata=stale)
                if stale:
                    known, metadata_ns = len(self._connections), now_ns


def _checkpoint(writer: Writer, with_metadata: bool) -> None:
    """Make what was written so far a complete bag and stay ready to write on.

    The end that is put behind the data is overwritten by the next chunk. metadata.yaml, slow to
    write, is seldom brought up to date; its counts are final at the close.
    """
    storage = writer.storage
    if storage.chunk.bio.tell():
        storage.close_chunk()
    end = storage.bio.tell()
    storage.bio.write(_TRAILER)
    storage.bio.flush()
    storage.bio.seek(end)
    if with_metadata:
        storage.close = lambda version, metadata: None
        writer.close()
        writer.storage = storage
        del storage.close


def register_type(typestore: Typestore, message_type: str) -> None:
    """Make ``typestore`` know a type and all types in it, from the installed package where need be.

    Raises TypeUnknownError naming the package whose definitions are missing.
    """
    if message_type in typestore.fielddefs:
        return
    found: dict[str, Any] = {}
    _collect(typestore, message_type, found)
    typestore.register(found)


def _collect(typestore: Typestore, message_type: str, found: dict[str, Any]) -> None:
    package, _, name = message_type.split("/")
    try:
        path = Path(get_package_share_directory(package), "msg", f"{name}.msg")
        definitions = get_types_from_msg(path.read_text(), message_type)
    except (PackageNotFoundError, OSError) as error:
        raise TypeUnknownError(
            f"the definition of {message_type} is not installed here; install the package "
            f"{package} (sudo apt install ros-$ROS_DISTRO-{package.replace('_', '-')})"
        ) from error
    for own_name, fields in definitions.items():
        found[own_name] = fields
        for inner in _inner_types(fields):
            if inner not in typestore.fielddefs and inner not in found:
                _collect(typestore, inner, found)


def _inner_types(fields: Any) -> set[str]:
    """Names of the message types that a definition of rosbags refers to, at any depth."""
    if isinstance(fields, str):
        return {fields} if fields.count("/") == 2 else set()
    if isinstance(fields, list | tuple):
        return set().union(*(_inner_types(f) for f in fields))
    return set()


class Recorder(Node):
    """Subscribes to topics as they appear and hands their bytes to a BagWriter."""

    def __init__(self):
        super().__init__("recorder")
        self._settings = declare(self, PARAMETERS)
        out = self._settings.out or time.strftime("rosbag2_%Y_%m_%d-%H_%M_%S")
        self._wanted = {self.resolve_topic_name(name) for name in self._settings.topics}
        self._bag = BagWriter(Path(out).expanduser())
        self._recorded: dict[str, Any] = {}
        self._offered: dict[str, rclpy.qos.QoSProfile] = {}
        self._skipped: set[str] = set()
        self._mutes: dict[str, MuteListener] = {}
        self._held: list[tuple[MuteListener, str, int, bytes]] = []
        self._next_qos_check = time.monotonic() + QOS_CHECK_S
        try:
            self._discover()
        except BaseException:
            self._bag.close()
            raise
        self.create_timer(self._settings.discovery_s, self._discover)
        self.get_logger().info(f"recording to {self._bag.path}")

    def close(self) -> None:
        """Finish the bag, with what has come but was not taken yet."""
        for mute in self._mutes.values():
            mute.catch_up()
        for subscription in self._recorded.values():
            runtime.take_waiting(subscription, DEPTH)
        self._release_held(untold_s=0.0)
        self._bag.close()
        if self._bag.error:
            raise TimarError(
                f"writing the bag {self._bag.path} failed: {self._bag.error}; what was written before "
                "is kept; make room on the disk and record again"
            )
        self.get_logger().info(
            f"recorded {self._bag.messages} messages of {len(self._recorded)} topics to {self._bag.path}"
        )

    def _discover(self) -> None:
        if self._bag.error:
            runtime.request_stop()  # `close` says why
            return
        self._release_held()
        for topic, types in self.get_topic_names_and_types():
            if topic in self._recorded or topic in self._skipped or not self._is_wanted(topic):
                continue
            if len(types) != 1:
                self._skip(topic, f"it has several types: {', '.join(types)}")
                continue
            publishers = self.get_publishers_info_by_topic(topic)
            if publishers:
                self._record(topic, types[0], [p.qos_profile for p in publishers])
        if time.monotonic() >= self._next_qos_check:
            self._next_qos_check = time.monotonic() + QOS_CHECK_S
            for topic in list(self._recorded):
                self._adapt(topic)

    def _is_wanted(self, topic: str) -> bool:
        if self._wanted:
            return topic in self._wanted
        return not any(part.startswith("_") for part in topic.split("/"))

    def _record(self, topic: str, message_type: str, offered: list) -> None:
        try:
            message_class = import_type(message_type)
            self._bag.add_topic(topic, message_type, tuple(_bag_qos(q) for q in offered))
        except TypeUnknownError as error:
            self._skip(topic, str(error))
            return
        except Exception as error:  # a definition that rosbags cannot read ends one topic, not all
            self._skip(topic, f"its type {message_type} cannot be written: {error}")
            return
        self._subscribe(topic, message_class, requested_qos(offered))
        self.get_logger().info(f"recording {topic} [{message_type}]")

    def _subscribe(self, topic: str, message_class: type, qos: rclpy.qos.QoSProfile) -> None:
        mute_topic = mute_topic_of(topic)
        if mute_topic and mute_topic not in self._mutes:
            self._mutes[mute_topic] = MuteListener(self, mute_topic)
        mute = self._mutes.get(mute_topic)
        self._offered[topic] = qos
        self._recorded[topic] = self.create_subscription(
            message_class, topic, partial(self._receive, topic, mute), qos, raw=True
        )

    def _receive(self, topic: str, mute: MuteListener | None, data: bytes) -> None:
        now_ns = self.get_clock().now().nanoseconds
        if mute is None or mute.muted is False or (mute.muted is None and mute.age_s > UNTOLD_S):
            self._bag.write(topic, now_ns, data)
        elif mute.muted is None:
            self._held.append((mute, topic, now_ns, data))

    def _release_held(self, untold_s: float = UNTOLD_S) -> None:
        """Write or drop what was held back, as far as it is known by now which."""
        held, self._held = self._held, []
        for mute, topic, time_ns, data in held:
            if mute.muted is None and mute.age_s <= untold_s:
                self._held.append((mute, topic, time_ns, data))
            elif not mute.muted:
                self._bag.write(topic, time_ns, data)

    def _adapt(self, topic: str) -> None:
        """Subscribe anew where a publisher came that the subscription asks too much of."""
        offered = [p.qos_profile for p in self.get_publishers_info_by_topic(topic)]
        if not offered:
            return
        wanted, present = requested_qos(offered), self._offered[topic]
        best_effort = rclpy.qos.ReliabilityPolicy.BEST_EFFORT
        volatile = rclpy.qos.DurabilityPolicy.VOLATILE
        if (wanted.reliability == best_effort != present.reliability) or (
            wanted.durability == volatile != present.durability
        ):
            old = self._recorded[topic]
            runtime.take_waiting(old, DEPTH)
            self.destroy_subscription(old)
            self._subscribe(topic, old.msg_type, wanted)

    def _skip(self, topic: str, reason: str) -> None:
        self._skipped.add(topic)
        self.get_logger().warning(f"{topic} is not recorded: {reason}")


def requested_qos(offered: list) -> rclpy.qos.QoSProfile:
    """The most that all publishers offer: reliable, or latched, only where each of them is."""
    reliable = all(q.reliability == rclpy.qos.ReliabilityPolicy.RELIABLE for q in offered)
    latched = all(q.durability == rclpy.qos.DurabilityPolicy.TRANSIENT_LOCAL for q in offered)
    return rclpy.qos.QoSProfile(
        depth=DEPTH,
        reliability=rclpy.qos.ReliabilityPolicy.RELIABLE if reliable else rclpy.qos.ReliabilityPolicy.BEST_EFFORT,
        durability=rclpy.qos.DurabilityPolicy.TRANSIENT_LOCAL if latched else rclpy.qos.DurabilityPolicy.VOLATILE,
    )


def import_type(message_type: str) -> type:
    """The Python class of ``package/msg/Name``; raises TypeUnknownError where it is not
    installed.
    """
    package, kind, name = message_type.split("/")
    try:
        return getattr(import_module(f"{package}.{kind}"), name)
    except (ImportError, AttributeError) as error:
        raise TypeUnknownError(
            f"its type {message_type} is not installed here; install the package {package} "
            f"(sudo apt install ros-$ROS_DISTRO-{package.replace('_', '-')})"
        ) from error


def _bag_qos(profile: rclpy.qos.QoSProfile) -> Qos:
    def seconds(duration: Any) -> QosTime:
        return QosTime(*divmod(duration.nanoseconds, 1_000_000_000))

    return Qos(
        QosHistory(profile.history.value),
        profile.depth,
        QosReliability(profile.reliability.value),
        QosDurability(profile.durability.value),
        seconds(profile.deadline),
        seconds(profile.lifespan),
        QosLiveliness(profile.liveliness.value),
        seconds(profile.liveliness_lease_duration),
        profile.avoid_ros_namespace_conventions,
    )


NEEDED = {"microphone/audio": "the own voice", "partner/audio": "the partner's voice", "trace": "the head's trace"}
"""What replay and evaluation rest on, by the end of the topic's name."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="", help="folder of the bag; rosbag2_DATE-TIME here when not given")
    parser.add_argument("--topics", nargs="+", default=[], help="topics to record; all when not given")
    parser.add_argument("--seconds", type=float, help="end after so many seconds; else by Ctrl-C")


def run(args: argparse.Namespace) -> int:
    """`timar record`: records until Ctrl-C, then says what an evaluation of the bag would miss."""
    if args.seconds is not None and not 0 < args.seconds < threading.TIMEOUT_MAX:
        raise TimarError(f"--seconds is {args.seconds:g}; a number above 0 is expected")
    parameters: dict[str, object] = {"out": args.out or time.strftime("rosbag2_%Y_%m_%d-%H_%M_%S")}
    if args.topics:
        parameters["topics"] = args.topics
    clock = threading.Timer(args.seconds, runtime.request_stop) if args.seconds is not None else None
    recorded: set[str] = set()

    class Watched(Recorder):
        def close(self) -> None:
            recorded.update(self._recorded)
            super().close()

    def make() -> Recorder:
        node = Watched()
        if clock is not None:
            clock.start()
        return node

    try:
        code = runtime.run(make, runtime.ros_arguments(parameters), runtime.events_executor)
    finally:
        if clock is not None:
            clock.cancel()
    missing = [what for end, what in NEEDED.items() if not any(topic.endswith(f"/{end}") for topic in recorded)]
    if code == 0 and missing:
        print(
            f"note: nothing was recorded of {', '.join(missing)}; `timar evaluate` can name topics of other names "
            "(--topic), and repeats a live run exactly only with the trace",
            file=sys.stderr,
        )
    return code


def main() -> int:
    """Run the recorder until SIGINT or SIGTERM; returns the exit code."""
    return runtime.run(Recorder, make_executor=runtime.events_executor)


if __name__ == "__main__":
    sys.exit(main())
