"""What ros2_control's joint_trajectory_controller does with a trajectory message, without ROS.

Which messages are refused, when one starts, how the points are joined: as in the controller's
topic interface on jazzy with `interpolate_from_desired_state: true`, position commands, and a
plant that follows exactly (https://control.ros.org/jazzy/doc/ros2_controllers,
`joint_trajectory_controller/doc/{trajectory,userdoc}.rst`). Three things the controller takes and
then does badly are refused here as well, because a robot would jump: numbers that are not finite, a
joint named twice, and accelerations without velocities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from timar_ros.errors import TimarError
from timar_ros.rates import CLOCK_LEAP_NS

REST_VELOCITY = float(np.finfo(np.float32).eps)
"""rad/s up to which the last point counts as at rest (the controller's own constant)."""


class TrajectoryRefusedError(TimarError):
    """The controller would not take this message; the text says why."""


@dataclass(frozen=True)
class JointMotion:
    """Where the joints are meant to be: positions, velocities, accelerations, each float64 [J]."""

    positions: np.ndarray
    velocities: np.ndarray
    accelerations: np.ndarray


@dataclass(frozen=True)
class _Point:
    """A point of a message in the controller's joint order; a field that was not given is None."""

    time_ns: int
    positions: np.ndarray
    velocities: np.ndarray | None
    accelerations: np.ndarray | None


class JointTrajectoryController:
    """Takes trajectory messages and tells where the joints are meant to be at any time.

    ``joints`` are the controller's joints in the order of all arrays. ``initial_positions`` is
    where they are held before the first message, rad [J], zero by default. The two switches are the
    controller's parameters of the same names. Times are ROS time in ns, given by the caller.
    """

    def __init__(
        self,
        joints: Sequence[str],
        initial_positions: Sequence[float] | None = None,
        *,
        allow_partial_joints_goal: bool = False,
        allow_nonzero_velocity_at_trajectory_end: bool = False,
    ):
        self.joints = tuple(joints)
        self.allow_partial_joints_goal = allow_partial_joints_goal
        self.allow_nonzero_velocity_at_trajectory_end = allow_nonzero_velocity_at_trajectory_end
        zero = np.zeros(len(self.joints))
        start = zero if initial_positions is None else np.array(initial_positions, dtype=float)
        if start.shape != zero.shape:
            raise ValueError(f"{len(self.joints)} initial positions expected, got {start.shape}")
        self._state = JointMotion(start, zero, zero)
        self._state_ns: int | None = None
        self._pending: tuple[int, list[int], list[_Point]] | None = None
        self._points: list[_Point] = []
        self._start_ns = 0
        self._segment = 0

    def accept(self, message: Any, now_ns: int) -> None:
        """Take a ``trajectory_msgs/JointTrajectory``; it replaces the running one at the next
        sample.

        Raises TrajectoryRefusedError, leaving the running trajectory as it was.
        """
        self._see_clock(now_ns)
        columns = self._columns(list(message.joint_names))
        if not message.points:
            raise TrajectoryRefusedError("the trajectory is empty; it must have at least one point")
        self._refuse_moving_end(message)
        stamp_ns = _nanoseconds(message.header.stamp)
        end_ns = stamp_ns + _nanoseconds(message.points[-1].time_from_start)
        if stamp_ns != 0 and end_ns < now_ns:
            raise TrajectoryRefusedError(
                f"the trajectory ends {(now_ns - end_ns) / 1e6:.1f} ms in the past; its last point "
                "must lie in the future of this machine's clock, or header.stamp be zero (now)"
            )
        points = self._read_points(message)
        self._pending = (stamp_ns, columns, points)

    def sample(self, now_ns: int) -> JointMotion:
        """The motion meant for ``now_ns``; to be called with rising times, at the control rate.

        Where the clock leaps back the joints are held where they are, until a message comes.
        """
        self._see_clock(now_ns)
        if self._state_ns is not None and now_ns < self._state_ns:
            return self._state
        if self._pending is not None:
            self._install(now_ns)
        if self._points:
            self._state = self._interpolated(now_ns)
        self._state_ns = now_ns
        return self._state

    def _see_clock(self, now_ns: int) -> None:
        """Begin anew, at rest, where the clock went back: what is planned lies in a future that would be waited for."""
        if self._state_ns is None or now_ns > self._state_ns - CLOCK_LEAP_NS:
            return
        rest = np.zeros(len(self.joints))
        self._state = JointMotion(self._state.positions, rest, rest)
        self._state_ns = None
        self._pending = None
        self._points = []

    def _columns(self, names: list[str]) -> list[int]:
        """For every joint of the message its place in the controller's order."""
        missing = [joint for joint in self.joints if joint not in names]
        if len(names) != len(self.joints) and not self.allow_partial_joints_goal:
            raise TrajectoryRefusedError(
                f"the message names {len(names)} joints and the controller has {len(self.joints)}"
                + (f"; missing: {', '.join(missing)}" if missing else "")
                + f"; expected are {', '.join(self.joints)}"
            )
        if not names:
            raise TrajectoryRefusedError("the message names no joints")
        unknown = [name for name in names if name not in self.joints]
        if unknown:
            raise TrajectoryRefusedError(
                f"the controller has no joint {', '.join(unknown)}; its joints are " + ", ".join(self.joints)
            )
        if len(set(names)) != len(names):
            raise TrajectoryRefusedError(f"a joint is named twice: {', '.join(names)}")
        return [self.joints.index(name) for name in names]

    def _refuse_moving_end(self, message: Any) -> None:
        if self.allow_nonzero_velocity_at_trajectory_end:
            return
        for joint, velocity in zip(message.joint_names, message.points[-1].velocities, strict=False):
            if abs(velocity) > REST_VELOCITY:
                raise TrajectoryRefusedError(
                    f"the last point still moves: joint {joint} at {velocity:.6g} rad/s; a trajectory must end at rest"
                )

    def _read_points(self, message: Any) -> list[_Point]:
        count = len(message.joint_names)
        points: list[_Point] = []
        for i, point in enumerate(message.points):
            time_ns = _nanoseconds(point.time_from_start)
            if points and time_ns <= points[-1].time_ns:
                raise TrajectoryRefusedError(
                    f"the times of points {i - 1} and {i} do not rise: "
                    f"{points[-1].time_ns / 1e9:.9g} s and {time_ns / 1e9:.9g} s"
                )
            positions = _field(point.positions, "positions", count, i)
            if positions is None:
                raise TrajectoryRefusedError(f"point {i} has no positions; one per joint is expected")
            velocities = _field(point.velocities, "velocities", count, i)
            accelerations = _field(point.accelerations, "accelerations", count, i)
            if accelerations is not None and velocities is None:
                raise TrajectoryRefusedError(f"point {i} has accelerations without velocities; give both or neither")
            if len(point.effort):
                raise TrajectoryRefusedError(
                    f"point {i} has efforts; this controller commands positions and takes none"
                )
            points.append(_Point(time_ns, positions, velocities, accelerations))
        return points

    def _install(self, now_ns: int) -> None:
        stamp_ns, columns, points = self._pending
        self._pending = None
        self._points = [self._in_own_order(point, columns) for point in points]
        self._start_ns = now_ns if stamp_ns == 0 else stamp_ns
        self._segment = 0
        before_ns = now_ns if self._state_ns is None else self._state_ns
        # What was meant last joins the new trajectory where that begins only later.
        self._before = _Point(
            before_ns - self._start_ns,
            self._state.positions,
            self._state.velocities,
            self._state.accelerations,
        )

    def _in_own_order(self, point: _Point, columns: list[int]) -> _Point:
        """Joints that the message left out are held where they are."""

        def spread(values: np.ndarray | None, held: np.ndarray) -> np.ndarray | None:
            if values is None:
                return None
            full = held.copy()
            full[columns] = values
            return full

        rest = np.zeros(len(self.joints))
        return _Point(
            point.time_ns,
            spread(point.positions, self._state.positions),
            spread(point.velocities, rest),
            spread(point.accelerations, rest),
        )

    def _interpolated(self, now_ns: int) -> JointMotion:
        time_ns = now_ns - self._start_ns
        if time_ns < self._points[0].time_ns:
            return _between(self._before, self._points[0], time_ns)
        while self._segment + 1 < len(self._points):
            if time_ns < self._points[self._segment + 1].time_ns:
                first, second = self._points[self._segment : self._segment + 2]
                return _between(first, second, time_ns)
            self._segment += 1
        last = self._points[-1]
        rest = np.zeros(len(self.joints))
        return JointMotion(
            last.positions,
            rest if last.velocities is None else last.velocities,
            rest if last.accelerations is None else last.accelerations,
        )


def _between(a: _Point, b: _Point, time_ns: int) -> JointMotion:
    """The polynomial through both points at ``time_ns`` between them.

    Linear where one of them has positions only, cubic with velocities, quintic with accelerations
    too: the coefficients are those that meet all that is given at both ends.
    """
    duration = (b.time_ns - a.time_ns) * 1e-9
    t = (time_ns - a.time_ns) * 1e-9
    way = b.positions - a.positions
    if a.velocities is None or b.velocities is None:
        slope = way / duration
        return JointMotion(a.positions + slope * t, slope, np.zeros_like(way))
    coefficients = [a.positions, a.velocities]
    if a.accelerations is None or b.accelerations is None:
        c2 = (3 * way / duration - 2 * a.velocities - b.velocities) / duration
        c3 = (-2 * way / duration + a.velocities + b.velocities) / duration**2
        coefficients += [c2, c3]
    else:
        # What is left to make up at the end after the start's own motion, in powers of duration.
        p = (way - a.velocities * duration - a.accelerations * duration**2 / 2) / duration**3
        v = (b.velocities - a.velocities - a.accelerations * duration) / duration**2
        w = (b.accelerations - a.accelerations) / duration
        coefficients += [
            a.accelerations / 2,
            10 * p - 4 * v + w / 2,
            (-15 * p + 7 * v - w) / duration,
            (6 * p - 3 * v + w / 2) / duration**2,
        ]
    position = np.zeros_like(way)
    velocity = np.zeros_like(way)
    acceleration = np.zeros_like(way)
    # Horner's scheme for the polynomial and its first two derivatives at once.
    for c in reversed(coefficients):
        acceleration = acceleration * t + 2 * velocity
        velocity = velocity * t + position
        position = position * t + c
    return JointMotion(position, velocity, acceleration)


def _field(values: Any, name: str, count: int, index: int) -> np.ndarray | None:
    if not len(values):
        return None
    if len(values) != count:
        raise TrajectoryRefusedError(
            f"point {index} has {len(values)} {name} for {count} joints; one per joint is expected"
        )
    array = np.array(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise TrajectoryRefusedError(f"point {index} has {name} that are not finite: {array.tolist()}")
    return array


def _nanoseconds(time: Any) -> int:
    return time.sec * 1_000_000_000 + time.nanosec
