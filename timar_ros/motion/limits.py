"""Motion of one joint that keeps position, velocity, acceleration and jerk limits.

A motion is a sequence of stretches of constant jerk (`JerkMotion`). So its extremes are known
exactly, and a controller that joins points by quintics, as ros2_control's
joint_trajectory_controller does, reproduces it exactly from the points where the jerk changes.

`JointLimiter` finds the time-optimal motions with Ruckig (Berscheid and Kroeger 2021) and tells
whether any motion keeps the limits. Ruckig itself does not limit position: the position on the way
is checked here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import ruckig

from timar_ros.robot.profile import JointLimits

# Share of each limit that is planned with: what rounding times to nanoseconds costs.
_SHARE = 0.999
# Of jerk: where a trajectory leaves out a point 20 us from another, the acceleration that a controller of 1 kHz
# interpolates is off by up to 20 us of jerk at either end of a cycle.
_JERK_SHARE = 0.96
# Relative excess that counts as rounding, far inside the share held back above.
_ROUNDING = 1e-6
# Targets stay this share of the range away from its ends, as a path through them swings a little.
_POSITION_MARGIN = 0.01


@dataclass(frozen=True)
class JerkMotion:
    """Motion of one joint as stretches of constant jerk, held at its end.

    Attributes:
        times_ns: [n] int64, rising: where a stretch begins, and the end.
        states: [n, 3] position rad, velocity rad/s, acceleration rad/s^2 at these times.
        jerks: [n - 1] rad/s^3 in the stretches.
    """

    times_ns: np.ndarray
    states: np.ndarray
    jerks: np.ndarray

    @classmethod
    def rest(cls, time_ns: int, position: float) -> "JerkMotion":
        """Standing at `position` from `time_ns` on."""
        return cls(np.array([time_ns]), np.array([[position, 0.0, 0.0]]), np.zeros(0))

    @classmethod
    def integrate(cls, state: np.ndarray, times_ns: np.ndarray, jerks: np.ndarray) -> "JerkMotion":
        """The motion that starts in `state` [3] at the first of `times_ns` [n] with `jerks`."""
        dt = np.diff(times_ns) * 1e-9
        states = np.empty((len(times_ns), 3))
        states[0] = state
        states[1:, 2] = state[2] + np.cumsum(jerks * dt)
        a = states[:-1, 2]
        states[1:, 1] = state[1] + np.cumsum((jerks * dt / 2 + a) * dt)
        v = states[:-1, 1]
        states[1:, 0] = state[0] + np.cumsum(((jerks * dt / 3 + a) * dt / 2 + v) * dt)
        return cls(times_ns, states, jerks)

    def at(self, times_ns: np.ndarray) -> np.ndarray:
        """[m, 3] states at `times_ns` [m]: the first one before the motion, the last after it."""
        i = np.clip(np.searchsorted(self.times_ns, times_ns, "right") - 1, 0, None)
        p, v, a = self.states[i].T
        j = np.append(self.jerks, 0.0)[i]
        t = np.maximum(times_ns - self.times_ns[i], 0) * 1e-9
        positions = p + ((j * t / 3 + a) * t / 2 + v) * t
        return np.stack([positions, v + (j * t / 2 + a) * t, a + j * t], axis=1)

    def between(self, start_ns: int, end_ns: int) -> "JerkMotion":
        """The part from `start_ns` to `end_ns`, both points included."""
        inside = self.times_ns[(self.times_ns > start_ns) & (self.times_ns < end_ns)]
        times = np.unique(np.concatenate([[start_ns], inside, [max(start_ns, end_ns)]]))
        i = np.clip(np.searchsorted(self.times_ns, times[:-1], "right") - 1, 0, None)
        return JerkMotion(times, self.at(times), np.append(self.jerks, 0.0)[i])

    def then(self, following: "JerkMotion") -> "JerkMotion":
        """This motion and, from its end on, the `following` one, which starts there."""
        return JerkMotion(
            np.concatenate([self.times_ns, following.times_ns[1:]]),
            np.concatenate([self.states, following.states[1:]]),
            np.concatenate([self.jerks, following.jerks]),
        )

    def turning_points(self) -> tuple[np.ndarray, np.ndarray]:
        """The positions and the velocities where they turn inside a stretch."""
        p, v, a = self.states[:-1].T
        j = self.jerks
        dt = np.diff(self.times_ns) * 1e-9
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            t_v = -a / j
            root = np.sqrt(a * a - 2 * j * v)
            q = -(a + np.copysign(root, a))
            t_p = np.stack([q / j, 2 * v / q])
            positions = p + ((j * t_p / 3 + a) * t_p / 2 + v) * t_p
            velocities = v + a * t_v / 2
        return positions[(t_p > 0) & (t_p < dt)], velocities[(t_v > 0) & (t_v < dt)]


def steps_within_limits(
    limiters: Sequence["JointLimiter"], state: np.ndarray, times_ns: np.ndarray, jerks: np.ndarray
) -> np.ndarray:
    """For how many of its first steps each of many motions keeps the limits: `JointLimiter.keeps_limits` at once.

    Args:
        limiters: [J] of the joints.
        state: [3, J] to start in.
        times_ns: [m + 1] the ends of the steps.
        jerks: [T, m, J] of T motions.

    Returns:
        [T, J]
    """
    lower, upper, velocity, acceleration, jerk = np.array([limiter.bounds for limiter in limiters]).T
    lower, upper = np.minimum(lower, state[0]), np.maximum(upper, state[0])
    dt = (np.diff(times_ns) * 1e-9)[:, None]
    a = state[2] + np.cumsum(jerks * dt, axis=1)
    a0 = a - jerks * dt
    v = state[1] + np.cumsum((jerks * dt / 2 + a0) * dt, axis=1)
    v0 = v - (jerks * dt / 2 + a0) * dt
    p = state[0] + np.cumsum(((jerks * dt / 3 + a0) * dt / 2 + v0) * dt, axis=1)
    p0 = p - ((jerks * dt / 3 + a0) * dt / 2 + v0) * dt
    broken = (np.abs(jerks) > jerk) | (np.abs(a) > acceleration) | (np.abs(v) > velocity)
    broken |= (p < lower - _ROUNDING) | (p > upper + _ROUNDING)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        turns = -a0 / jerks
        broken |= (turns > 0) & (turns < dt) & (np.abs(v0 + a0 * turns / 2) > velocity)
        q = -(a0 + np.copysign(np.sqrt(a0 * a0 - 2 * jerks * v0), a0))
        for turns in (q / jerks, 2 * v0 / q):
            reached = p0 + ((jerks * turns / 3 + a0) * turns / 2 + v0) * turns
            outside = (reached < lower - _ROUNDING) | (reached > upper + _ROUNDING)
            broken |= (turns > 0) & (turns < dt) & outside
    first = np.where(broken.any(axis=1), broken.argmax(axis=1), len(times_ns) - 1)
    return np.where((np.abs(state[2]) > acceleration) | (np.abs(state[1]) > velocity), 0, first)


class JointLimiter:
    """Time-optimal motions of one joint within its limits; tells whether a motion keeps them."""

    def __init__(self, limits: JointLimits) -> None:
        self._ruckig = ruckig.Ruckig(1)
        self._trajectory = ruckig.Trajectory(1)
        self._velocity = limits.velocity * _SHARE
        self._acceleration = limits.acceleration * _SHARE
        self._jerk = limits.jerk * _JERK_SHARE
        margin = _POSITION_MARGIN * (limits.upper - limits.lower)
        self.lowest_target = limits.lower + margin
        self.highest_target = limits.upper - margin
        # Lower and upper position, velocity, acceleration, jerk, the latter three with what counts as rounding.
        self.bounds = (
            limits.lower,
            limits.upper,
            *(share * (1 + _ROUNDING) for share in (self._velocity, self._acceleration, self._jerk)),
        )

    def keeps_limits(self, motion: JerkMotion) -> bool:
        """Whether the whole motion stays within all limits.

        A joint that stands outside its range when the motion begins, as after being pushed, may
        come back from there, but go no further out.
        """
        lower, upper, velocity, acceleration, jerk = self.bounds
        positions, velocities, accelerations = motion.states.T
        if (
            np.abs(motion.jerks).max(initial=0.0) > jerk
            or np.abs(accelerations).max() > acceleration
            or np.abs(velocities).max() > velocity
        ):
            return False
        turning_positions, turning_velocities = motion.turning_points()
        if np.abs(turning_velocities).max(initial=0.0) > velocity:
            return False
        positions = np.concatenate([positions, turning_positions])
        lower, upper = min(lower, positions[0]), max(upper, positions[0])
        return bool(lower - _ROUNDING <= positions.min() and positions.max() <= upper + _ROUNDING)

    def stop(self, state: np.ndarray, start_ns: int, min_duration_s: float = 0.0) -> JerkMotion | None:
        """The motion that comes to rest wherever that is, as fast as possible or in longer.

        Args:
            state: [3] position, velocity, acceleration to start in.
            start_ns: time of that state.
            min_duration_s: how long to take at least, for a gentle stop.

        Returns:
            The motion, or None where Ruckig finds none. Velocity and position are not limited.
        """
        request = self._request(state)
        request.control_interface = ruckig.ControlInterface.Velocity
        if min_duration_s > 0.0:
            request.minimum_duration = min_duration_s
        return self._solve(request, state, start_ns)

    def reach(self, state: np.ndarray, start_ns: int, position: float) -> JerkMotion | None:
        """The fastest motion from `state` [3] at `start_ns` to rest at `position`.

        Returns:
            The motion, or None where Ruckig finds none. Position is not limited on the way.
        """
        request = self._request(state)
        request.target_position = [position]
        return self._solve(request, state, start_ns)

    def _request(self, state: np.ndarray) -> ruckig.InputParameter:
        request = ruckig.InputParameter(1)
        request.current_position = [state[0]]
        request.current_velocity = [state[1]]
        request.current_acceleration = [state[2]]
        request.max_velocity = [self._velocity]
        request.max_acceleration = [self._acceleration]
        request.max_jerk = [self._jerk]
        return request

    def _solve(self, request: ruckig.InputParameter, state: np.ndarray, start_ns: int) -> JerkMotion | None:
        try:
            if self._ruckig.calculate(request, self._trajectory) != ruckig.Result.Working:
                return None
        except ruckig.RuckigError:  # its numbers do not work out, as with limits far apart
            return None
        profile = self._trajectory.profiles[0][0]
        seconds = np.cumsum([0.0, *profile.brake.t, *profile.t])
        jerks = np.array([*profile.brake.j, *profile.j])
        times_ns = start_ns + np.round(seconds * 1e9).astype(np.int64)
        lasting = np.diff(times_ns) > 0
        times_ns = np.append(times_ns[:-1][lasting], times_ns[-1])
        motion = JerkMotion.integrate(state, times_ns, jerks[lasting])
        motion.states[-1, 1:] = 0.0  # nanoseconds leave a residue of 1e-8 rad/s
        return motion
