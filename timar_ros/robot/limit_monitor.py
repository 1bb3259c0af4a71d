"""Counts where a motion leaves a robot's limits, as an onlooker who sees samples of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from timar_ros.rates import CLOCK_LEAP_NS
from timar_ros.robot.trajectory_controller import JointMotion

TOLERANCE = 1e-3
"""Excess that is not counted, as a share of the limit (for positions, of the range): rounding."""

JERK_TOLERANCE = 0.1
"""The same for jerk, which is a difference quotient here. A motion planned within the limits, joined
by quintics and sampled at 100 Hz with jitter of 3 ms showed up to 0.94 of its jerk limit (measured)."""

SHORTEST_DIFFERENCE_S = 0.002
"""Samples closer than this are not differentiated: rounding would dominate."""

QUANTITIES = ("position", "velocity", "acceleration", "jerk")


@dataclass(frozen=True)
class MotionLimits:
    """Limits per joint, each float64 [J] in rad and seconds; infinite where there is none."""

    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray


@dataclass(frozen=True)
class Violation:
    """One joint beyond one limit at one sample; value and limit in the quantity's unit."""

    joint: str
    quantity: str
    value: float
    limit: float


@dataclass
class LimitMonitor:
    """Call with samples of a motion at rising times; returns what was violated at each, and counts.

    Velocity and acceleration are held against the limit as reported and as the difference quotient
    of what was reported before, so that a jump from one trajectory to the next is seen as well;
    jerk by the difference quotient of acceleration alone. Where the clock leaps back there is no
    difference. A joint counts once per sample and quantity. ``peaks`` holds the largest share of
    each limit that was used.
    """

    joints: Sequence[str]
    limits: MotionLimits
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(QUANTITIES, 0))
    peaks: dict[str, float] = field(default_factory=lambda: dict.fromkeys(QUANTITIES, 0.0))

    def __post_init__(self):
        self._last: tuple[int, JointMotion] | None = None
        half = (self.limits.upper - self.limits.lower) / 2
        self._centre = np.where(np.isfinite(half), (self.limits.upper + self.limits.lower) / 2, 0.0)
        self._half = np.where(np.isfinite(half), half, np.inf)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def __call__(self, time_ns: int, motion: JointMotion) -> list[Violation]:
        offset = np.abs(motion.positions - self._centre)
        velocity = np.abs(motion.velocities)
        acceleration = np.abs(motion.accelerations)
        jerk = np.zeros_like(velocity)
        if self._last is not None and time_ns > self._last[0] - CLOCK_LEAP_NS:
            seconds = (time_ns - self._last[0]) * 1e-9
            if seconds < SHORTEST_DIFFERENCE_S:
                return []
            before = self._last[1]
            velocity = np.maximum(velocity, np.abs(motion.positions - before.positions) / seconds)
            acceleration = np.maximum(acceleration, np.abs(motion.velocities - before.velocities) / seconds)
            jerk = np.abs(motion.accelerations - before.accelerations) / seconds
        self._last = (time_ns, motion)
        limits = self.limits
        return [
            *self._beyond("position", offset, self._half, 2 * TOLERANCE),
            *self._beyond("velocity", velocity, limits.velocity, TOLERANCE),
            *self._beyond("acceleration", acceleration, limits.acceleration, TOLERANCE),
            *self._beyond("jerk", jerk, limits.jerk, JERK_TOLERANCE),
        ]

    def _beyond(self, quantity: str, values: np.ndarray, limit: np.ndarray, tolerance: float) -> list[Violation]:
        share = values / limit
        self.peaks[quantity] = max(self.peaks[quantity], float(share.max()))
        if not (share > 1 + tolerance).any():
            return []
        found = [
            Violation(self.joints[j], quantity, float(values[j]), float(limit[j]))
            for j in np.flatnonzero(share > 1 + tolerance)
        ]
        self.counts[quantity] += len(found)
        return found
