"""Makes a rosbag2 of an invented conversation on the topics of the running graph.

What is in it is known exactly (who speaks when, how late the head moves), so that readers, figures,
report and pictures can be tested against it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from timar_ros.channels import ARKIT_BLENDSHAPES, quaternion_from_rpy

START_NS = 1_780_000_000_000_000_000
RATE = 16_000
FRAME_NS, HOP_NS = 40_000_000, 80_000_000
JOINTS = ("neck_yaw", "neck_pitch", "neck_roll")
AUDIO_DATA = "uint8[] data\n"
AUDIO_DATA_STAMPED = (
    "std_msgs/Header header\naudio_common_msgs/AudioData audio\n"
    + "=" * 80
    + "\nMSG: audio_common_msgs/AudioData\n"
    + AUDIO_DATA
)


@dataclass(frozen=True)
class Invented:
    """What an invented conversation holds."""

    seconds: float = 8.0
    playout_ms: float = 165.0  # stamp of a frame -> its face is published, its pose is due
    neck_ms: float = 15.0  # how much later than due the neck is
    latency_ms: float = 60.0
    jitter_ms: float = 8.0  # of the audio packets' arrival
    heard_ms: float | None = None  # capture of the own voice -> it is played; a jaw then moves in joint_states, too
    seed: int = 1

    @property
    def frames(self) -> int:
        return int(self.seconds * 25)

    def speaks(self, party: str, time_s: np.ndarray) -> np.ndarray:
        """Who speaks: one second each, in turn, with a pause of 0.3 s before each change."""
        phase = np.asarray(time_s) % 2.0
        return (phase < 0.7) if party == "self" else ((phase >= 1.0) & (phase < 1.7))

    def voice(self, party: str) -> np.ndarray:
        """int16 [n] of one party: a buzz with syllables, of its own pitch."""
        time_s = np.arange(int(self.seconds * RATE)) / RATE
        pitch = 120.0 if party == "self" else 210.0
        buzz = np.sin(2 * np.pi * pitch * time_s) + 0.5 * np.sin(2 * np.pi * 3.1 * pitch * time_s)
        syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4.0 * time_s)
        return (6000 * buzz * syllables * self.speaks(party, time_s)).astype(np.int16)

    def rpy(self, time_s: np.ndarray) -> np.ndarray:
        """[n, 3] rad: a slow sway, a nod now and then."""
        time_s = np.asarray(time_s)
        nod = np.maximum(0.0, np.sin(2 * np.pi * 0.25 * time_s)) * np.sin(2 * np.pi * 1.9 * time_s)
        return np.stack(
            [
                0.06 * np.sin(2 * np.pi * 0.21 * time_s + 1.0),
                0.09 * nod + 0.03 * np.sin(2 * np.pi * 0.37 * time_s),
                0.16 * np.sin(2 * np.pi * 0.29 * time_s) + 0.05 * np.sin(2 * np.pi * 0.8 * time_s),
            ],
            axis=-1,
        )

    def face(self, time_s: float) -> np.ndarray:
        """[52]: the jaw with the own syllables, blinks, a smile while listening."""
        weights = dict.fromkeys(ARKIT_BLENDSHAPES, 0.0)
        speaking = bool(self.speaks("self", time_s))
        weights["jawOpen"] = 0.35 * speaking * (0.55 + 0.45 * np.sin(2 * np.pi * 4.0 * time_s))
        blink = float(np.exp(-(((time_s % 2.3) - 1.2) ** 2) / 0.0035))
        weights["eyeBlinkLeft"] = weights["eyeBlinkRight"] = blink
        smile = 0.1 + 0.4 * bool(self.speaks("partner", time_s))
        weights["mouthSmileLeft"] = weights["mouthSmileRight"] = smile
        weights["browInnerUp"] = 0.5 * max(0.0, np.sin(2 * np.pi * 0.4 * time_s))
        weights["eyeLookOutLeft"] = weights["eyeLookInRight"] = max(0.0, 0.6 * np.sin(time_s))
        return np.array([weights[name] for name in ARKIT_BLENDSHAPES])


def write_bag(
    path: Path,
    invented: Invented = Invented(),  # noqa: B008  (frozen)
    *,
    storage: str = "mcap",
    audio_type: str = "std_msgs/msg/Int16MultiArray",
    without: tuple[str, ...] = (),
) -> Path:
    """Writes the conversation as a bag folder.

    Args:
        path: the folder to be made.
        storage: "mcap" or "sqlite3".
        audio_type: std_msgs/msg/Int16MultiArray or audio_common_msgs/msg/AudioDataStamped.
        without: topics to leave out.
    """
    messages, store = invented_messages(invented, audio_type)
    messages = [message for message in messages if message[0] not in without]
    return write_messages(path, messages, store, StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3)


def write_messages(
    path: Path,
    messages: list,
    store: Typestore,
    storage: StoragePlugin = StoragePlugin.MCAP,
    compressed: CompressionMode = CompressionMode.NONE,
) -> Path:
    """Writes messages as `invented_messages` gives them as a bag folder."""
    writer = Writer(path, version=9, storage_plugin=storage)
    if compressed is not CompressionMode.NONE:
        writer.set_compression(compressed, CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, time_ns, message in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, message.__msgtype__, typestore=store)
            writer.write(connections[topic], time_ns, store.serialize_cdr(message, message.__msgtype__))
    return path


def invented_messages(invented: Invented, audio_type: str = "std_msgs/msg/Int16MultiArray"):
    """[(topic, time of arrival in ns, message)] in the order of arrival, and a type store that knows their types."""
    return sorted(_messages(invented, audio_type), key=lambda message: message[1]), _typestore()


def _typestore():
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(AUDIO_DATA, "audio_common_msgs/msg/AudioData"))
    store.register(get_types_from_msg(AUDIO_DATA_STAMPED, "audio_common_msgs/msg/AudioDataStamped"))
    return store


def _messages(invented: Invented, audio_type: str):
    """(topic, time of arrival in ns, message) of everything, topic by topic."""
    types = _typestore().types
    random = np.random.default_rng(invented.seed)

    def make(name: str, /, **fields):
        return types[name](**fields)

    def header(stamp_ns: int, frame_id: str = ""):
        sec, nanosec = divmod(int(stamp_ns), 1_000_000_000)
        time = make("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)
        return make("std_msgs/msg/Header", stamp=time, frame_id=frame_id)

    def text(value: str):
        return make("std_msgs/msg/String", data=value)

    def joint_state(stamp_ns: int, names: tuple[str, ...], values: np.ndarray):
        return make(
            "sensor_msgs/msg/JointState",
            header=header(stamp_ns),
            name=list(names),
            position=np.asarray(values, np.float64),
            velocity=np.zeros(0),
            effort=np.zeros(0),
        )

    packet = RATE // 50
    for party, topic in (("self", "/microphone/audio"), ("partner", "/partner/audio")):
        voice = invented.voice(party)
        for first in range(0, len(voice) - packet + 1, packet):
            samples = voice[first : first + packet]
            captured_ns = START_NS + first * 1_000_000_000 // RATE
            late_ns = int(random.uniform(0.0, invented.jitter_ms) * 1e6)
            if audio_type == "std_msgs/msg/Int16MultiArray":
                layout = make("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
                message = make(audio_type, layout=layout, data=samples)
            else:
                audio = make("audio_common_msgs/msg/AudioData", data=samples.view(np.uint8))
                message = make(audio_type, header=header(captured_ns), audio=audio)
            yield topic, captured_ns + 20_000_000 + late_ns, message

        if party == "self" and invented.heard_ms is not None:
            for first in range(0, len(voice) - packet + 1, packet):
                layout = make("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
                played = make("std_msgs/msg/Int16MultiArray", layout=layout, data=voice[first : first + packet])
                heard_ns = START_NS + first * 1_000_000_000 // RATE + int(invented.heard_ms * 1e6)
                yield "/speaker/played", heard_ns + 20_000_000, played

    frame_s = np.arange(invented.frames) * 0.04
    quaternions = quaternion_from_rpy(invented.rpy(frame_s))
    for frame, (time_s, (x, y, z, w)) in enumerate(zip(frame_s, quaternions, strict=True)):
        stamp_ns = START_NS + frame * FRAME_NS
        shown_ns = stamp_ns + int(invented.playout_ms * 1e6) + int(random.uniform(0, 1e6))
        face = joint_state(stamp_ns, ARKIT_BLENDSHAPES, invented.face(time_s))
        yield "/head/blendshapes", shown_ns, face
        if invented.heard_ms is not None:
            opened = 0.245 * invented.face(time_s)[ARKIT_BLENDSHAPES.index("jawOpen")]
            yield "/joint_states", shown_ns + 500_000, joint_state(shown_ns, ("eyes", "jaw"), np.array([0.1, opened]))
        quaternion = make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)
        pose = make(
            "geometry_msgs/msg/QuaternionStamped",
            header=header(stamp_ns, "head_base"),
            quaternion=quaternion,
        )
        yield "/head/head_pose", shown_ns, pose

    delay_s = (invented.playout_ms + invented.neck_ms) / 1e3
    for tick in range(int((invented.seconds + delay_s) * 100)):
        stamp_ns = START_NS + tick * 10_000_000
        roll, pitch, yaw = invented.rpy(np.clip(tick * 0.01 - delay_s, 0.0, invented.seconds))
        state = joint_state(stamp_ns, JOINTS, np.array([yaw, pitch, roll]))
        yield "/joint_states", stamp_ns + 500_000, state

    hops = invented.frames // 2
    for hop in range(hops):
        stamp_ns = START_NS + (hop + 1) * HOP_NS
        latency_ms = invented.latency_ms + random.uniform(-5.0, 15.0)
        received_ns = stamp_ns + int(latency_ms * 1e6)
        roll, pitch, yaw = invented.rpy(hop * 0.08)
        point = make(
            "trajectory_msgs/msg/JointTrajectoryPoint",
            positions=np.array([yaw, pitch, roll]),
            velocities=np.zeros(3),
            accelerations=np.zeros(3),
            effort=np.zeros(0),
            time_from_start=make("builtin_interfaces/msg/Duration", sec=0, nanosec=200_000_000),
        )
        command = make(
            "trajectory_msgs/msg/JointTrajectory",
            header=header(stamp_ns),
            joint_names=list(JOINTS),
            points=[point],
        )
        yield "/head_controller/joint_trajectory", received_ns, command
        measured = make("std_msgs/msg/Float32", data=latency_ms)
        yield "/simulated_head/command_latency_ms", received_ns + 100_000, measured

    previous = {"self": None, "partner": None, "floor": None}
    for frame in range(invented.frames):
        time_ns = START_NS + frame * FRAME_NS + 200_000_000
        speaks = {p: bool(invented.speaks(p, frame * 0.04)) for p in ("self", "partner")}
        for party, value in speaks.items():
            if previous[party] != value:
                previous[party] = value
                yield f"/{party}/is_speaking", time_ns, make("std_msgs/msg/Bool", data=value)
        floor = "self" if speaks["self"] else "partner" if speaks["partner"] else "nobody"
        if previous["floor"] != floor:
            reason = "floor"
            previous["floor"] = floor
            yield "/head/floor", time_ns, text(floor)
            turn = {
                "frame": frame,
                "stamp_ns": START_NS + frame * FRAME_NS,
                "reason": reason,
                "floor": floor,
            }
            yield "/head/turns", time_ns, text(json.dumps(turn))

    for second in range(1, int(invented.seconds) + 2):
        done = min(1.0, second / invented.seconds)
        frames, hops_done = int(invented.frames * done), int(hops * done)
        latency, late = invented.latency_ms, invented.latency_ms + 12.0
        statuses = {
            "head: latency": {
                "hops": hops_done,
                "deadline_misses": 0,
                "latency_ms_p50": latency,
                "latency_ms_p95": late,
                "latency_ms_p99": late + 3,
            },
            "head: audio self": {"frames": frames, "late_packets": 2, "lost_ms": 0},
            "head: audio partner": {"frames": frames, "late_packets": 0, "lost_ms": 40},
            "head: policy": {
                "policy": "timar-small",
                "device": "cpu",
                "frames": frames,
                "turns": 1 + frames // 20,
                "turns_by_floor": frames // 20,
                "rss_mb": 512.5,
            },
            "simulated_head: commands": {
                "commands": hops_done,
                "refusals": 0,
                "limit_violations": 0,
                "latency_ms_p50": latency,
                "latency_ms_p95": late,
                "latency_ms_p99": late + 3,
                "reaction_ms_p50": latency + 40,
                "reaction_ms_p95": late + 70,
                "reaction_ms_p99": late + 78,
            },
        }
        status = [
            make(
                "diagnostic_msgs/msg/DiagnosticStatus",
                level=0,
                name=name,
                message="ok",
                hardware_id="",
                values=[
                    make("diagnostic_msgs/msg/KeyValue", key=key, value=str(value)) for key, value in values.items()
                ],
            )
            for name, values in statuses.items()
        ]
        time_ns = START_NS + second * 1_000_000_000
        array = make("diagnostic_msgs/msg/DiagnosticArray", header=header(time_ns), status=status)
        yield "/diagnostics", time_ns, array
