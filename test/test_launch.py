"""What the launch files start, and that their files and the nodes agree with one another.

ROS 2's `launch` is on no package index: the tests that need it run where a ROS 2 is sourced.
"""

import ast
import math
import re
import xml.etree.ElementTree as ET
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from timar_ros.resources import share_path

ROOT = Path(__file__).resolve().parents[1]
LAUNCH_FILES = tuple(
    f"{name}.launch.py" for name in ("head", "robot_with_tts", "simulated", "rviz", "record", "replay")
)
URDF = share_path("urdf", "head.urdf")


# ---- launch files, by the real launch ----------------------------------------------------------


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A function that starts nothing, but says which nodes a launch file would: (package,
    executable) -> its Node action, evaluated.
    """
    # By its submodule: the folder launch/ of this checkout passes for a package of that name.
    pytest.importorskip("launch.actions")
    pytest.importorskip("launch_ros.actions")
    from launch import LaunchContext, LaunchDescriptionEntity
    from launch.actions import ExecuteProcess, TimerAction
    from launch.launch_description_sources import PythonLaunchDescriptionSource
    from launch_ros.actions import LifecycleNode, Node

    index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "timar_ros").touch()
    (tmp_path / "share" / "timar_ros").symlink_to(ROOT)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path), prepend=":")
    # Nodes are looked at, not run: what they need from the machine need not be there.
    for action in (Node, LifecycleNode, ExecuteProcess):
        monkeypatch.setattr(action, "execute", lambda self, context: None)

    def visit(entity: LaunchDescriptionEntity, context: LaunchContext, found: list) -> None:
        if isinstance(entity, ExecuteProcess):
            found.append(entity)
        if isinstance(entity, TimerAction):
            for later in entity.actions:
                visit(later, context, found)
            return
        for child in entity.visit(context) or []:
            visit(child, context, found)

    def start(file: str, **arguments: str) -> dict:
        context = LaunchContext()
        context.launch_configurations.update(arguments)
        source = PythonLaunchDescriptionSource(str(ROOT / "launch" / file))
        found: list = []
        visit(source.get_launch_description(context), context, found)
        nodes = [process for process in found if isinstance(process, Node)]
        for node in nodes:
            node._perform_substitutions(context)
        commands = [process for process in found if process not in nodes]
        return {(node.node_package, node.node_name): node for node in nodes} | {
            ("command", " ".join(words(process, context)[:3])): words(process, context) for process in commands
        }

    def words(process: ExecuteProcess, context: LaunchContext) -> list[str]:
        return ["".join(part.perform(context) for part in word) for word in process.cmd]

    return start


def names(nodes: dict) -> set[str]:
    return {name for _, name in nodes}


def parameters(node, name: str) -> dict:
    """What a node is started with: the parameter files, the later ones over those before."""
    values: dict = {}
    for file, _ in node._Node__expanded_parameter_arguments:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        for key, told in content.items():
            if key in ("/**", f"/**/{name}", f"/{name}", name):
                values |= told["ros__parameters"]
    return values


def test_the_head_comes_alone_unless_more_is_asked_for(started):
    assert names(started("head.launch.py")) == {"/head"}
    asked = started("head.launch.py", microphone="partner", speaker="true")
    assert names(asked) == {"/head", "/microphone", "/speaker"}


@pytest.mark.parametrize("asked", [True, False])
def test_nodes_are_started_again_where_that_is_asked_for(started, asked):
    nodes = started("head.launch.py", microphone="partner", **({"respawn": "true"} if asked else {}))
    assert [node._ExecuteLocal__respawn for node in nodes.values()] == [asked, asked]


@pytest.mark.parametrize(("party", "rules"), [("self", []), ("partner", [("microphone/audio", "partner/audio")])])
def test_a_microphone_is_wired_to_the_party_it_hears(started, party, rules):
    nodes = started("head.launch.py", microphone=party)
    assert list(nodes["timar_ros", "/microphone"].expanded_remapping_rules or []) == rules


def test_a_namespace_holds_every_node(started):
    nodes = started("simulated.launch.py", namespace="robot1")
    assert all(name.startswith("/robot1/") for name in names(nodes))


@pytest.mark.parametrize("file", ["simulated.launch.py", "rviz.launch.py"])
def test_a_namespace_has_transforms_of_its_own(started, file):
    nodes = started(file, namespace="robot1")
    asking = {"/robot1/robot_state_publisher", "/robot1/rviz", *(["/robot1/head"] if file.startswith("sim") else [])}
    rules = {name: set(node.expanded_remapping_rules) for (_, name), node in nodes.items()}
    for name in asking:
        assert {("/tf", "tf"), ("/tf_static", "tf_static")} <= rules[name], name


def test_the_simulation_plays_the_demo_to_a_simulated_head_in_rviz(started):
    nodes = started("simulated.launch.py")
    assert names(nodes) == {
        *("/head", "/simulated_head", "/robot_state_publisher", "/rviz"),
        *("/self_voice", "/partner_voice"),
    }


def test_a_microphone_takes_the_place_of_that_partys_file(started):
    nodes = started("simulated.launch.py", microphone="partner", rviz="false")
    assert {"/microphone", "/self_voice"} <= names(nodes)
    assert not {"/partner_voice", "/rviz"} & names(nodes)


def test_a_robot_that_speaks_hears_a_person_and_plays_what_the_head_speaks(started):
    nodes = started("robot_with_tts.launch.py")
    assert names(nodes) == {"/head", "/microphone", "/speaker", "/synthesiser"}
    assert list(nodes["timar_ros", "/microphone"].expanded_remapping_rules) == [("microphone/audio", "partner/audio")]
    assert list(nodes["timar_ros", "/speaker"].expanded_remapping_rules) == [("microphone/audio", "head/voice")]


@pytest.mark.parametrize("told, engine", [({}, "flite"), ({"synthesiser": "piper"}, "piper")])
def test_the_synthesiser_is_the_files_unless_another_is_given(started, tmp_path, told, engine):
    mine = tmp_path / "mine.yaml"
    mine.write_text("synthesiser:\n  ros__parameters:\n    engine: flite\n")
    nodes = started("robot_with_tts.launch.py", params_file=str(mine), **told)
    assert parameters(nodes["timar_ros", "/synthesiser"], "synthesiser")["engine"] == engine


def test_a_simulated_robot_can_speak_without_sound_devices(started):
    nodes = started("robot_with_tts.launch.py", simulated="true", microphone="none", loudspeaker="false")
    assert names(nodes) == {"/head", "/simulated_head", "/synthesiser"}


def test_the_commands_go_to_the_controller_that_is_named(started):
    nodes = started("simulated.launch.py", controller="neck")
    for name in ("/head", "/simulated_head"):
        rules = nodes["timar_ros", name].expanded_remapping_rules
        assert [rule for rule in rules if not rule[0].startswith("/tf")] == [
            ("head_controller/joint_trajectory", "neck/joint_trajectory")
        ]


def test_the_controller_that_is_named_takes_the_place_of_the_profiles(started):
    nodes = started("head.launch.py", robot="stretch", controller="neck")
    assert list(nodes["timar_ros", "/head"].expanded_remapping_rules) == [
        ("stretch_controller/joint_trajectory", "neck/joint_trajectory")
    ]
    assert not started("head.launch.py", robot="stretch")["timar_ros", "/head"].expanded_remapping_rules
    for controller, topic in (("neck", "/neck/joint_trajectory"), ("", "/stretch_controller/joint_trajectory")):
        (command,) = started("record.launch.py", robot="stretch", controller=controller).values()
        assert [word for word in command if word.endswith("/joint_trajectory")] == [topic]


MINE = {"autostart": False, "command": "joint_trajectory", "use_sim_time": True, "temperature": 0.4, "hop_frames": 1}


@pytest.mark.parametrize("file", ["head.launch.py", "simulated.launch.py", "robot_with_tts.launch.py"])
def test_arguments_that_are_not_given_leave_a_parameter_to_the_file(started, tmp_path, file):
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({"/**/head": {"ros__parameters": MINE}}), encoding="utf-8")
    head = started(file, params_file=str(mine))["timar_ros", "/head"]
    assert MINE.items() <= parameters(head, "head").items()


@pytest.mark.parametrize("simulated_time", ["true", "false"])
def test_voices_begin_together_or_by_simulated_time_when_they_are_heard(started, simulated_time):
    nodes = started("simulated.launch.py", use_sim_time=simulated_time)
    told = [parameters(nodes["timar_ros", f"/{party}_voice"], f"{party}_voice") for party in ("self", "partner")]
    assert told[0].get("start_at") == told[1].get("start_at")
    assert ("start_at" in told[0]) == (simulated_time == "false")


def test_arguments_that_are_given_win_over_the_file(started):
    numbers = {"lookahead_ms": "0", "temperature": "1", "intensity": "0.3", "hop_frames": "4"}
    others = {"autostart": "false", "use_sim_time": "true", "own_voice": "queued", "policy": "5"}
    told = parameters(started("head.launch.py", **numbers, **others)["timar_ros", "/head"], "head")
    assert (told["autostart"], told["use_sim_time"], told["own_voice"], told["policy"]) == (False, True, "queued", "5")
    assert (told["temperature"], told["intensity"]) == (1.0, 0.3)
    assert (told["hop_frames"], told["lookahead_ms"]) == (4, 0)
    assert isinstance(told["temperature"], float)


@pytest.mark.parametrize("file", ["simulated.launch.py", "robot_with_tts.launch.py"])
def test_a_simulated_head_takes_what_the_head_node_commands(started, file):
    nodes = started(file, robot="nao", command="joint_trajectory", simulated="true")
    for name in ("head", "simulated_head"):
        told = parameters(nodes["timar_ros", f"/{name}"], name)
        assert (told["robot"], told["command"]) == ("nao", "joint_trajectory")


def test_rviz_shows_a_simulated_head_of_any_robot(started):
    nodes = started("rviz.launch.py", robot="tiago", command="joint_trajectory")
    assert names(nodes) == {"/simulated_head", "/robot_state_publisher", "/rviz"}
    assert "/rviz" not in names(started("rviz.launch.py", rviz="false"))


@pytest.mark.parametrize("robot", ["generic", "reachy2"])
def test_a_recording_holds_every_topic_that_the_report_reads(started, robot):
    from timar_ros.replay.bag import TOPIC_PATTERNS

    (command,) = started("record.launch.py", bag="mine", robot=robot, namespace="robot1").values()
    assert command[:7] == ["ros2", "bag", "record", "--storage", "mcap", "--output", "mine"]
    topics = command[7:]
    for role, pattern in TOPIC_PATTERNS.items():
        if role != "trajectories" or robot == "generic":
            assert any(re.search(pattern, topic) for topic in topics), role
    assert ("/robot1/neck_forward_position_controller/commands" in topics) == (robot == "reachy2")


def test_a_replay_plays_what_was_heard_on_the_bags_clock(started):
    nodes = started("replay.launch.py", bag="mine", rviz="false")
    command = nodes.pop(("command", "ros2 bag play"))
    assert names(nodes) == {"/head", "/simulated_head", "/robot_state_publisher"}
    assert {"--clock", "/microphone/audio", "/partner/audio"} <= set(command)
    assert "/head/head_pose" not in command, "what the head shows comes from the head node"


# ---- without it --------------------------------------------------------------------------------


def calls(file: str, function: str) -> list[dict[str, ast.expr]]:
    tree = ast.parse((ROOT / "launch" / file).read_text(encoding="utf-8"))
    return [
        {keyword.arg: keyword.value for keyword in node.keywords} | {"": node.args}
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == function
    ]


@pytest.mark.parametrize("file", LAUNCH_FILES)
def test_every_launch_argument_is_described(file):
    arguments = calls(file, "DeclareLaunchArgument")
    assert arguments
    assert all("description" in argument for argument in arguments)
    without_default = [a[""][0].value for a in arguments if "default_value" not in a]
    assert without_default == (["bag"] if file == "replay.launch.py" else [])


def test_every_argument_for_the_head_is_a_parameter_of_its_type():
    from timar_ros.nodes.head_parameters import PARAMETERS

    tree = ast.parse((ROOT / "launch" / "head.launch.py").read_text(encoding="utf-8"))
    (table,) = [n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "HEAD_PARAMETERS"]
    arguments = {key.value: row.elts[0].id for key, row in zip(table.keys, table.values, strict=True)}
    types = {parameter.name: type(parameter.default).__name__ for parameter in PARAMETERS}
    assert arguments == {name: types[name] for name in arguments}


@pytest.mark.parametrize("file", ["head.launch.py", "simulated.launch.py", "rviz.launch.py"])
def test_every_node_that_is_started_is_an_executable_of_the_package(file):
    declared = re.findall(r'"(\w+) = timar_ros\.', (ROOT / "setup.py").read_text(encoding="utf-8"))
    nodes = calls(file, "Node") + calls(file, "LifecycleNode")
    package = {id(node): node["package"].value if "package" in node else "timar_ros" for node in nodes}
    own = {node["executable"].value for node in nodes if package[id(node)] == "timar_ros"}
    assert own
    assert own <= set(declared)


# ---- parameter file, robot description ---------------------------------------------------------


PARAMETER_FILES = ("head.yaml", "robot_with_tts.yaml")


def parameter_file(name: str = "head.yaml") -> dict[str, dict]:
    """Node name -> its parameters, of a file in config."""
    content = yaml.safe_load(share_path("config", name).read_text(encoding="utf-8"))
    return {key.removeprefix("/**/"): node["ros__parameters"] for key, node in content.items()}


@pytest.mark.parametrize("file", PARAMETER_FILES)
def test_the_parameter_file_holds_declared_parameters_with_allowed_values(file):
    modules = {name: f"{name}_node" for name in ("head", "microphone", "speaker", "synthesiser")}
    for node, values in parameter_file(file).items():
        module = import_module(f"timar_ros.nodes.{modules.get(node, node)}")
        declared = {parameter.name: parameter for parameter in module.PARAMETERS}
        assert set(values) <= set(declared), f"{node} declares no such parameter"
        for name, value in values.items():
            refusal = declared[name].refusal(declared[name].converted(value))
            assert refusal is None, refusal


def test_a_robot_that_speaks_looks_ahead_into_what_it_says():
    refusal = pytest.importorskip("timar_ros.nodes.voices").lookahead_refusal
    head = parameter_file("robot_with_tts.yaml")["head"]
    assert head["lookahead_ms"] == 120 and refusal(head) is None
    assert "own voice is live" in refusal(head | {"own_voice": "live"})


@pytest.mark.parametrize("namespace", ["", "robot1", "lab/robot2"])
def test_the_parameter_file_reaches_the_head_in_any_namespace(namespace):
    rclpy = pytest.importorskip("rclpy")
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node(
        "head",
        namespace=namespace,
        context=context,
        cli_args=["--ros-args", "--params-file", str(share_path("config", "head.yaml"))],
        automatically_declare_parameters_from_overrides=True,
    )
    try:
        for name, value in parameter_file()["head"].items():
            assert node.get_parameter(name).value == value
    finally:
        node.destroy_node()
        context.shutdown()


def test_the_urdf_is_a_tree_from_base_link_to_the_heads_frame():
    robot = ET.parse(URDF).getroot()
    links = {link.get("name") for link in robot.findall("link")}
    parent = {j.find("child").get("link"): j.find("parent").get("link") for j in robot.findall("joint")}
    assert links - set(parent) == {"base_link"}
    assert set(parent) | set(parent.values()) == links
    assert parameter_file()["head"]["head_frame"] in links


def test_the_urdfs_neck_is_the_generic_profiles():
    """Same joints in the same order about the same axes, with the same limits."""
    axes = {"roll": (1, 0, 0), "pitch": (0, 1, 0), "yaw": (0, 0, 1)}
    profile = yaml.safe_load(share_path("config", "robots", "generic.yaml").read_text("utf-8"))
    neck = [j for j in ET.parse(URDF).getroot().findall("joint") if j.get("name").startswith("neck_")]
    assert [j.get("name") for j in neck] == [j["name"] for j in profile["joints"]]
    for joint, expected in zip(neck, profile["joints"], strict=True):
        axis = tuple(float(v) for v in joint.find("axis").get("xyz").split())
        assert axis == axes[expected["axis"]]
        limit, limits = joint.find("limit").attrib, expected["limits"]
        assert math.isclose(float(limit["lower"]), limits["position"]["min"])
        assert math.isclose(float(limit["upper"]), limits["position"]["max"])
        assert math.isclose(float(limit["velocity"]), limits["velocity"])


def test_rviz_shows_the_robot_model_in_the_base_frame():
    rviz = yaml.safe_load(share_path("config", "head.rviz").read_text("utf-8"))
    manager = rviz["Visualization Manager"]
    displays = {d["Class"].split("/")[1]: d for d in manager["Displays"]}
    assert {"RobotModel", "MarkerArray"} <= set(displays)
    # Latched, or RViz would know who speaks only from the next change on.
    assert displays["MarkerArray"]["Topic"]["Durability Policy"] == "Transient Local"
    assert manager["Global Options"]["Fixed Frame"] == "base_link"
