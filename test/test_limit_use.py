"""What of a robot's limits a motion uses, planned hop by hop as the head node plans it."""

import numpy as np
import pytest

from timar_ros.rates import FRAME_S
from timar_ros.replay.limit_use import limit_use
from timar_ros.robot.profile import RobotProfile


@pytest.mark.parametrize(
    ("hops", "faster"),
    [([2] * 100, 0.08), ([1] * 200, 0.08), ([2] * 40 + [4] * 5 + [2] * 50, 0.4)],
    ids=["two frames", "one frame", "some merged, which begin late"],
)
def test_a_swinging_head_is_followed_at_its_own_speed(hops, faster):
    """What was planned too late would have to be caught up with."""
    profile, times_s = RobotProfile.load("generic"), np.arange(sum(hops)) * FRAME_S
    (yaw,) = (joint for joint in profile.joints if joint.name == "neck_yaw")
    swing = np.zeros((len(times_s), 3))
    swing[:, 2] = 0.3 * np.sin(np.pi * times_s) * np.clip(times_s / 3.0, 0.0, 1.0)
    speed = np.abs(np.diff(swing[:, 2])).max() / FRAME_S
    used = limit_use(profile, swing, hops)
    assert speed <= used["velocity"] * yaw.limits.velocity <= (1 + faster) * speed
    assert used["acceleration"] <= 1 and used["jerk"] <= 1
