"""Figures of one recorded conversation, and whether they reach what the package promises.

What was not recorded is None: a figure is measured or absent, never guessed.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.signal import correlate

from timar_ros.channels import HEAD_CHANNELS
from timar_ros.rates import FRAME_NS
from timar_ros.replay.lips import shown_lag
from timar_ros.replay.recording import Recording, Signal

HEAD, SIMULATED_HEAD = "head", "simulated_head"  # where their diagnostics come from
PERCENTILES = ("p50", "p95", "p99")
LONGEST_DELAY_MS = 500
MOST_EARLY_PERCENT = 1.0
_LEAST_CORRELATION = 0.3  # below it the joints do not follow the pose, and a lag means nothing


def summarise(recording: Recording) -> dict[str, Any]:
    """All figures of a conversation, by the names of summary.json; None where not measured.

    Latency and reaction are the simulated head's own measurements; counts are over the
    conversation, from the first hop, or from where its recording began.
    """
    node = _Diagnostics(recording, HEAD)
    robot = _Diagnostics(recording, SIMULATED_HEAD)
    commands, hop_ns = recording.trajectories, _hop_ns(recording.trajectories)
    before = recording.frames_before()
    hop_frames = None if hop_ns is None else max(1, round(hop_ns / FRAME_NS))
    hops_before = before // (hop_frames or 1)
    frames = _most(_less(node.count("frames"), before), _frames_spanned(recording.blendshapes))
    hops = _most(_less(node.count("hops"), hops_before), _steps_spanned(commands, hop_ns))
    # The last diagnostics are up to a second old; the recorded messages are complete, but may begin late.
    received = _most(None if before else robot.count("commands"), _length(recording.command_latency))
    sent = _less(hops, _length_before(commands, recording.command_latency) if before else 0)
    faces = _length(recording.blendshapes)
    misses = node.count("deadline_misses")
    early = _percent_before_their_sound(commands)
    timed = early is None or early <= MOST_EARLY_PERCENT
    losses = list(recording.losses)
    if not timed:
        losses.append(
            f"{early:.0f} % of the commands came before the sound that they are stamped with: the "
            "head's clock ran ahead (doubled audio, or clocks that differ), so latency and "
            "reaction cannot be told"
        )
    by_floor = sum(turn.reason == "floor" for turn in recording.turns)
    return {
        "seconds": None if frames is None else round(frames * FRAME_NS / 1e9, 3),
        "frames": frames,
        "hops": hops,
        "hop_frames": hop_frames,
        "commands": received,
        "commands_percent": _percent(received, sent),
        "refusals": _most(robot.count("refusals"), len(recording.refusals) or None),
        "blendshape_messages": faces,
        "blendshape_percent": _percent(faces, frames),
        "latency_ms": {p: robot.number(f"latency_ms_{p}") if timed else None for p in PERCENTILES},
        "reaction_ms": {p: robot.number(f"reaction_ms_{p}") if timed else None for p in PERCENTILES},
        "motion_delay_ms": motion_delay_ms(recording),
        "lips": _lips(recording),
        "merged_hops": node.count("merged_hops"),
        "deadline_misses": misses,
        "deadline_miss_percent": _percent(misses, hops),
        "limit_violations": robot.count("limit_violations"),
        "turns": _most(node.count("turns"), len(recording.turns) or None),
        "turns_by_floor": _most(node.count("turns_by_floor"), by_floor or None),
        "policy": node.text("policy"),
        "device": node.text("device"),
        "realtime_factor": _realtime_factor(commands),
        "rss_mb": node.number("rss_mb"),
        "voice_missing_ms": {party: round(voice.missing_ns / 1e6) for party, voice in recording.voices.items()},
        "losses": losses,
    }


def motion_delay_ms(recording: Recording) -> float | None:
    """How much later than a frame's time the joints show it, ms.

    The lag of 0 to 500 ms, in steps of 1 ms, at which the velocities of the head pose (at the
    frames' stamps) and of the joints (at theirs) correlate best, over all joints together. Joints
    named after roll, pitch or yaw are compared with that angle, others with the one they follow
    best, in either direction. None where there are no such messages or the joints do not follow.
    """
    pose, joints = recording.head_pose, recording.joint_states
    if pose is None or joints is None or len(pose) < 25 or len(joints) < 25:
        return None
    start_ns = int(pose.stamps_ns[0])
    stop_ns = int(min(pose.stamps_ns[-1], joints.stamps_ns[-1] - LONGEST_DELAY_MS * 1_000_000))
    length = (stop_ns - start_ns) // 1_000_000
    if length < 2 * LONGEST_DELAY_MS:
        return None
    grid = np.arange(length)
    wanted = _velocity(pose.stamps_ns - start_ns, np.unwrap(recording.head_rpy(), axis=0), grid)
    later = np.arange(length + LONGEST_DELAY_MS)
    shown = _velocity(joints.stamps_ns - start_ns, joints.values, later)
    total, power = np.zeros(LONGEST_DELAY_MS + 1), [0.0, 0.0]
    for column, name in enumerate(joints.names):
        axis, curve = _followed(name, wanted, shown[:, column])
        total += curve
        power[0] += float(wanted[:, axis] @ wanted[:, axis])
        power[1] += float(shown[:length, column] @ shown[:length, column])
    norm = math.sqrt(power[0] * power[1])
    best = int(np.argmax(total))
    if norm == 0.0 or total[best] / norm < _LEAST_CORRELATION:
        return None
    return float(best)


def _followed(joint: str, wanted: np.ndarray, shown: np.ndarray) -> tuple[int, np.ndarray]:
    """The angle (0 roll, 1 pitch, 2 yaw) that a joint follows and their products at all lags."""
    curves = [correlate(shown, wanted[:, axis], mode="valid", method="fft") for axis in range(3)]
    named = [
        axis for axis, channel in enumerate(HEAD_CHANNELS) if channel.removeprefix("head").lower() in joint.lower()
    ]
    if len(named) == 1:
        return named[0], curves[named[0]]
    spread = wanted.std(axis=0) + 1e-12
    axis = int(np.argmax([np.abs(c).max() / s for c, s in zip(curves, spread, strict=True)]))
    peak = curves[axis][np.argmax(np.abs(curves[axis]))]
    return axis, curves[axis] * np.sign(peak)


def _velocity(times_ns: np.ndarray, values: np.ndarray, grid_ms: np.ndarray) -> np.ndarray:
    """Change per ms of [n, C] values, interpolated to a grid of 1 ms, without its mean.

    Smoothed over 40 ms, so that the steps of 25 frames a second do not weigh more than motion.
    """
    times_ms = times_ns / 1e6
    lines = [np.interp(grid_ms, times_ms, column) for column in values.T]
    window = np.hanning(43)[1:-1]
    window /= window.sum()
    smooth = [np.convolve(np.gradient(line), window, mode="same") for line in lines]
    velocity = np.stack(smooth, axis=1)
    return velocity - velocity.mean(axis=0)


def _lips(recording: Recording) -> dict[str, float | None]:
    """Jaw against the sound as both reach the person, see `LipsLag`."""
    lag = shown_lag(recording)
    if lag is None:
        return {"offset_ms": None, "lag_ms": None, "correlation": None}
    return {"offset_ms": lag.offset_ms, "lag_ms": lag.ms, "correlation": round(lag.correlation, 3)}


class _Diagnostics:
    """Last values of one node's diagnostics as numbers or text, None where it has none."""

    def __init__(self, recording: Recording, source: str) -> None:
        self._recording = recording
        self._source = source

    def text(self, key: str) -> str | None:
        return next(iter(self._recording.diagnostic_values(self._source, key)), None)

    def number(self, key: str) -> float | None:
        """The first value that is a number: one status may use the key for a word."""
        for text in self._recording.diagnostic_values(self._source, key):
            with suppress(ValueError):
                if math.isfinite(float(text)):
                    return round(float(text), 3)
        return None

    def count(self, key: str) -> int | None:
        value = self.number(key)
        return None if value is None else int(value)


def _hop_ns(commands: Signal | None) -> int | None:
    if commands is None or len(commands) < 2:
        return None
    steps = np.diff(commands.stamps_ns)
    steps = steps[steps > 0]
    return int(np.median(steps)) if len(steps) else None


def _steps_spanned(signal: Signal | None, step_ns: int | None) -> int | None:
    """How many steps lie between the first and the last stamp, both counted."""
    if signal is None or not step_ns:
        return None
    return round(int(signal.stamps_ns[-1] - signal.stamps_ns[0]) / step_ns) + 1


def _percent_before_their_sound(commands: Signal | None) -> float | None:
    """Commands that were recorded before the time of the newest sample they are said to rest on."""
    if commands is None:
        return None
    return 100.0 * float(np.mean(commands.times_ns < commands.stamps_ns))


def _frames_spanned(signal: Signal | None) -> int | None:
    return _steps_spanned(signal, FRAME_NS)


def _realtime_factor(commands: Signal | None) -> float | None:
    """Conversation seconds from the first to the last hop by the seconds in which they came."""
    if commands is None or len(commands) < 2:
        return None
    wall_ns = int(commands.times_ns[-1] - commands.times_ns[0])
    span_ns = int(commands.stamps_ns[-1] - commands.stamps_ns[0])
    return round(span_ns / wall_ns, 4) if wall_ns > 0 else None


def _length(signal: Signal | None) -> int | None:
    return None if signal is None else len(signal)


def _length_before(signal: Signal | None, other: Signal | None) -> int:
    """How many messages were recorded before the first of another topic, which a recorder may find later."""
    return 0 if signal is None or not other else int((signal.times_ns < other.times_ns[0]).sum())


def _less(count: int | None, before: int) -> int | None:
    return None if count is None else count - before


def _most(*counts: int | None) -> int | None:
    """The largest of counts of the same thing, some of which may have been taken too early."""
    known = [count for count in counts if count is not None]
    return max(known, default=None)


def _percent(part: int | None, whole: int | None) -> float | None:
    if part is None or not whole:
        return None
    return min(100.0, round(100.0 * part / whole, 2))  # what came at the very beginning may be counted once only


@dataclass(frozen=True)
class Goal:
    """A bound on one figure, and how a person reads it."""

    label: str
    figure: tuple[str, ...]  # the keys that lead to it in the summary
    sign: str  # "<=", ">=", ">" or "="
    bound: float
    unit: str = ""
    bound_hop_1: float | None = None  # where the policy advances by a hop of one frame
    least_s: float = 0.0  # judged in conversations at least so long: in a short one start and end weigh too much


GOALS: tuple[Goal, ...] = (
    Goal("median reaction", ("reaction_ms", "p50"), "<=", 90, " ms", bound_hop_1=60),
    Goal("p99 reaction", ("reaction_ms", "p99"), "<=", 140, " ms", bound_hop_1=100),
    Goal("motion delay", ("motion_delay_ms",), "<=", 200, " ms"),
    Goal("lips late, against the sound heard", ("lips", "offset_ms"), "<=", 45, " ms"),
    Goal("lips early, against the sound heard", ("lips", "offset_ms"), ">=", -125, " ms"),
    Goal("commands, of hops", ("commands_percent",), ">=", 95, " %", least_s=20),
    Goal("face messages, of frames", ("blendshape_percent",), ">=", 98, " %", least_s=20),
    Goal("deadline misses, of hops", ("deadline_miss_percent",), "<=", 0.5, " %", least_s=20),
    Goal("limit violations", ("limit_violations",), "=", 0),
    Goal("refused commands", ("refusals",), "=", 0),
    Goal("turns ended by the floor", ("turns_by_floor",), ">", 10, least_s=20),
    Goal("peak memory of the head node", ("rss_mb",), "<=", 900, " MB"),
)

_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "<=": lambda value, bound: value <= bound,
    ">=": lambda value, bound: value >= bound,
    ">": lambda value, bound: value > bound,
    "=": lambda value, bound: value == bound,
}


@dataclass(frozen=True)
class Check:
    """One goal against its figure; `ok` is None where that was not measured, or in too short a conversation."""

    label: str
    value: float | None
    goal: str
    ok: bool | None
    unit: str

    @property
    def shown(self) -> str:
        """The value as a person reads it."""
        return "not measured" if self.value is None else f"{self.value:.4g}{self.unit}"


def check_goals(summary: Mapping[str, Any]) -> list[Check]:
    """Every goal of `GOALS` against a summary (of `summarise`, or read from summary.json)."""
    checks = []
    for goal in GOALS:
        value: Any = summary
        for key in goal.figure:
            value = value.get(key) if isinstance(value, Mapping) else None
        one_frame = goal.bound_hop_1 is not None and summary.get("hop_frames") == 1
        bound = goal.bound_hop_1 if one_frame else goal.bound
        judged = value is not None and (summary.get("seconds") or 0.0) >= goal.least_s
        ok = _HOLDS[goal.sign](value, bound) if judged else None
        checks.append(Check(goal.label, value, f"{goal.sign} {bound:g}{goal.unit}", ok, goal.unit))
    return checks


def table(summary: Mapping[str, Any]) -> str:
    """A summary against its goals as lines of text: figure, value, goal, ok or MISSED."""
    words = {True: "ok", False: "MISSED", None: "-"}
    rows = [("figure", "value", "goal", "")]
    rows += [(check.label, check.shown, check.goal, words[check.ok]) for check in check_goals(summary)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:<{widths[2]}}  {d}".rstrip() for a, b, c, d in rows)
