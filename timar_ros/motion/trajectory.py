"""Joint trajectories for a head that is fed a few frames at a time and must never jerk.

Each hop `TrajectoryPlanner.plan` turns that hop's joint targets into one trajectory: what is left
of the previous one until the new motion begins, the motion of the hop, one hop to spare in which
the motion goes on and slows down, and a tail that comes to rest. The timeline is continuous across
messages: the new motion begins in exactly the state that the previous trajectory has there, so it
does not matter when a controller takes the new message, as long as that is before the new motion
begins.

    frames due       previous hop │ d0        d1 │
    window                        ├──── hop ─────┼──── spare ────┼── tail ──┤ at rest
    message          now ├─before─┤
                                  join

The window of a hop reaches from when the previous hop's last frame is due to when its own last
frame is: frames are passed when due. As the next hop is only guessed, fast motion lags a little:
gestures of 2.5 Hz by 3 ms at a hop of two frames and 6 ms at one, 10 degrees at 2 Hz by 9 and 8 ms
(best fit over time, generic robot). A hop that comes too late for its window joins the previous
trajectory's spare a little after `now`.

Every motion is checked as a whole, to its end at rest, before it is given out. Where the smooth
path would break a limit a smoother one is tried, then the fastest motion that stops at the last
target, and last the previous trajectory, which ends within the limits by the same check.
"""

from dataclasses import dataclass

import numpy as np

from timar_ros.errors import TimarError
from timar_ros.motion.limits import JerkMotion, JointLimiter, steps_within_limits
from timar_ros.motion.smoothing import SmoothPath, continuation
from timar_ros.rates import FRAME_NS
from timar_ros.robot.profile import RobotProfile

_STEP_NS = 10_000_000
_TAIL_STEP_NS = 40_000_000
# Points closer than this are one: quintics through closer ones lose all digits of acceleration.
_CLOSEST_NS = 20_000
# A target due sooner after the join than this is left to the next one.
_SOONEST_NS = 5_000_000
# Smoothing time scales, tried in this order. The first changes a lively head's motion by 0.1 deg
# rms.
_TAUS_S = (0.020, 0.025, 0.032, 0.040, 0.050, 0.063, 0.080, 0.100)
# Frames guessed beyond the spare; further ones change nothing.
_GUESSED_FRAMES = 6
# By then the guessed motion has slowed down to rest.
_GUESS_SETTLED_FRAMES = 50
_GENTLE_STOP_S = 0.15
# What was planned for so long ago is still told by `at`: who sends positions one by one may be a little behind.
_PAST_NS = 100_000_000
# Ways in which hops lie in time; one that comes late has a way of its own.
_PATHS_KEPT = 16


@dataclass(frozen=True)
class Trajectory:
    """Points of one continuous motion, in the profile's joint order, at rest at the last.

    The jerk is constant between points, so quintic interpolation reproduces the motion.

    Attributes:
        times_ns: [n] int64, ROS time, rising.
        positions: [n, J] rad.
        velocities: [n, J] rad/s.
        accelerations: [n, J] rad/s^2.
        join_ns: from here on the motion is new; until here it is the previous trajectory's.
    """

    times_ns: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    accelerations: np.ndarray
    join_ns: int


class TrajectoryPlanner:
    """Plans the head's motion hop after hop; call `resume` first, then `plan` for every hop.

    Not thread-safe.
    """

    def __init__(
        self,
        profile: RobotProfile,
        hop_frames: int = 2,
        margin_ms: float = 20.0,
        ease_in_ms: float = 600.0,
    ) -> None:
        """
        Args:
            profile: the robot's joints and limits.
            hop_frames: frames in a hop, 40 ms each; the spare has the same length.
            margin_ms: time a message takes to reach the controller, at most; new motion begins no
                sooner than this after `now_ns`.
            ease_in_ms: time in which the head goes over from where it stands to the targets after
                `resume`.
        """
        self._profile = profile
        self._limiters = [JointLimiter(joint.limits) for joint in profile.joints]
        self._lowest = np.array([limiter.lowest_target for limiter in self._limiters])
        self._highest = np.array([limiter.highest_target for limiter in self._limiters])
        self._spare_ns = hop_frames * FRAME_NS
        self._margin_ns = round(margin_ms * 1e6)
        self._ease_in_ns = max(round(ease_in_ms * 1e6), 1)
        self._motions: list[JerkMotion] = []
        self._before: tuple = ()
        self._paths: dict[tuple[bytes, bytes], SmoothPath] = {}

    def resume(self, positions: np.ndarray) -> None:
        """Begin anew with the head at rest at `positions` [J] rad, as `joint_states` has them.

        Raises:
            TimarError: not one finite position per joint.
        """
        positions = np.asarray(positions, dtype=np.float64)
        names = ", ".join(self._profile.joint_names)
        if positions.shape != (len(self._limiters),) or not np.isfinite(positions).all():
            raise TimarError(
                f"The head's joint positions are {positions.tolist()}; expected one finite number "
                f"in rad for each of {names}. Check that joint_states comes from this robot."
            )
        self._motions = [JerkMotion.rest(0, position) for position in positions]
        self.ease_in()

    def ease_in(self) -> None:
        """Go over to the next targets gently, from where the present motion comes to rest.

        Raises:
            TimarError: `resume` was not called.
        """
        self._require_start()
        self._start = np.array([motion.states[-1, 0] for motion in self._motions])
        self._eased_from_ns: int | None = None
        self._past = np.stack([self._start] * 3)
        self._past_due_ns = 0

    @property
    def started(self) -> bool:
        """Whether `resume` was called."""
        return bool(self._motions)

    @property
    def rest_ns(self) -> int:
        """From when on the head stands still, if nothing more is planned."""
        self._require_start()
        return max(int(motion.times_ns[-1]) for motion in self._motions)

    def at(self, time_ns: int) -> np.ndarray:
        """[3, J] position rad, velocity rad/s and acceleration rad/s^2 that are planned for a time."""
        self._require_start()
        return np.stack([motion.at(np.array([time_ns]))[0] for motion in self._motions], axis=1)

    def plan(self, targets: np.ndarray, first_due_ns: int, now_ns: int) -> Trajectory:
        """The trajectory that brings the head through `targets`.

        Args:
            targets: [n, J] rad, joint positions frame after frame, 40 ms apart. What is not finite
                is replaced by the joint's target before, what is out of range by the nearest.
            first_due_ns: ROS time at which the head is to be at the first of them.
            now_ns: ROS time.

        Raises:
            TimarError: `resume` was not called.
        """
        self._require_start()
        targets = np.asarray(targets, dtype=np.float64)
        if targets.ndim != 2 or not len(targets) or targets.shape[1] != len(self._limiters):
            raise ValueError(f"targets must be [n, {len(self._limiters)}], got {targets.shape}")
        self._remember()
        targets = self._admit(targets, first_due_ns)
        last_target = np.clip(targets[-1], self._lowest, self._highest)
        join_ns = max(first_due_ns - FRAME_NS, self._soonest_ns(now_ns))
        window_end_ns = first_due_ns + (len(targets) - 1) * FRAME_NS
        if window_end_ns - join_ns < _SOONEST_NS:
            window_end_ns = join_ns
        spare_end_ns = window_end_ns + self._spare_ns
        due_ns, targets = self._ahead(targets, first_due_ns, join_ns)
        window = _steps(join_ns, window_end_ns, _STEP_NS)
        spare = _steps(window_end_ns, spare_end_ns, _STEP_NS)
        beyond = _steps(spare_end_ns, int(due_ns[-1]), FRAME_NS)
        knots_ns = np.concatenate([[join_ns], window, spare, beyond])
        spans = (len(window), len(window) + len(spare))
        state = self.at(join_ns)
        jerks = self._path(knots_ns - join_ns, due_ns - join_ns).jerks(state, targets)[:, : spans[1]]
        knots_ns = knots_ns[: spans[1] + 1]
        within = steps_within_limits(self._limiters, state, knots_ns, jerks)
        motions = [
            self._smooth(limiter, state[:, j], knots_ns, jerks[:, :, j], within[:, j], spans)
            or self._approach(limiter, state[:, j], join_ns, last_target[j])
            or self._continued(j, join_ns)
            for j, limiter in enumerate(self._limiters)
        ]
        return self._publish(motions, join_ns, now_ns, at_least_until_ns=spare_end_ns)

    def halt(self, now_ns: int) -> Trajectory:
        """The trajectory that brakes to rest as fast as the limits allow.

        Raises:
            TimarError: `resume` was not called.
        """
        self._require_start()
        self._remember()
        join_ns = self._soonest_ns(now_ns)
        motions = []
        for j, (limiter, motion) in enumerate(zip(self._limiters, self._motions, strict=True)):
            stop = limiter.stop(motion.at(np.array([join_ns]))[0], join_ns)
            if stop is None or not limiter.keeps_limits(stop):
                stop = self._continued(j, join_ns)
            motions.append(stop)
        return self._publish(motions, join_ns, now_ns, at_least_until_ns=join_ns + self._spare_ns)

    def undo(self) -> None:
        """Forget the last `plan` or `halt`, which came too late to be sent: what was planned before it goes on."""
        self._motions, self._start, self._eased_from_ns, self._past, self._past_due_ns = self._before

    def _remember(self) -> None:
        self._before = (self._motions, self._start, self._eased_from_ns, self._past, self._past_due_ns)

    def _require_start(self) -> None:
        if not self._motions:
            raise TimarError(
                "The head's present position is not known; expected joint_states before the first "
                "motion. Check that the robot publishes joint_states with this robot's joints."
            )

    def _soonest_ns(self, now_ns: int) -> int:
        """When new motion may begin: the controller must have it, and the old must have begun."""
        return max(now_ns + self._margin_ns, max(int(m.times_ns[0]) for m in self._motions))

    def _admit(self, targets: np.ndarray, first_due_ns: int) -> np.ndarray:
        """[n, J] targets that are finite, in range and eased in; remembers the last three."""
        if self._eased_from_ns is None:
            self._eased_from_ns = first_due_ns - FRAME_NS
        gap = abs(first_due_ns - self._past_due_ns - FRAME_NS) > FRAME_NS // 2
        due_ns = first_due_ns + FRAME_NS * np.arange(len(targets))
        eased = np.clip((due_ns - self._eased_from_ns) / self._ease_in_ns, 0.0, 1.0)
        eased = eased * eased * (3.0 - 2.0 * eased)
        admitted = np.empty_like(targets)
        before = self._past[-1]
        for i, row in enumerate(targets):
            row = np.clip(row, self._lowest, self._highest)
            row = self._start + eased[i] * (row - self._start)
            before = admitted[i] = np.where(np.isfinite(targets[i]), row, before)
        # The velocity across a gap says nothing about the motion that goes on after it.
        past = np.repeat(admitted[:1], 3, axis=0) if gap else self._past
        self._past = np.concatenate([past, admitted])[-3:]
        self._past_due_ns = int(due_ns[-1])
        return admitted

    def _ahead(self, targets: np.ndarray, first_due_ns: int, join_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """[f] ns when due and [f, J] positions of the targets, and a guess of the next ones, that
        are still to come at `join_ns`."""
        last_due_ns = first_due_ns + (len(targets) - 1) * FRAME_NS
        missed = max((join_ns - last_due_ns) // FRAME_NS, 0)
        skipped = min(missed, _GUESS_SETTLED_FRAMES)
        guessed = self._spare_ns // FRAME_NS + 1 + _GUESSED_FRAMES
        guess = continuation(self._past, skipped + guessed)[skipped:]
        due_ns = np.concatenate(
            [
                first_due_ns + FRAME_NS * np.arange(len(targets)),
                last_due_ns + FRAME_NS * (missed + 1 + np.arange(guessed)),
            ]
        )
        targets = np.concatenate([targets, np.clip(guess, self._lowest, self._highest)])
        ahead = due_ns - join_ns >= _SOONEST_NS
        return due_ns[ahead], targets[ahead]

    def _path(self, knots_ns: np.ndarray, due_ns: np.ndarray) -> SmoothPath:
        """The smooth paths over these times; hops that come in time all ask for the same."""
        key = (knots_ns.tobytes(), due_ns.tobytes())
        if key not in self._paths:
            if len(self._paths) >= _PATHS_KEPT:
                self._paths.clear()
            self._paths[key] = SmoothPath(knots_ns * 1e-9, due_ns * 1e-9, _TAUS_S)
        return self._paths[key]

    def _smooth(
        self,
        limiter: JointLimiter,
        state: np.ndarray,
        knots_ns: np.ndarray,
        jerks: np.ndarray,
        within: np.ndarray,
        spans: tuple[int, int],
    ) -> JerkMotion | None:
        """The least smoothed motion of one joint that keeps the limits, if any does.

        It goes on through the spare and stops gently where there is room for that, and else stops
        after the window as fast as it can.
        """
        window, spare = spans
        for smoothed, kept in zip(jerks, within, strict=True):
            for steps, stop_s in ((spare, _GENTLE_STOP_S), (window, 0.0)):
                if kept >= steps:
                    moving = JerkMotion.integrate(state, knots_ns[: steps + 1], smoothed[:steps])
                    stop = limiter.stop(moving.states[-1], int(knots_ns[steps]), stop_s)
                    if stop is not None and limiter.keeps_limits(stop):
                        return moving.then(stop)
        return None

    def _approach(self, limiter: JointLimiter, state: np.ndarray, join_ns: int, target: float) -> JerkMotion | None:
        """The fastest motion to rest at `target`, if it keeps the limits on the way."""
        motion = limiter.reach(state, join_ns, target)
        return motion if motion is not None and limiter.keeps_limits(motion) else None

    def _continued(self, j: int, join_ns: int) -> JerkMotion:
        """What the previous trajectory of joint `j` does from `join_ns` on."""
        motion = self._motions[j]
        return motion.between(join_ns, max(join_ns, int(motion.times_ns[-1])))

    def _publish(self, motions: list[JerkMotion], join_ns: int, now_ns: int, at_least_until_ns: int) -> Trajectory:
        """Take over `motions`, which begin at `join_ns`, with what is left before them."""
        first_ns = max(int(m.times_ns[0]) for m in self._motions)
        start_ns = min(max(now_ns, first_ns), join_ns)
        kept_ns = min(max(now_ns - _PAST_NS, first_ns), join_ns)
        self._motions = [
            old.between(kept_ns, join_ns).then(new) for old, new in zip(self._motions, motions, strict=True)
        ]
        end_ns = max(at_least_until_ns, *(int(m.times_ns[-1]) for m in self._motions))
        times = [m.times_ns[m.times_ns > start_ns] for m in self._motions]
        times_ns = np.unique(
            np.concatenate([[start_ns], *times, np.arange(join_ns, end_ns, _TAIL_STEP_NS), [join_ns, end_ns]])
        )
        times_ns = _thinned(times_ns, {start_ns, join_ns, end_ns})
        states = np.stack([motion.at(times_ns) for motion in self._motions], axis=1)
        return Trajectory(times_ns, states[..., 0], states[..., 1], states[..., 2], join_ns)


def _steps(start_ns: int, end_ns: int, step_ns: int) -> np.ndarray:
    """[m] int64 ends of equal steps from `start_ns` to `end_ns`, about `step_ns` long."""
    count = max(round((end_ns - start_ns) / step_ns), 1) if end_ns > start_ns else 0
    return start_ns + np.arange(1, count + 1) * (end_ns - start_ns) // max(count, 1)


def _thinned(times_ns: np.ndarray, wanted: set[int]) -> np.ndarray:
    """`times_ns` without those that follow closer than `_CLOSEST_NS`, except for `wanted` ones."""
    kept: list[int] = []
    for time in times_ns.tolist():
        if kept and time - kept[-1] < _CLOSEST_NS:
            if time not in wanted:
                continue
            if kept[-1] not in wanted:
                kept.pop()
        kept.append(time)
    return np.array(kept, dtype=np.int64)
