"""How much of a robot's limits a head's motion uses, planned as the head node plans it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from timar_ros.motion.retarget import Retargeter
from timar_ros.motion.trajectory import TrajectoryPlanner
from timar_ros.rates import FRAME_NS, PLAYOUT_RESERVE_MS
from timar_ros.robot.profile import RobotProfile

# A hop's motion is planned this long after its last sample.
_PLANNED_AFTER_NS = 15_000_000


def limit_use(profile: RobotProfile, rpy: np.ndarray, hops: Sequence[int]) -> dict[str, float]:
    """The largest share of each limit, over all joints, at the planned points of the motion that is followed.

    Args:
        rpy: [frames, 3] rad, from rest.
        hops: frames of each hop; where some were merged, the others are the usual ones.

    Returns:
        position (of half the range, from its middle), velocity, acceleration and jerk; 1 is the limit.
    """
    usual = round(np.median(hops))
    retargeter, planner = Retargeter(profile), TrajectoryPlanner(profile, usual)
    planner.resume(retargeter.joints(np.zeros(3))[0])
    targets = retargeter.joints(rpy)
    ends = np.cumsum(hops)
    plans = []
    for count, end in zip(hops, ends, strict=True):
        heard_ns = int(end) * FRAME_NS
        first_due_ns = heard_ns + (usual - count) * FRAME_NS + PLAYOUT_RESERVE_MS * 10**6
        plans.append(planner.plan(targets[end - count : end], first_due_ns, heard_ns + _PLANNED_AFTER_NS))
    lower, upper, *most = (
        np.array([getattr(joint.limits, name) for joint in profile.joints])
        for name in ("lower", "upper", "velocity", "acceleration", "jerk")
    )
    shares = np.zeros(4)
    for plan, following in zip(plans, [*plans[1:], None], strict=True):
        until_ns = following.join_ns if following else plan.times_ns[-1]
        followed = (plan.times_ns >= plan.join_ns) & (plan.times_ns <= until_ns)
        times_s = plan.times_ns[followed] * 1e-9
        if len(times_s) < 2:
            continue
        jerks = np.diff(plan.accelerations[followed], axis=0) / np.diff(times_s)[:, None]
        values = (plan.positions[followed] - (lower + upper) / 2, plan.velocities, plan.accelerations, jerks)
        values = [values[0], values[1][followed], values[2][followed], values[3]]
        limits = [(upper - lower) / 2, *most]
        shares = np.maximum(shares, [np.max(np.abs(v) / limit) for v, limit in zip(values, limits, strict=True)])
    return dict(zip(("position", "velocity", "acceleration", "jerk"), shares.tolist(), strict=True))
