"""A recorded conversation as arrays: voices, motion, commands, what was decided and told.

Times are ROS time, integer nanoseconds. What was not recorded is empty or None.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from timar_ros.channels import rpy_from_quaternion
from timar_ros.rates import FRAME_NS, SAMPLE_RATE
from timar_ros.stream.trace import TracedHop

_LATE_NS = 60_000_000
"""A hop that was planned so long before it came was kept, or came late, of which one more or less does not matter."""


@dataclass(frozen=True)
class Signal:
    """Messages of one topic as arrays: n messages, C named values each."""

    times_ns: np.ndarray  # int64 [n], when the recorder received them
    stamps_ns: np.ndarray  # int64 [n], their header's stamp; times_ns where there is none
    names: tuple[str, ...]
    values: np.ndarray  # float64 [n, C]

    def __len__(self) -> int:
        return len(self.times_ns)

    def column(self, name: str) -> np.ndarray | None:
        """float64 [n] of one name, None where the messages do not have it."""
        return self.values[:, self.names.index(name)] if name in self.names else None


@dataclass(frozen=True)
class Voice:
    """One party's sound, 16 kHz mono float32 in [-1, 1], silence where no message covers it."""

    start_ns: int
    samples: np.ndarray
    messages: int
    missing_ns: int  # silence between messages

    @property
    def end_ns(self) -> int:
        return self.start_ns + round(len(self.samples) * 1e9 / SAMPLE_RATE)

    def between(self, start_ns: int, end_ns: int) -> np.ndarray:
        """float32 samples of a stretch of time, silence where the voice has none."""
        length = round((end_ns - start_ns) * SAMPLE_RATE / 1e9)
        first = round((start_ns - self.start_ns) * SAMPLE_RATE / 1e9)
        out = np.zeros(max(0, length), np.float32)
        low, high = max(0, first), min(len(self.samples), first + length)
        if high > low:
            out[low - first : high - first] = self.samples[low:high]
        return out


@dataclass(frozen=True)
class Span:
    """A stretch of time with one value, as it was announced on a latched topic."""

    start_ns: int
    end_ns: int
    value: str


@dataclass(frozen=True)
class Turn:
    """A turn boundary: the frame a new turn begins with, and why."""

    frame: int
    stamp_ns: int
    reason: str
    floor: str


@dataclass(frozen=True)
class Event:
    """A message that is text, with the time it arrived."""

    time_ns: int
    text: str


@dataclass(frozen=True)
class Status:
    """The last values of one diagnostics status."""

    name: str
    level: int  # 0 ok, 1 warning, 2 error, 3 stale
    message: str
    values: dict[str, str]
    time_ns: int


@dataclass
class Recording:
    """A conversation as recorded; signals that were not recorded are None or empty."""

    path: Path
    begin_ns: int
    finish_ns: int
    voices: dict[str, Voice] = field(default_factory=dict)
    speaking: dict[str, list[Span]] = field(default_factory=dict)
    muted: dict[str, list[Span]] = field(default_factory=dict)
    floor: list[Span] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    head_pose: Signal | None = None  # x, y, z, w of the quaternion
    blendshapes: Signal | None = None  # the 52 ARKit names
    joint_states: Signal | None = None  # the joints that the commands name, rad
    jaw: Signal | None = None  # the joint of the joint states that has jaw in its name
    played: Voice | None = None  # the own voice as the loudspeaker was given it, in the time when it was heard
    trajectories: Signal | None = None  # positions of the first point, rad
    command_latency: Signal | None = None  # ms, per accepted command
    refusals: list[Event] = field(default_factory=list)
    diagnostics: dict[str, Status] = field(default_factory=dict)
    parameters: dict[str, dict[str, object]] = field(default_factory=dict)  # by node
    conversations: list[tuple[int, dict[str, Any]]] = field(default_factory=list)  # time, facts (stream/trace.py)
    hops: list[TracedHop] = field(default_factory=list)  # in the order in which they were published
    hops_from_ns: int | None = None  # when the first of them came to the recorder
    partner_head_pose: Signal | None = None
    partner_blendshapes: Signal | None = None  # of the names that the tracker tells
    topics: dict[str, tuple[str, int]] = field(default_factory=dict)  # type, messages
    losses: list[str] = field(default_factory=list)

    @property
    def start_ns(self) -> int:
        """The conversation's first instant: the first frame's stamp, else the first sample's."""
        starts = [int(s.stamps_ns[0]) for s in (self.blendshapes, self.head_pose) if s]
        starts = starts or [voice.start_ns for voice in self.voices.values()]
        return min(starts, default=self.begin_ns)

    @property
    def end_ns(self) -> int:
        """The conversation's last instant: the last frame's end, else the last sample's."""
        ends = [int(s.stamps_ns[-1]) + FRAME_NS for s in (self.blendshapes, self.head_pose) if s]
        ends = ends or [voice.end_ns for voice in self.voices.values()]
        return max(ends, default=self.finish_ns)

    def frames_before(self) -> int:
        """Frames of the conversation that had gone by when its recording began; 0 where no trace tells.

        The trace begins with hops that the head node kept for whoever comes late.
        """
        live = (t.hop.frames[0].index for t in self.hops if t.planned_ns > self.hops_from_ns - _LATE_NS)
        return next(live, 0)

    def head_rpy(self) -> np.ndarray | None:
        """float64 [n, 3] roll, pitch, yaw (rad) of the head pose messages."""
        return rpy_from_quaternion(self.head_pose.values) if self.head_pose else None

    def playout_ns(self) -> int | None:
        """How long after its stamp a frame is due to be shown.

        As the head node tells it, else the median delay of the face and head pose messages.
        """
        for text in self.diagnostic_values("head", "playout_delay_ms"):
            with suppress(ValueError):
                return round(float(text) * 1e6)
        delays = [s.times_ns - s.stamps_ns for s in (self.blendshapes, self.head_pose) if s]
        return int(np.median(np.concatenate(delays))) if delays else None

    def diagnostic_values(self, source: str, key: str) -> list[str]:
        """Last values of a key, in all statuses whose name begins with `source` and a colon."""
        return [
            status.values[key]
            for name, status in self.diagnostics.items()
            if name.split(":")[0].strip("/ ") == source and key in status.values
        ]
