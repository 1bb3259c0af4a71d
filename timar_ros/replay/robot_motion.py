"""A motion shown by a robot, without ROS and as fast as the machine can: what of it the robot's head loses."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from scipy.signal import firwin
from scipy.spatial.transform import Rotation

from timar_ros.motion.limits import JointLimiter
from timar_ros.motion.retarget import Retargeter, head_rotations
from timar_ros.motion.trajectory import Trajectory, TrajectoryPlanner
from timar_ros.rates import FRAME_NS, FRAME_RATE
from timar_ros.robot.limit_monitor import LimitMonitor, MotionLimits
from timar_ros.robot.profile import JointLimits, RobotProfile
from timar_ros.robot.trajectory_controller import JointTrajectoryController, TrajectoryRefusedError

_START_NS = 1_000_000_000_000
_AHEAD_NS = 60_000_000
"""How long before its motion is due a hop is planned."""
_SOUND_AGE_NS = 20_000_000
"""How old the sound is that it rests on, which its stamp tells."""
_LOOK_NS = 10_000_000
_NO_LIMITS = JointLimits(-3.0, 3.0, 30.0, 1000.0, 100_000.0)
_AXES = {"roll": (1.0, 0.0, 0.0), "pitch": (0.0, 1.0, 0.0), "yaw": (0.0, 0.0, 1.0)}

# A lively person's head, measured over 54 s: standard deviations of roll, pitch and yaw, degrees, and the shares of
# pitch's power in bands of frequency, Hz. Noise of this spectrum moves at 42 deg/s in the middle and 80 at p95, the
# person at 20 and 69, with more of a difference between stillness and strokes.
_LIVELY_SD = (3.5, 6.3, 6.8)
_LIVELY_POWER = {(0.0, 0.5): 0.85, (0.5, 1.0): 0.07, (1.0, 2.0): 0.05, (2.0, 4.0): 0.02, (4.0, 6.0): 0.01}


@dataclass(frozen=True)
class ShownMotion:
    """What came of a motion on one robot; shares are of the motion that was wanted, by root mean square.

    Attributes:
        missing_axes: share lost because the neck lacks an axis, as an angle between orientations.
        limits: share of the joints' motion that is lost to their limits: against the same neck without any.
        refusals, violations: of the controller, and of the limits as an onlooker counts them.
        peaks: largest share of each limit that was used.
    """

    missing_axes: float
    limits: float
    refusals: int
    violations: int
    peaks: dict[str, float]


def show_on(profile: RobotProfile, rpy: np.ndarray, hop_frames: int = 2) -> ShownMotion:
    """Play head rotations `rpy` [frames, 3], rad, on a simulated head of this robot."""
    rotations = head_rotations(rpy)
    wanted = Retargeter(profile).joints_for(rotations)
    reached = Rotation.from_quat(rotations).inv() * _orientations(profile, wanted)
    size = np.sqrt(np.mean(Rotation.from_quat(rotations).magnitude() ** 2))
    missing = np.sqrt(np.mean(reached.magnitude() ** 2)) / size if size else 0.0
    shown, refusals, monitor = _play(profile, wanted, hop_frames)
    free, _, _ = _play(profile.with_limits({joint.name: _NO_LIMITS for joint in profile.joints}), wanted, hop_frames)
    settled = slice(FRAME_RATE, len(shown))  # the first second eases in
    moved = np.sqrt(np.mean((free[settled] - [joint.offset for joint in profile.joints]) ** 2))
    lost = np.sqrt(np.mean((free[settled] - shown[settled]) ** 2)) / moved if moved else 0.0
    return ShownMotion(float(missing), float(lost), refusals, monitor.total, dict(monitor.peaks))


def lively_head(seconds: float, seed: int = 0) -> np.ndarray:
    """[frames, 3] rad: noise with the spread and the spectrum of a lively person's head."""
    frames = round(seconds * FRAME_RATE)
    rng = np.random.default_rng(seed)
    total = np.zeros((frames, 3))
    for (low, high), power in _LIVELY_POWER.items():
        taps = firwin(251, [low, high] if low else high, fs=FRAME_RATE, pass_zero=not low)
        noise = rng.standard_normal((frames + 250, 3))
        band = np.stack([np.convolve(column, taps, "valid") for column in noise.T], axis=1)
        total += np.sqrt(power) * band / band.std(axis=0)
    return total * np.radians(_LIVELY_SD)


def _orientations(profile: RobotProfile, joints: np.ndarray) -> Rotation:
    total = Rotation.identity(len(joints))
    for joint, positions in zip(profile.joints, joints.T, strict=True):
        angle = (positions - joint.offset) * joint.sign / joint.gain
        total = total * Rotation.from_rotvec(angle[:, None] * _AXES[joint.axis])
    return total


def _play(profile: RobotProfile, wanted: np.ndarray, hop_frames: int) -> tuple[np.ndarray, int, LimitMonitor]:
    """[frames, J] where the head is when each frame is due, refusals, and the monitor that watched."""
    limits = [joint.limits for joint in profile.joints]
    fields = ("lower", "upper", "velocity", "acceleration", "jerk")
    bounds = MotionLimits(*(np.array([getattr(limit, name) for limit in limits]) for name in fields))
    monitor = LimitMonitor(profile.joint_names, bounds)
    limiters = [JointLimiter(limit) for limit in limits]
    start = np.array([joint.offset for joint in profile.joints])
    start = np.clip(start, [x.lowest_target for x in limiters], [x.highest_target for x in limiters])
    controller = JointTrajectoryController(profile.joint_names, start)
    planner = TrajectoryPlanner(profile, hop_frames)
    planner.resume(start)
    refusals, now_ns = 0, _START_NS
    shown = np.empty_like(wanted)
    for first in range(0, len(wanted), hop_frames):
        due_ns = _START_NS + 10**9 + first * FRAME_NS
        planned_ns = due_ns - FRAME_NS - _AHEAD_NS
        while now_ns < planned_ns:
            monitor(now_ns, controller.sample(now_ns))
            frame, between = divmod(now_ns - _START_NS - 10**9, FRAME_NS)
            if not between and 0 <= frame < len(wanted):
                shown[frame] = controller.sample(now_ns).positions
            now_ns += _LOOK_NS
        try:
            trajectory = planner.plan(wanted[first : first + hop_frames], due_ns, now_ns)
            controller.accept(_message(profile, trajectory, now_ns - _SOUND_AGE_NS), now_ns)
        except TrajectoryRefusedError:
            refusals += 1
    last = (now_ns - _START_NS - 10**9) // FRAME_NS
    return shown[: max(last, 0)], refusals, monitor


def _message(profile: RobotProfile, trajectory: Trajectory, stamp_ns: int) -> SimpleNamespace:
    """As `trajectory_msgs/JointTrajectory`, for the simulated controller."""
    points = [
        SimpleNamespace(
            time_from_start=_time(time_ns - stamp_ns), positions=p, velocities=v, accelerations=a, effort=()
        )
        for time_ns, p, v, a in zip(
            trajectory.times_ns.tolist(),
            trajectory.positions,
            trajectory.velocities,
            trajectory.accelerations,
            strict=True,
        )
        if time_ns > stamp_ns
    ]
    header = SimpleNamespace(stamp=_time(stamp_ns))
    return SimpleNamespace(header=header, joint_names=list(profile.joint_names), points=points)


def _time(ns: int) -> SimpleNamespace:
    return SimpleNamespace(sec=ns // 10**9, nanosec=ns % 10**9)
