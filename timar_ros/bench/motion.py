"""What stands beside the policy in a hop and in a report: planning the neck's motion, and drawing a head."""

from __future__ import annotations

import numpy as np

from timar_ros.bench.timing import percentiles_ms, timed, write_result
from timar_ros.channels import MOTION_DIM
from timar_ros.motion.trajectory import TrajectoryPlanner
from timar_ros.rates import FRAME_NS
from timar_ros.replay.render import HeadRenderer
from timar_ros.robot.profile import RobotProfile

HOP_FRAMES, HOPS, PICTURES = 2, 300, 60
BEGIN_NS, AHEAD_NS = 10**18, 50_000_000


def planning() -> list[float]:
    """Seconds for the trajectory of each hop, of a head that swings as far as it may."""
    profile = RobotProfile.load("generic")
    planner = TrajectoryPlanner(profile)
    planner.resume(np.zeros(len(profile.joints)))
    time = 0.04 * np.arange(HOP_FRAMES * HOPS)
    targets = 0.3 * np.sin(2 * np.pi * time[:, None] * np.linspace(0.5, 1.5, len(profile.joints)))
    seconds = []
    for first in range(0, len(targets), HOP_FRAMES):
        due_ns = BEGIN_NS + first * FRAME_NS
        seconds.append(
            timed(lambda t=targets[first : first + HOP_FRAMES], due=due_ns: planner.plan(t, due, due - AHEAD_NS))
        )
    return seconds


def drawing() -> list[float]:
    """Seconds for each picture of a video."""
    renderer = HeadRenderer((640, 368))
    motion = np.random.default_rng(0).uniform(0.0, 0.3, (PICTURES, MOTION_DIM))
    return [timed(lambda frame=frame: renderer.draw(frame)) for frame in motion]


if __name__ == "__main__":
    write_result({"motion": {"plan_ms": percentiles_ms(planning()), "picture_ms": percentiles_ms(drawing())}})
