"""What a viewer shows: one instant of a head in conversation, and the seconds before it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from timar_ros.channels import rpy_from_quaternion
from timar_ros.errors import TimarError
from timar_ros.robot.face_map import FaceMap, weights_by_name
from timar_ros.robot.profile import RobotProfile

SECONDS = 10.0
"""How much of the past is shown."""

ROWS = ("self", "partner", "floor")
NECK = ("neck_yaw", "neck_pitch", "neck_roll")
STALE_S = 1.0
"""Joint states older than this leave a joint to what the head node itself says."""


@dataclass(frozen=True)
class Shown:
    """One instant. What is not known is None or empty."""

    joints: Mapping[str, float] = field(default_factory=dict)  # rad or m, by joint
    values: Mapping[str, str | None] = field(default_factory=dict)  # of ROWS: "yes", "" or the floor's name
    muted: frozenset[str] = frozenset()  # parties that are not heard
    lines: Sequence[str] = ()  # latency and health in words


@dataclass(frozen=True)
class Recent:
    """The last `SECONDS`; times in s before now, from -SECONDS to 0."""

    times_s: np.ndarray  # float64 [n]
    angles: np.ndarray  # float64 [n, 3] deg, of NECK
    spans: Mapping[str, Sequence[tuple[float, float, str]]]  # by row: from, to, value


class Source(Protocol):
    """Where a viewer has it from: a running graph or a bag."""

    def shown(self) -> Shown: ...

    def recent(self) -> Recent: ...


def has_our_neck(robot: str) -> bool:
    """Whether a robot's neck turns as the neck of the head that comes with the package: others' joints may only be
    called alike, and turn the other way or from another zero."""
    try:
        profile = RobotProfile.load(robot)
    except TimarError:  # one of the user's own, elsewhere
        return False
    told, ours = (
        [(joint.name, joint.axis, joint.sign, joint.gain, joint.offset) for joint in each.joints]
        for each in (profile, RobotProfile.load("generic"))
    )
    return told == ours


class Joints:
    """Joint positions from the topics: `joint_states` where it names a joint, else the head's own pose and face.

    So the head also moves beside a robot whose joints have other names, or that has no face.

    Attributes:
        neck_is_told: whether `joint_states` tells the neck that is shown; else the pose does.
    """

    def __init__(self, face: FaceMap) -> None:
        self.neck_is_told = True
        self._face = face
        self._by_policy: dict[str, float] = {}
        self._told: dict[str, tuple[float, float]] = {}

    def joint_states(self, names: Sequence[str], positions: Sequence[float], now_s: float) -> None:
        for name, position in zip(names, positions, strict=False):
            self._told[name] = (position, now_s)

    def blendshapes(self, names: Sequence[str], weights: Sequence[float]) -> None:
        positions = self._face.joints(weights_by_name(names, weights))
        self._by_policy.update(zip(self._face.joint_names, positions.tolist(), strict=True))

    def head_pose(self, quaternion: Sequence[float]) -> None:
        """x, y, z, w. The head's own neck turns by yaw, pitch, roll in this order, which are those angles."""
        if not np.linalg.norm(quaternion) > 0.0:
            return
        roll, pitch, yaw = rpy_from_quaternion(np.asarray(quaternion)).tolist()
        self._by_policy.update(zip(NECK, (yaw, pitch, roll), strict=True))

    def at(self, now_s: float) -> dict[str, float]:
        """Positions by joint, rad or m."""
        known = {name: at for name, at in self._told.items() if self.neck_is_told or name not in NECK}
        told = {name: place for name, (place, at_s) in known.items() if now_s - at_s < STALE_S}
        return {**{name: place for name, (place, _) in known.items()}, **self._by_policy, **told}


class History:
    """Keeps the last `SECONDS` of angles and of who spoke."""

    def __init__(self) -> None:
        self._angles: deque[tuple[float, tuple[float, ...]]] = deque()
        self._changes: dict[str, deque[tuple[float, str]]] = {row: deque() for row in ROWS}

    def add(self, now_s: float, joints: Mapping[str, float]) -> None:
        """Take down where the neck is."""
        if any(name in joints for name in NECK):
            self._angles.append((now_s, tuple(np.degrees([joints.get(name, 0.0) for name in NECK]).tolist())))
        while self._angles and self._angles[0][0] < now_s - SECONDS:
            self._angles.popleft()

    def change(self, now_s: float, row: str, value: str) -> None:
        """Take down who speaks, or who has the floor, from now on."""
        changes = self._changes[row]
        changes.append((now_s, value))
        while len(changes) > 1 and changes[1][0] < now_s - SECONDS:
            changes.popleft()

    def value(self, row: str) -> str | None:
        return self._changes[row][-1][1] if self._changes[row] else None

    def recent(self, now_s: float) -> Recent:
        times = np.array([at for at, _ in self._angles], np.float64) - now_s
        angles = np.array([angle for _, angle in self._angles], np.float64).reshape(-1, len(NECK))
        spans = {}
        for row, changes in self._changes.items():
            ends = [*[at for at, _ in changes][1:], now_s][: len(changes)]
            spans[row] = [
                (max(begin - now_s, -SECONDS), end - now_s, value)
                for (begin, value), end in zip(changes, ends, strict=True)
                if end > now_s - SECONDS
            ]
        return Recent(times, angles, spans)


class LiveSource:
    """Fed by a running graph's messages; `clock_s` is any steady clock.

    Args:
        own_urdf: what is shown is the robot itself, and not the head that comes with the package.
    """

    def __init__(self, face: FaceMap, clock_s: Callable[[], float], own_urdf: bool = False) -> None:
        self.joints = Joints(face)
        self._own_urdf = own_urdf
        self._robot = ""
        self.history = History()
        self._muted: frozenset[str] = frozenset()
        self._lines: dict[str, str] = {}
        self._clock_s = clock_s

    def shown(self) -> Shown:
        now_s = self._clock_s()
        joints = self.joints.at(now_s)
        self.history.add(now_s, joints)
        return Shown(joints, {row: self.history.value(row) for row in ROWS}, self._muted, in_order(self._lines))

    def recent(self) -> Recent:
        return self.history.recent(self._clock_s())

    def mute(self, party: str, muted: bool) -> None:
        """Take down whether a party is muted from now on."""
        self._muted = self._muted | {party} if muted else self._muted - {party}

    def diagnostics(self, name: str, warn: bool, message: str, values: Mapping[str, str]) -> None:
        """One status of the head node or of the simulated head."""
        robot = values.get("robot", self._robot)
        if robot != self._robot:
            self._robot = robot
            self.joints.neck_is_told = self._own_urdf or has_our_neck(robot)
        self._lines[name] = status_line(name, warn, message, values)


def in_order(lines: Mapping[str, str]) -> tuple[str, ...]:
    """What there is to say, by status name: the latency first, the faults of inputs last."""
    parts = ("motion", "latency", "policy", "commands")
    place = {name: next((i for i, part in enumerate(parts) if name.endswith(part)), len(parts)) for name in lines}
    return tuple(lines[name] for name in sorted(lines, key=lambda name: (place[name], name)) if lines[name])


def status_line(name: str, warn: bool, message: str, values: Mapping[str, str]) -> str:
    """A diagnostics status in words; empty where it says nothing that is shown."""
    source, _, part = name.partition(":")
    part = part.strip()
    sign = "⚠ " if warn else ""
    if part == "latency" and "latency_ms_p50" in values:
        p50, p95, p99 = (f"{float(values[f'latency_ms_p{p}']):.0f}" for p in (50, 95, 99))
        late = f"{values.get('deadline_misses', '0')} of {values.get('hops', '0')} hops late"
        return f"{sign}latency {p50} / {p95} / {p99} ms (p50 / p95 / p99), {late}"
    if part == "policy":
        shown = [values[key] for key in ("policy", "device", "robot") if key in values]
        return f"{sign}{' · '.join(shown)}" + (f": {message}" if warn or message != "running" else "")
    if part == "commands" and "commands" in values:
        return (
            f"{sign}{values['commands']} commands, {values.get('refusals', '0')} refused, "
            f"{values.get('limit_violations', '0')} beyond limits"
        )
    if part == "motion":
        return f"{sign}{message}" if message != "moving" else ""
    return f"⚠ {source} {part}: {message}" if warn else ""
