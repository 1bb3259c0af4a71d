"""Every robot profile: checked, explained, compared with a URDF and driven; and how each kind of head is commanded."""

import time
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
import yaml

from timar_ros.channels import ARKIT_BLENDSHAPES
from timar_ros.cli import main
from timar_ros.errors import TimarError
from timar_ros.replay.robot_motion import lively_head, show_on
from timar_ros.resources import share_path
from timar_ros.robot.check import explanation, findings
from timar_ros.robot.commands import PlainValues, joint_angles_class
from timar_ros.robot.description import read_description, tightened
from timar_ros.robot.face import FaceServos
from timar_ros.robot.forward_controller import ForwardCommandController
from timar_ros.robot.profile import RobotProfile, profile_names
from timar_ros.robot.trajectory_controller import TrajectoryRefusedError

ROBOTS = ("ari", "generic", "icub", "nao", "pan_tilt", "pepper", "reachy2", "reachy_mini", "stretch", "tiago")
ON_NAOQI = ("nao", "pepper")
LIVELY = lively_head(12.0)


def test_the_profiles_are_those_that_are_tested():
    assert tuple(profile_names()) == ROBOTS


@pytest.mark.parametrize("robot", ROBOTS)
def test_a_lively_head_is_shown_without_refusal_and_within_all_limits(robot):
    shown = show_on(RobotProfile.load(robot), LIVELY)
    assert (shown.refusals, shown.violations) == (0, 0), shown.peaks
    # A neck without roll cannot tilt; limits cost a slow neck more than half of nothing.
    assert (shown.missing_axes > 0.1) == (len(RobotProfile.load(robot).joints) < 3)
    assert shown.limits < 0.5


@pytest.mark.parametrize("robot", ROBOTS)
def test_a_profile_is_explained_and_nothing_is_wrong_with_it(robot):
    profile = RobotProfile.load(robot)
    said = explanation(profile)
    for joint in profile.joints:
        assert joint.name in said
    found = [fault for fault in findings(profile, {}) if "naoqi_bridge_msgs" not in fault]
    assert found == []


def test_the_heads_urdf_agrees_with_the_generic_profile():
    text = share_path("urdf", "head.urdf").read_text()
    described = read_description(text)
    profile, changes, faults = tightened(RobotProfile.load("generic"), described)
    assert (changes, faults) == ([], []) and profile == RobotProfile.load("generic")
    assert findings(profile, described) == []
    joints = {joint.get("name"): joint for joint in ElementTree.fromstring(text).iter("joint")}
    chain = [joints[name].find("origin").get("xyz").split() for name in ("base_to_torso", "neck_yaw", "neck_pitch")]
    assert profile.base_frame == joints["base_to_torso"].find("parent").get("link")
    assert profile.pivot == pytest.approx(np.array(chain, float).sum(axis=0))


# ---- what `timar robot` says --------------------------------------------------------------------


def written(tmp_path, change) -> str:
    content = yaml.safe_load(share_path("config", "robots", "pan_tilt.yaml").read_text())
    change(content)
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    return str(file)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c["joints"][0]["limits"].update(position={"min": -70, "max": 70}), "in rad, not degrees?"),
        (lambda c: c["joints"][1]["limits"].update(position={"min": -0.6, "max": 0.01}), "only 0.6 deg"),
        (lambda c: c["joints"][0]["limits"].update(velocity=0.3), "slower than a calm person's head"),
        (lambda c: c["joints"][0]["limits"].update(acceleration=1.0), "nods come out smaller"),
        (lambda c: c["joints"][0]["limits"].update(jerk=40.0), "to stop from full speed"),
        (lambda c: c["command"].update(topic="/head/command"), "a namespace will not reach it"),
        (
            lambda c: c.update(command={"kind": "forward_command", "topic": "head/commands", "rate_hz": 10}),
            "the head moves in steps",
        ),
    ],
)
def test_check_finds_what_is_wrong(tmp_path, capsys, change, sentence):
    assert main(["robot", "check", written(tmp_path, change)]) == 1
    assert sentence in capsys.readouterr().out


def test_check_tells_a_file_that_breaks_a_rule(tmp_path, capsys):
    file = written(tmp_path, lambda c: c["joints"][0].update(axis="sideways"))
    assert main(["robot", "check", file]) == 1
    assert "axis is 'sideways'; expected one of roll, pitch, yaw" in capsys.readouterr().err


def urdf(axis: str, limit: str, name: str = "head_tilt") -> str:
    joint = '<joint name="{}" type="revolute"><parent link="{}"/><child link="{}"/><axis xyz="{}"/>{}</joint>'
    pan = joint.format("head_pan", "base", "neck", "0 0 1", '<limit lower="-1.5" upper="1.5" velocity="2"/>')
    return f'<robot name="r">{pan}{joint.format(name, "neck", "head", axis, limit)}</robot>'


WIDE = '<limit lower="-0.8" upper="0.8" velocity="4" effort="1"/>'


@pytest.mark.parametrize(
    ("description", "sentence"),
    [
        (urdf("0 -1 0", WIDE), "it turns the other way round; make sign -1"),
        (urdf("1 0 0", WIDE), "its axis is roll, not pitch"),
        (urdf("0 1 0", WIDE, "head_nod"), "head_tilt is no joint of robot_description"),
        (urdf("0 1 0", WIDE.replace('"4"', '"50000"')), "is no limit, but not known"),
        (urdf("0 1 0", '<limit lower="0.5" upper="0.8" velocity="4"/>'), "leaves out where the head looks straight"),
    ],
)
def test_check_compares_with_a_urdf(tmp_path, capsys, description, sentence):
    file = tmp_path / "robot.urdf"
    file.write_text(description)
    assert main(["robot", "check", "pan_tilt", "--urdf", str(file)]) == 1
    assert sentence in capsys.readouterr().out
    file.write_text(urdf("0 1 0", WIDE))
    assert main(["robot", "check", "pan_tilt", "--urdf", str(file)]) == 0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("not XML", "is no XML"),
        ("<sdf/>", "expected the <robot> of a URDF"),
        (urdf("0 1 0", '<limit lower="low"/>'), "joint head_tilt has lower='low'"),
        (urdf("0 1", WIDE), "joint head_tilt has an axis with xyz='0 1'; expected three numbers"),
        (urdf("0, 1, 0", WIDE), "xyz='0, 1, 0'"),
        (urdf("0 nan 0", WIDE), "xyz='0 nan 0'"),
        (urdf("0 1 0", '<origin rpy="0 0 ${a}"/>'), r"an origin with rpy='0 0 \$\{a\}'"),
    ],
)
def test_a_broken_robot_description_is_told(text, sentence):
    with pytest.raises(TimarError, match=sentence):
        read_description(text)


def test_the_tighter_limits_win_soft_ones_too():
    soft = '<safety_controller soft_lower_limit="-0.4" soft_upper_limit="0.9" k_velocity="1"/>'
    limit = '<limit lower="-0.8" upper="0.5" velocity="1.5" acceleration="9" jerk="99"/>'
    profile, changes, _ = tightened(RobotProfile.load("pan_tilt"), read_description(urdf("0 1 0", soft + limit)))
    tilt = profile.joints[1].limits
    assert (tilt.lower, tilt.upper, tilt.velocity, tilt.acceleration, tilt.jerk) == (-0.4, 0.5, 1.5, 9.0, 99.0)
    assert profile.joints[0].limits.velocity == 2.0 and len(changes) == 6


def test_a_described_range_that_leaves_out_straight_ahead_does_not_count():
    own = RobotProfile.load("pan_tilt")
    description = read_description(urdf("0 1 0", '<limit lower="0.5" upper="0.8" velocity="1.5"/>'))
    profile, _, faults = tightened(own, description)
    tilt, was = profile.joints[1].limits, own.joints[1].limits
    assert (tilt.lower, tilt.upper, tilt.velocity) == (was.lower, was.upper, 1.5) and len(faults) == 1


@pytest.mark.parametrize("value", ["0", "-1", "nan"])
def test_limits_that_are_not_above_zero_count_as_not_given(value):
    limit = " ".join(f'{name}="{value}"' for name in ("velocity", "acceleration", "deceleration", "jerk"))
    described = read_description(urdf("0 1 0", f'<limit lower="-0.8" upper="0.8" {limit}/>'))["head_tilt"].limits
    assert (described.velocity, described.acceleration, described.jerk) == (np.inf, np.inf, np.inf)


def test_list_names_them_all(capsys):
    assert main(["robot", "list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(ROBOTS)


# ---- kinds of commands --------------------------------------------------------------------------


def test_positions_go_out_in_the_controllers_order():
    profile = RobotProfile.load("reachy2")
    values = PlainValues(profile.command, ("neck_yaw", "neck_roll", "neck_pitch"))
    state = np.array([[0.3, 0.1, 0.2], [0.0] * 3, [0.0] * 3])
    assert values.names == ["neck_roll", "neck_pitch", "neck_yaw"]
    assert values.positions(state) == [0.1, 0.2, 0.3]


def test_naoqis_speed_is_the_share_that_the_fastest_joint_needs():
    values = PlainValues(RobotProfile.load("nao").command, ("HeadYaw", "HeadPitch"))
    state = np.zeros((3, 2))
    assert values.speed(state) == pytest.approx(0.02)
    state[1] = 8.26797 / 10, -7.19407 / 5
    assert values.speed(state) == pytest.approx(1.25 / 5)
    state[1] = 100.0
    assert values.speed(state) == 1.0


def test_without_naoqis_messages_the_error_names_their_package():
    try:
        joint_angles_class()
    except TimarError as error:
        assert "sudo apt install ros-$ROS_DISTRO-naoqi-bridge-msgs" in str(error)
    else:
        pytest.skip("naoqi_bridge_msgs is installed here")


def test_a_forward_controller_tells_the_motion_whatever_the_jitter_and_refuses_what_it_must():
    controller = ForwardCommandController(("b", "a"), ("a", "b"), 100.0, (0.0, 0.0))
    jitter_ns = np.random.default_rng(0).integers(-4_000_000, 4_000_000, 50)
    for k, late_ns in enumerate(jitter_ns.tolist()):
        time_ns, motion = controller.accept([0.0, (0.01 * k) ** 2], 10**12 + k * 10**7 + late_ns)
    assert motion.positions.tolist() == pytest.approx([0.49**2, 0.0])
    assert motion.velocities[0] == pytest.approx(0.97) and motion.accelerations[0] == pytest.approx(2.0)
    for wrong in ([0.0], [0.0, np.nan]):
        with pytest.raises(TrajectoryRefusedError):
            controller.accept(wrong, time_ns)
    assert controller.sample(time_ns + 10**9).velocities.tolist() == [0.0, 0.0]


# ---- faces --------------------------------------------------------------------------------------


def test_the_servos_of_a_face_follow_blendshapes_within_their_limits():
    face = RobotProfile.load("reachy_mini").face
    servos = FaceServos(face)
    rng = np.random.default_rng(1)
    path = [servos.step(np.where(rng.random(52) < 0.1, np.nan, rng.uniform(-3, 3, 52))) for _ in range(500)]
    positions = np.array(path)
    assert np.isfinite(positions).all() and np.abs(positions).max() <= 1.5
    assert np.abs(np.diff(positions, axis=0)).max() * 25 <= 6.0 * 1.001
    raised = np.array([float(name == "browInnerUp") for name in ARKIT_BLENDSHAPES])
    for _ in range(50):
        reached = servos.step(raised)
    assert reached == pytest.approx([0.6, -0.6], abs=1e-3)


def test_servos_keep_acceleration_and_jerk_between_targets_that_leap():
    face, rng = RobotProfile.load("reachy_mini").face, np.random.default_rng(1)
    servos, limits = FaceServos(face), face.joints[0].limits
    path = [servos.step(weights, 0.001) for weights in rng.uniform(-3, 3, (50, 52)) for _ in range(80)]
    accelerations, jerks = (np.diff(path, n, axis=0) / 1e-3**n for n in (2, 3))
    assert 0.5 < np.abs(accelerations).max() / limits.acceleration <= 1.02
    assert 0.5 < np.abs(jerks).max() / limits.jerk <= 1.05


def face_commands():
    """Those of Reachy Mini's antennas, the positions that they send, and its brows raised."""
    pytest.importorskip("rclpy")
    from timar_ros.nodes.face_commands import FaceCommands

    sent: list[list[float]] = []
    publisher = SimpleNamespace(publish=lambda message: sent.append(list(message.position)))
    commands = FaceCommands(
        SimpleNamespace(create_lifecycle_publisher=lambda *_: publisher), RobotProfile.load("reachy_mini").face
    )
    return commands, sent, np.array([float(name == "browInnerUp") for name in ARKIT_BLENDSHAPES])


def test_servos_keep_their_speed_where_frames_come_late_and_close_together():
    commands, sent, raised = face_commands()
    times_ns, now_ns = [], 10**12
    for gap_ms in np.random.default_rng(3).choice([0.1, 1, 5, 40, 45, 300], 400):
        now_ns += round(gap_ms * 1e6)
        times_ns.append(now_ns)
        commands.follow(raised if len(sent) // 25 % 2 else -raised, now_ns)
    speeds = np.abs(np.diff(sent, axis=0)) / (np.diff(times_ns) * 1e-9)[:, None]
    assert 3.0 < speeds.max() <= 6.0 * 1.001


def test_servos_are_taken_up_where_joint_states_has_them():
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import JointState

    def feel(*positions: float) -> None:
        state = JointState(name=["head_yaw", "right_antenna", "left_antenna"], position=[0.3, *positions])
        commands.feel(serialize_message(state))

    commands, sent, raised = face_commands()
    commands.take()
    commands.follow(0.0 * raised, 10**12)
    assert sent == []  # not before that was told
    feel(-1.0, np.nan)
    commands.follow(0.0 * raised, 10**12)
    assert sent[-1] == pytest.approx([0.0, -1.0], abs=0.1)
    feel(1.0, 1.0)  # they move by command now
    commands.follow(0.0 * raised, 10**12 + 40_000_000)
    assert -1.0 < sent[-1][1] < -0.8
    commands.take()
    feel(1.0, 1.0)
    commands.follow(0.0 * raised, 10**12 + 10**9)
    assert sent[-1] == pytest.approx([1.0, 1.0], abs=0.1)


def test_servos_that_nobody_tells_of_are_commanded_after_a_while(monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now_s[0])
    commands, sent, raised = face_commands()
    commands.take()
    for k in range(100):
        commands.follow(0.0 * raised, 10**12 + 40_000_000 * k)
        now_s[0] += 0.04
    assert len(sent) == 25 and sent[0] == pytest.approx([0.0, 0.0], abs=0.1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: f["joints"][0]["blendshapes"].update(smile=1.0), "smile is no ARKit blendshape"),
        (lambda f: f["joints"][0].update(rest=2.0), "rest is 2 rad; expected a position within"),
        (lambda f: f["joints"][1].update(name="left_antenna"), "left_antenna is named twice"),
        (lambda f: f.update(joints=[]), "expected a list of the face's servos"),
        (lambda f: f["command"].update(kind="telepathy"), "expected one of joint_trajectory, forward_command"),
    ],
)
def test_a_face_that_breaks_a_rule_is_told(change, sentence):
    content = yaml.safe_load(share_path("config", "robots", "reachy_mini.yaml").read_text())
    change(content["face"])
    with pytest.raises(TimarError, match=sentence):
        RobotProfile.from_dict(content)


# ---- in the running graph -----------------------------------------------------------------------


def live_figures(graph, robot: str, seconds: float | None) -> SimpleNamespace:
    """What the simulated head of a robot counted while the head node heard the demo's conversation."""
    from diagnostic_msgs.msg import DiagnosticArray
    from sensor_msgs.msg import JointState

    settings = {"robot": robot, "command": "joint_trajectory" if robot in ON_NAOQI else "profile"}
    graph.start_node("simulated_head", settings)
    head = graph.start_node("head_node", settings)
    head.wait_for_output("active", timeout=60)
    heard = graph.collect(DiagnosticArray, "/diagnostics", 1000, matched=2)
    states = graph.collect(JointState, "joint_states", 10_000)
    start_at = time.time() + 4.0
    files = [share_path("demo", f"{party}.ogg") for party in ("self", "partner")]
    microphones = [
        graph.start_node("microphone_node", {"file": file, "start_at": start_at}, "-r", f"microphone/audio:={topic}")
        for file, topic in zip(files, ("microphone/audio", "partner/audio"), strict=True)
    ]
    for microphone in microphones:
        microphone.wait_for_output("playing")
    end = max(start_at, time.time()) + (seconds or soundfile.info(files[0]).duration) + 1.0
    while time.time() < end:
        assert head.running, head.output()
        time.sleep(0.2)
    told = len(heard)
    graph.wait_until(lambda: len(heard) > told + 2, "both nodes' figures")
    statuses = {status.name: status for _, message in heard for status in message.status}
    figures = {pair.key: pair.value for pair in statuses["simulated_head: commands"].values}
    figures |= {pair.key: pair.value for pair in statuses["head: motion"].values}
    moved = np.ptp([m.position for _, m in states], axis=0)
    return SimpleNamespace(figures=figures, moved=moved, states=states)


def test_a_forward_commanded_head_moves_within_its_limits(graph):
    pytest.importorskip("rclpy")
    live = live_figures(graph, "reachy2", 6.0)
    assert live.figures["refusals"] == "0"
    # A process that is not let run for 30 ms stops such a head at once: it holds the last position it was sent.
    assert live.figures["limit_violations"] == "0" or live.figures["interruptions"] != "0", live.figures
    assert int(live.figures["commands"]) > 400  # 100 a second
    assert live.moved.max() > 0.005


@pytest.mark.heavy
@pytest.mark.parametrize("robot", ROBOTS)
def test_every_robot_takes_part_in_the_demos_conversation(graph, robot, capsys):
    pytest.importorskip("rclpy")
    live = live_figures(graph, robot, None)
    with capsys.disabled():
        kept = ("commands", "refusals", "limit_violations", "interruptions", "velocity_peak_share", "jerk_peak_share")
        print(f"\n{robot}: " + ", ".join(f"{name} {live.figures[name]}" for name in kept))
    assert live.figures["refusals"] == "0"
    assert live.figures["limit_violations"] == "0" or live.figures["interruptions"] != "0", live.figures
    assert int(live.figures["commands"]) > 500
    assert live.moved.max() > 0.01
