"""Robot profiles: what the one that ships says, and the sentence for each way to go wrong."""

import copy
import math

import pytest
import yaml

from timar_ros.errors import TimarError
from timar_ros.resources import share_path
from timar_ros.robot.profile import RobotProfile

TWO_JOINTS = {
    "name": "two_joints",
    "command": {"kind": "joint_trajectory", "topic": "head_controller/joint_trajectory"},
    "joints": [
        {
            "name": name,
            "axis": axis,
            "limits": {
                "position": {"min": -1.0, "max": 0.5},
                "velocity": 3,
                "acceleration": 20.0,
                "jerk": 400.0,
            },
        }
        for name, axis in (("head_1", "yaw"), ("head_2", "pitch"))
    ],
}


def test_generic_is_a_neck_of_three_joints_that_takes_joint_trajectories():
    profile = RobotProfile.load("generic")
    assert profile.joint_names == ("neck_yaw", "neck_pitch", "neck_roll")
    assert [joint.axis for joint in profile.joints] == ["yaw", "pitch", "roll"]
    assert profile.command.kind == "joint_trajectory"
    assert profile.command.topic == "head_controller/joint_trajectory"
    assert profile.lower.tolist() == [-1.2, -0.6, -0.5]
    assert profile.upper.tolist() == [1.2, 0.7, 0.5]


def test_generic_can_follow_a_lively_person():
    """Measured on a lively person: speed p99 113 deg/s, acceleration p95 1500 deg/s^2."""
    for joint in RobotProfile.load("generic").joints:
        assert joint.limits.velocity > math.radians(113)
        assert joint.limits.acceleration > math.radians(1500)


def test_a_robot_is_added_by_a_file_alone(tmp_path):
    file = tmp_path / "two_joints.yaml"
    content = copy.deepcopy(TWO_JOINTS)
    content["joints"][1] |= {"sign": -1, "gain": 0.5, "offset": 0.1}
    content["command"]["stamp"] = "zero"
    file.write_text(yaml.safe_dump(content))
    profile = RobotProfile.load(file)
    assert profile.joint_names == ("head_1", "head_2")
    assert (profile.joints[0].sign, profile.joints[0].gain, profile.joints[0].offset) == (1, 1, 0)
    assert (profile.joints[1].sign, profile.joints[1].gain) == (-1, 0.5)
    assert profile.joints[1].offset == 0.1
    assert profile.command.options == {"stamp": "zero"}


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(TimarError, match="no robot profile named 'r2d2'.*generic"):
        RobotProfile.load("r2d2")


def test_a_path_that_does_not_exist_is_named():
    with pytest.raises(TimarError, match="nowhere/robot.yaml does not exist"):
        RobotProfile.load("nowhere/robot.yaml")


@pytest.mark.parametrize("text", ["joints: [", "just text", "- a list", ""])
def test_a_file_that_is_no_mapping_in_yaml_is_refused(tmp_path, text):
    file = tmp_path / "robot.yaml"
    file.write_text(text)
    with pytest.raises(TimarError, match="robot.yaml"):
        RobotProfile.load(file)


def test_a_binary_file_is_refused(tmp_path):
    file = tmp_path / "robot.yaml"
    file.write_bytes(bytes(range(128, 256)))
    with pytest.raises(TimarError, match="cannot be read"):
        RobotProfile.load(file)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("joints", 0, "axis"), "nod", "axis is 'nod'; expected one of roll, pitch, yaw"),
        (("joints", 0, "axis"), "pitch", "have the axis pitch, pitch; expected each axis once"),
        (("joints", 0, "name"), "head_2", "have the name head_2, head_2"),
        (("joints", 0, "name"), "", "name is ''; expected text"),
        (("joints", 0, "sign"), 0.5, "sign is 0.5; expected 1 or -1"),
        (("joints", 0, "gain"), 0.0, "gain is 0.0; expected a number above 0"),
        (("joints", 0, "offset"), 2.0, "offset is 2 rad; expected a position within -1 to 0.5"),
        (("joints", 0, "limits"), None, r"joint 0 \(head_1\) lacks limits"),
        (("joints", 0, "limits", "jerk"), None, "limits lacks jerk"),
        (("joints", 0, "limits", "velocity"), math.nan, "velocity is nan; expected a number above"),
        (("joints", 0, "limits", "velocity"), math.inf, "velocity is inf"),
        (("joints", 0, "limits", "velocity"), -3.0, "velocity is -3.0"),
        (("joints", 0, "limits", "velocity"), "fast", "velocity is 'fast'"),
        (("joints", 0, "limits", "velocity"), True, "velocity is True"),
        (("joints", 0, "limits", "acceleration"), -1.0, "acceleration is -1.0"),
        (("joints", 0, "limits", "jerk"), 0, "jerk is 0"),
        (("joints", 0, "limits", "position", "min"), 0.5, "min is 0.5 and max is 0.5 rad"),
        (("joints", 0, "limits", "position", "max"), -2.0, "expected min below max"),
        (("joints", 0, "limits", "position"), 1.0, "position holds 1.0; expected keys"),
        (("joints", 0, "limits", "speed"), 1.0, "unknown key speed; expected only position"),
        (("joints",), [], "expected a list of one to three joints"),
        (("joints",), None, "lacks joints"),
        (("command",), None, "lacks command"),
        (("command", "kind"), "telepathy", "kind is 'telepathy'; expected one of joint_trajectory"),
        (("command", "topic"), None, "lacks topic"),
        (("colour",), "red", "unknown key colour"),
    ],
)
def test_a_wrong_value_is_refused_with_a_sentence_that_says_what_is_allowed(path, value, sentence):
    assert_refused(copy.deepcopy(TWO_JOINTS), path, value, sentence)


@pytest.mark.parametrize(
    ("robot", "path", "value", "sentence"),
    [
        ("reachy2", ("command", "order"), ["neck_roll", "neck_pitch"], "expected each of"),
        ("reachy2", ("command", "rate_hz"), 0, "rate_hz is 0; expected a number above 0"),
        ("nao", ("command", "full_speed", "HeadYaw"), 0.0, "HeadYaw is 0.0; expected a number above 0"),
        ("generic", ("pivot",), [0.0, 0.1], "expected .x, y, z. in m"),
        ("reachy_mini", ("face", "joints", 0, "name"), "head_yaw", "head_yaw is named twice"),
    ],
)
def test_a_wrong_value_of_a_robot_is_refused_too(robot, path, value, sentence):
    content = yaml.safe_load(share_path("config", "robots", f"{robot}.yaml").read_text())
    assert_refused(content, path, value, sentence)


def assert_refused(content: dict, path: tuple, value: object, sentence: str) -> None:
    place = content
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(TimarError, match=sentence):
        RobotProfile.from_dict(content)
