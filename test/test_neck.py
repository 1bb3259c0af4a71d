"""The neck: taken up only where it is known to be, whatever joint_states says or leaves out."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState

from timar_ros.motion.trajectory import Trajectory
from timar_ros.nodes.neck import UNKNOWN_POSITION_S, Neck
from timar_ros.rates import FRAME_NS
from timar_ros.robot.profile import RobotProfile

MS = 1_000_000
HOP_NS = 2 * FRAME_NS
JOINTS = ("neck_yaw", "neck_pitch", "neck_roll")
AHEAD = (0.0, 0.0, 0.0, 1.0)
LEFT = (0.0, 0.0, np.sin(0.2), np.cos(0.2))
"""0.4 rad of yaw."""


class Stage:
    """A neck on a clock of the test's own, what it commands, and what it says."""

    def __init__(self, monkeypatch, robot: str = "generic") -> None:
        self.now_ns = 10**12
        self.wall_s = 100.0
        self.warnings: list[str] = []
        self.sent: list[Trajectory] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.wall_s)
        logger = SimpleNamespace(warning=self.warnings.append, error=self.warnings.append)
        node = SimpleNamespace(
            get_clock=lambda: SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=self.now_ns)),
            get_logger=lambda: logger,
            resolve_topic_name=lambda topic: f"/robot/{topic}",
            create_lifecycle_publisher=lambda *_: None,
        )
        self.neck = Neck(node, RobotProfile.load(robot), 2, lambda: False)
        self.neck.commands = SimpleNamespace(
            send=lambda trajectory, _: self.sent.append(trajectory), start=lambda: None, stop=lambda: None
        )
        self.neck.begin()

    def feel(self, *positions: float, names: tuple[str, ...] = JOINTS) -> None:
        self.neck.feel(serialize_message(JointState(name=list(names), position=list(positions))))

    def hop(self, rotation: tuple[float, ...] = AHEAD) -> bool:
        """Time for a hop passes, and the next is followed."""
        self.now_ns += HOP_NS
        self.wall_s += HOP_NS * 1e-9
        return self.neck.follow(np.array([rotation] * 2), self.now_ns + 60 * MS, None)

    def planned(self) -> np.ndarray:
        """[J] where the head is commanded to be now."""
        newest = self.sent[-1]
        at = np.searchsorted(newest.times_ns, self.now_ns, "right")
        return newest.positions[min(at, len(newest.times_ns) - 1)]


@pytest.fixture
def stage(monkeypatch):
    return Stage(monkeypatch)


def test_a_head_that_joint_states_never_told_is_left_alone_and_that_is_said_once(stage):
    stage.feel(0.5, 0.1, names=("head_1_joint", "neck_pitch"))
    for _ in range(round(10.0 / (HOP_NS * 1e-9))):
        assert not stage.hop()
    assert stage.sent == [] and not stage.neck.holding
    assert stage.neck.waits_in_vain and stage.neck.unknown_joints == ["neck_yaw", "neck_roll"]
    (warning,) = stage.warnings
    assert "/robot/joint_states has not told where neck_yaw, neck_roll is" in warning
    stage.feel(0.5, 0.1, -0.2)
    assert stage.hop() and not stage.neck.waits_in_vain
    assert stage.sent[0].positions[0] == pytest.approx([0.5, 0.1, -0.2])


def test_a_simulated_clock_that_begins_late_does_not_end_the_waiting(stage):
    stage.now_ns = 0
    stage.neck.take()
    stage.now_ns = 10**12
    assert not stage.hop() and not stage.neck.waits_in_vain
    stage.wall_s += UNKNOWN_POSITION_S
    assert not stage.hop() and stage.neck.waits_in_vain


@pytest.mark.parametrize("spoiled", [np.nan, np.inf])
def test_positions_that_are_not_finite_are_not_felt(stage, spoiled):
    stage.feel(0.5, spoiled, -0.2)
    assert not stage.hop()
    stage.feel(0.5, 0.1, -0.2)
    stage.feel(spoiled, spoiled, spoiled)
    assert stage.hop()
    assert stage.sent[0].positions[0] == pytest.approx([0.5, 0.1, -0.2])


def test_a_head_that_hangs_below_its_command_keeps_its_command(stage):
    """The pitch sags by 0.05 rad, as by its weight: following the measured position would let it sink."""
    droop = np.array([0.0, 0.05, 0.0])
    stage.feel(0.0, 0.05, 0.0)
    before = np.array([0.0, 0.05, 0.0])
    for _ in range(60):
        assert stage.hop()
        assert np.abs(stage.planned() - before).max() < 0.01
        before = stage.planned()
        stage.feel(*(before + droop))
    (warning,) = stage.warnings
    assert "neck_pitch is 0.05 rad off" in warning


def test_a_head_whose_controller_missed_the_first_commands_is_taken_up_anew(stage):
    stage.feel(-0.2, 0.0, 0.0)
    for _ in range(25):
        assert stage.hop(LEFT)
        stage.feel(-0.2, 0.0, 0.0)
        assert stage.planned()[0] < 0.35  # begun anew before it is at the target, where the head is not
    while stage.planned()[0] < 0.39:  # now its controller follows
        assert stage.hop(LEFT)
        stage.feel(*stage.planned())
    assert stage.warnings == []
