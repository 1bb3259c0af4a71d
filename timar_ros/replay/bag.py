"""Reads a rosbag2 of a conversation into one `Recording`: voices, motion, commands, diagnostics.

Times are ROS time, integer nanoseconds. A bag that breaks off or lacks topics is read as far as it
goes; what is missing is empty or None, and `Recording.losses` says in words what was lost.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore
from scipy.ndimage import median_filter

from timar_ros.channels import ARKIT_BLENDSHAPES
from timar_ros.errors import TimarError
from timar_ros.rates import SAMPLE_RATE
from timar_ros.replay.bag_files import StoredMessage, indexed_messages, salvaged_messages
from timar_ros.replay.recording import Event, Recording, Signal, Span, Status, Turn, Voice
from timar_ros.replay.signal_messages import SignalMessage, SignalReader
from timar_ros.robot.command_timing import NO_SOUND
from timar_ros.stream.audio_messages import AUDIO_MESSAGE_TYPES, AudioChunk, AudioDecoder
from timar_ros.stream.frames import PARTNER, SELF
from timar_ros.stream.trace import decode_hop

# What each topic of the running graph is for; namespaces and the head node's name may differ.
TOPIC_PATTERNS: dict[str, str] = {
    "self_audio": r"/microphone/audio$",
    "partner_audio": r"/partner/audio$",
    "spoken_audio": r"/voice$",
    "spoken_audio_info": r"/voice_info$",
    "self_audio_info": r"/microphone/audio_info$",
    "partner_audio_info": r"/partner/audio_info$",
    "played_audio": r"/played$",
    "played_audio_info": r"/played_info$",
    "self_speaking": r"/self/is_speaking$",
    "partner_speaking": r"/partner/is_speaking$",
    "self_muted": r"/self/is_muted$",
    "partner_muted": r"/partner/is_muted$",
    "floor": r"/floor$",
    "turns": r"/turns$",
    "head_pose": r"(?<!/partner)/head_pose$",
    "blendshapes": r"(?<!/partner)/blendshapes$",
    "joint_states": r"/joint_states$",
    "trajectories": r"/joint_trajectory$",
    "command_latency": r"/command_latency_ms$",
    "refusals": r"/refusals$",
    "conversation": r"/conversation$",
    "trace": r"/trace$",
    "partner_head_pose": r"/partner/head_pose$",
    "partner_blendshapes": r"/partner/blendshapes$",
    "diagnostics": r"/diagnostics$",
    "parameters": r"/parameter_events$",
}
# A queued own voice as it is spoken takes the place of what was sent in bursts, unless that one's topic is named.
_SPOKEN = {"spoken_audio": "self_audio", "spoken_audio_info": "self_audio_info"}
_SIGNALS = ("head_pose", "blendshapes", "joint_states", "trajectories", "partner_head_pose", "partner_blendshapes")
_EXPECTED = (
    "self_audio",
    "partner_audio",
    "floor",
    "turns",
    "head_pose",
    "blendshapes",
    "joint_states",
    "trajectories",
    "diagnostics",
)
_CLOCK_SLACK_NS = 5_000_000_000  # stamps further than this outside the bag are of another clock
_JITTER_WINDOW = 25  # packets


class BagMessage(NamedTuple):
    """One message as it was stored; `role` of `TOPIC_PATTERNS`, or None."""

    role: str | None
    topic: str
    type_name: str
    time_ns: int
    data: bytes


class BagMessages(NamedTuple):
    """Messages as they were stored, what was lost, and a type store that knows the bag's types."""

    messages: list[BagMessage]
    losses: list[str]
    store: Typestore


def read_recording(path: str | Path, topics: Mapping[str, str] | None = None) -> Recording:
    """Reads a rosbag2 (mcap or sqlite3): its folder, or one of its storage files.

    Args:
        path: the bag.
        topics: names for the roles of `TOPIC_PATTERNS`, where the recording used others.

    Raises:
        TimarError: no bag there, nothing in it can be read, or a role is unknown.
    """
    path = Path(path)
    return _read(path, topics, lambda reading, messages: reading.add_all(messages)).recording(path)


def read_messages(
    path: str | Path, roles: Iterable[str], extra: Iterable[str] = (), topics: Mapping[str, str] | None = None
) -> "BagMessages":
    """The messages of some roles and of `extra` topics as bytes, in the order of their times.

    Raises:
        TimarError: as `read_recording`.
    """
    roles, extra = set(roles), set(extra)
    roles |= {spoken for spoken, role in _SPOKEN.items() if role in roles}
    found: list[BagMessage] = []

    def take(reading: _Reading, messages: Iterable[StoredMessage]) -> None:
        found.clear()
        for topic, type_name, time_ns, data in messages:
            reading.messages += 1
            role = reading.role(topic, type_name)
            if role in roles or topic in extra:
                found.append(BagMessage(role if role in roles else None, topic, type_name, time_ns, bytes(data)))

    reading = _read(Path(path), topics, take)
    superseded = _SPOKEN.values() if any(message.role == "spoken_audio" for message in found) else _SPOKEN.keys()
    found = [m._replace(role=_SPOKEN.get(m.role, m.role)) for m in found if m.role not in superseded]
    return BagMessages(sorted(found, key=lambda message: message.time_ns), reading.losses, reading.store)


def _read(
    path: Path,
    topics: Mapping[str, str] | None,
    take: Callable[["_Reading", Iterable[StoredMessage]], None],
) -> "_Reading":
    """Gives `take` the messages by the bag's index, or, from the start again, what a damaged one still holds."""
    if not path.exists():
        raise TimarError(f"there is no recording at {path}; expected a rosbag2 folder; "
                         "pass the folder that holds metadata.yaml")  # fmt: skip
    unknown = set(topics or ()) - set(TOPIC_PATTERNS)
    if unknown:
        raise TimarError(
            f"unknown role {sorted(unknown)[0]!r} for a topic; expected one of "
            f"{', '.join(TOPIC_PATTERNS)}; correct the name"
        )
    reading = _Reading(dict(topics or {}))
    try:
        take(reading, indexed_messages(path, reading.learn_type, reading.losses))
    except Exception as error:  # readers raise many kinds on a damaged file; then salvage it
        reading = _Reading(dict(topics or {}))
        reading.losses.append(f"the bag is damaged or incomplete ({_first_line(error)})")
        take(reading, salvaged_messages(path, reading.learn_type, reading.losses))
    if not reading.messages:
        raise TimarError(
            f"nothing could be read from {path}; expected a rosbag2 recorded as mcap or sqlite3; "
            "record it again, or pass another folder" + "".join(f" ({loss})" for loss in reading.losses)
        )
    return reading


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class _Reading:
    """Collects decoded messages by topic, and makes the recording of them."""

    def __init__(self, topics: dict[str, str]) -> None:
        self.losses: list[str] = []
        self.messages = 0
        self._topics = topics
        self.store = get_typestore(Stores.ROS2_JAZZY)
        self._types: dict[str, tuple[str, int]] = {}
        self._role_of: dict[str, str | None] = {}
        self._collected: dict[str, list[tuple[int, Any]]] = defaultdict(list)
        self._unreadable: dict[str, tuple[int, str]] = {}
        self._signals = SignalReader()
        self._decoders: dict[str, AudioDecoder] = {}
        self._audio_info: dict[str, Any] = {}
        self._first_ns, self._last_ns = 2**63 - 1, 0

    def learn_type(self, type_name: str, encoding: str, definition: str) -> None:
        """Makes a message type of the bag readable that ROS's own packages do not have."""
        if type_name in self.store.fielddefs or not definition:
            return
        try:
            if encoding == "ros2msg":
                self.store.register(get_types_from_msg(definition, type_name))
            elif encoding == "ros2idl":
                self.store.register(get_types_from_idl(definition))
        except Exception as error:  # the parser raises its own kinds; the topic's messages are then told as unreadable
            self.losses.append(f"the definition of {type_name} cannot be read ({_first_line(error)})")

    def add_all(self, messages: Iterable[StoredMessage]) -> None:
        for topic, type_name, time_ns, data in messages:
            self.messages += 1
            self._first_ns = min(self._first_ns, time_ns)
            self._last_ns = max(self._last_ns, time_ns)
            self._types[topic] = (type_name, self._types.get(topic, ("", 0))[1] + 1)
            role = self.role(topic, type_name)
            if role is None:
                continue
            try:
                self._collected[topic].append((time_ns, self._decode(role, type_name, data)))
            except Exception as error:  # damaged bytes make decoders raise anything
                count, first = self._unreadable.get(topic, (0, _first_line(error)))
                self._unreadable[topic] = (count + 1, first)

    def role(self, topic: str, type_name: str) -> str | None:
        """What a topic is for, of `TOPIC_PATTERNS`; None for what is not read."""
        if topic not in self._role_of:
            named = {name: role for role, name in self._topics.items()}
            left_out = {*self._topics, *(_SPOKEN if "self_audio" in self._topics else ())}
            role = named.get(topic) or next(
                (
                    role
                    for role, pattern in TOPIC_PATTERNS.items()
                    if role not in left_out and re.search(pattern, topic)
                ),
                None,
            )
            if (role or "").endswith("_audio") and type_name not in AUDIO_MESSAGE_TYPES:
                self.losses.append(f"{topic}: {type_name} is no audio message that is understood")
                role = None
            self._role_of[topic] = role
        return self._role_of[topic]

    def _decode(self, role: str, type_name: str, data: bytes) -> Any:
        """The small part of a message that is kept."""
        if role in _SIGNALS:
            signal = self._signals.read(type_name, data)
            return None if role == "trajectories" and signal.frame_id == NO_SOUND else signal
        message = self.store.deserialize_cdr(data, type_name)
        if role.endswith("_audio"):
            return self._decoder(role, type_name).decode(message)
        if role.endswith("_audio_info"):
            self._audio_info[role.removesuffix("_info")] = message
            self._decoders.pop(role.removesuffix("_info"), None)
            return None
        if role == "command_latency":
            return SignalMessage(0, "", ("latency_ms",), np.array([message.data], np.float64))
        if role == "trace":
            return decode_hop(bytes(message.data))
        if role == "conversation":
            return dict(json.loads(message.data))
        if role == "turns":
            turn = json.loads(message.data)
            return Turn(int(turn["frame"]), int(turn["stamp_ns"]), str(turn["reason"]), str(turn["floor"]))
        if role == "diagnostics":
            return [
                (
                    status.name,
                    int(status.level),
                    status.message,
                    {pair.key: pair.value for pair in status.values},
                )
                for status in message.status
            ]
        if role == "parameters":
            changed = [*message.new_parameters, *message.changed_parameters]
            return message.node, {p.name: _parameter_value(p.value) for p in changed}
        return message.data

    def _decoder(self, role: str, type_name: str) -> AudioDecoder:
        if role not in self._decoders:
            self._decoders[role] = AudioDecoder(type_name)
            if role in self._audio_info:
                self._decoders[role].set_info(self._audio_info[role])
        return self._decoders[role]

    def _of(self, role: str) -> list[tuple[int, Any]]:
        """The messages of a role, of the topic that has most of them."""
        candidates = [topic for topic, of in self._role_of.items() if of == role]
        if not candidates:
            return []
        chosen = max(candidates, key=lambda topic: len(self._collected[topic]))
        if role not in ("diagnostics", "parameters"):
            self.losses += [f"{t}: ignored, {chosen} was read" for t in candidates if t != chosen]
        # A recorder that was killed leaves messages in the order of writing.
        return sorted(self._collected[chosen], key=lambda entry: entry[0])

    def _spans_of_yes(self, role: str) -> list[Span]:
        told = [(time_ns, "yes" if value else "") for time_ns, value in self._of(role)]
        return [s for s in _spans(told, self._last_ns) if s.value]

    def recording(self, path: Path) -> Recording:
        """Everything collected, put in order."""
        made = Recording(path, self._first_ns, self._last_ns)
        made.topics = dict(sorted(self._types.items()))
        voices = {
            SELF: self._voice("spoken_audio") or self._voice("self_audio"),
            PARTNER: self._voice("partner_audio"),
        }
        made.voices |= {party: voice for party, voice in voices.items() if voice is not None}
        for party, role in ((SELF, "self"), (PARTNER, "partner")):
            made.speaking[party] = self._spans_of_yes(f"{role}_speaking")
            made.muted[party] = self._spans_of_yes(f"{role}_muted")
        made.floor = _spans(self._of("floor"), self._last_ns)
        made.turns = sorted((turn for _, turn in self._of("turns")), key=lambda turn: turn.frame)
        made.trajectories = _signal([entry for entry in self._of("trajectories") if entry[1] is not None], None)
        made.head_pose = _signal(_with_sound(self._of("head_pose"), made.trajectories), None)
        made.blendshapes = _signal(_with_sound(self._of("blendshapes"), made.trajectories), ARKIT_BLENDSHAPES)
        joints = made.trajectories.names if made.trajectories else None
        states = self._of("joint_states")
        made.joint_states, made.jaw = _signal(states, joints), _jaw(states)
        made.played = self._voice("played_audio")
        made.command_latency = _signal(self._of("command_latency"), None)
        made.refusals = [Event(time_ns, text) for time_ns, text in self._of("refusals")]
        for time_ns, statuses in self._of("diagnostics"):
            for name, level, message, values in statuses:
                made.diagnostics[name] = Status(name, level, message, values, time_ns)
        for _, (node, values) in self._of("parameters"):
            made.parameters.setdefault(node, {}).update(values)
        made.partner_head_pose = _signal(self._of("partner_head_pose"), None)
        made.partner_blendshapes = _signal(self._of("partner_blendshapes"), None)
        made.conversations = self._of("conversation")
        trace = self._of("trace")
        made.hops = [hop for _, hop in trace]
        made.hops_from_ns = trace[0][0] if trace else None
        seen = set(self._role_of.values())
        self.losses += [
            f"nothing was recorded of {re.sub(r'[(].*[)]', '', TOPIC_PATTERNS[role]).strip('/$')}"
            for role in _EXPECTED
            if role not in seen
        ]
        self.losses += [
            f"{topic}: {count} messages could not be read ({first})"
            for topic, (count, first) in sorted(self._unreadable.items())
        ]
        made.losses = self.losses
        return made

    def _voice(self, role: str) -> Voice | None:
        packets = [(time_ns, chunk) for time_ns, chunk in self._of(role) if len(chunk.samples)]
        if not packets:
            return None
        low, high = self._first_ns - _CLOCK_SLACK_NS, self._last_ns + _CLOCK_SLACK_NS
        begins = np.array(
            [arrival - chunk.duration_ns if chunk.stamp_ns is None else chunk.stamp_ns for arrival, chunk in packets],
            np.int64,
        )
        if not low <= np.median(begins) <= high:
            self.losses.append(f"{role}: stamps are of another clock; times of arrival were used")
            begins = np.array([arrival - chunk.duration_ns for arrival, chunk in packets], np.int64)
        inside = (begins >= low) & (begins <= high)
        if not inside.all():
            self.losses.append(f"{role}: {int((~inside).sum())} messages had impossible stamps")
        chunks = [chunk for (_, chunk), keep in zip(packets, inside, strict=True) if keep]
        return assemble_voice(begins[inside], chunks)


def assemble_voice(begins_ns: np.ndarray, chunks: list[AudioChunk]) -> Voice:
    """Puts packets of sound on one timeline, without the jitter of their times.

    Packets follow each other without a gap as long as the median over 25 packets of (time begun -
    samples so far) stays; only a step of that median is a gap or an overlap.

    Args:
        begins_ns: int64 [n] when each packet was captured, as far as is known.
        chunks: n packets with `samples` (float32 mono) and `rate` (Hz); stamped ones are put in
            order of their stamps, and doubled ones are dropped.
    """
    if all(chunk.stamp_ns is not None for chunk in chunks):
        order = np.argsort(begins_ns, kind="stable")
        order = order[np.diff(begins_ns[order], prepend=begins_ns[order[0]] - 1) > 0]
        begins_ns, chunks = begins_ns[order], [chunks[i] for i in order]
    durations = np.array([chunk.duration_ns for chunk in chunks], np.int64)
    elapsed = np.cumsum(durations) - durations
    offset = begins_ns - elapsed
    # Integer medians keep nanoseconds exact; the first offset is taken out against overflow.
    steady = median_filter(offset - offset[0], size=_JITTER_WINDOW, mode="nearest") + offset[0]
    noise = float(np.median(np.abs(offset - steady)))
    tolerance = min(max(4.0 * noise, 5e6), 60e6)
    pieces, level = [0], 0.0  # level: the piece's mean so far, counted from its first packet's
    for k in range(1, len(chunks)):
        away = float(steady[k] - steady[pieces[-1]])
        if abs(away - level) > tolerance or chunks[k].rate != chunks[k - 1].rate:
            pieces.append(k)
            away = level = 0.0
        level += (away - level) / (k - pieces[-1] + 1)
    pieces.append(len(chunks))
    placed: list[tuple[int, np.ndarray]] = []
    for first, last in zip(pieces[:-1], pieces[1:], strict=True):
        at_ns = int(np.median(offset[first:last])) + int(elapsed[first])
        samples = np.concatenate([chunk.samples for chunk in chunks[first:last]])
        if chunks[first].rate != SAMPLE_RATE:
            samples = soxr.resample(samples, chunks[first].rate, SAMPLE_RATE)
        placed.append((at_ns, np.asarray(samples, np.float32)))
    start_ns = min(at_ns for at_ns, _ in placed)
    spots = [round((at_ns - start_ns) * SAMPLE_RATE / 1e9) for at_ns, _ in placed]
    length = max(spot + len(samples) for spot, (_, samples) in zip(spots, placed, strict=True))
    timeline, covered = np.zeros(length, np.float32), np.zeros(length, bool)
    for spot, (_, samples) in zip(spots, placed, strict=True):
        timeline[spot : spot + len(samples)] = samples
        covered[spot : spot + len(samples)] = True
    missing_ns = round(float((~covered).sum()) * 1e9 / SAMPLE_RATE)
    return Voice(start_ns, timeline, len(chunks), missing_ns)


def _spans(changes: list[tuple[int, str]], end_ns: int) -> list[Span]:
    """Announced values, each lasting until a different one is announced."""
    spans: list[Span] = []
    for time_ns, value in changes:
        if spans and spans[-1].value == value:
            continue
        if spans:
            spans[-1] = Span(spans[-1].start_ns, time_ns, spans[-1].value)
        spans.append(Span(time_ns, end_ns, value))
    return spans


def _with_sound(frames: list[tuple[int, SignalMessage]], commands: Signal | None) -> list[tuple[int, SignalMessage]]:
    """Frames from the first hop on that rests on sound: the conversation, without the idle life before it."""
    if commands is None or len(commands) < 2:
        return frames
    hop_ns = int(np.median(np.diff(commands.stamps_ns)))
    return [frame for frame in frames if frame[1].stamp_ns >= commands.stamps_ns[0] - hop_ns]


def _signal(messages: list[tuple[int, SignalMessage]], wanted: tuple[str, ...] | None) -> Signal | None:
    """Messages as arrays of the wanted names, else of the commonest set."""
    if not messages:
        return None
    if wanted is None:
        wanted = Counter(message.names for _, message in messages).most_common(1)[0][0]
    columns: dict[tuple[str, ...], list[int] | None] = {}
    rows = []
    for time_ns, (stamp_ns, _, names, values) in messages:
        if names not in columns:
            columns[names] = [names.index(name) for name in wanted] if set(wanted) <= set(names) else None
        if columns[names] is None or len(values) != len(names):
            continue
        rows.append((time_ns, stamp_ns or time_ns, values[columns[names]]))
    if not rows:
        return None
    rows.sort(key=lambda row: row[1])
    return Signal(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int64),
        wanted,
        np.stack([row[2] for row in rows]).astype(np.float64),
    )


def _jaw(messages: list[tuple[int, SignalMessage]]) -> Signal | None:
    """The jaw's joint in joint states, in which it may come beside the neck's or by itself."""
    for names in {message.names: None for _, message in messages}:
        for name in names:
            if "jaw" in name.lower():
                return _signal(messages, (name,))
    return None


def _parameter_value(value: Any) -> object:
    """The value held by rcl_interfaces/ParameterValue; its type numbers are 0 (not set) to 9."""
    fields = (
        "bool_value",
        "integer_value",
        "double_value",
        "string_value",
        "byte_array_value",
        "bool_array_value",
        "integer_array_value",
        "double_array_value",
        "string_array_value",
    )
    if not 1 <= value.type <= len(fields):
        return None
    held = getattr(value, fields[value.type - 1])
    return held.tolist() if isinstance(held, np.ndarray) else held
