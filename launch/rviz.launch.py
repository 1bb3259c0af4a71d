"""A simulated head of any robot profile, shown in RViz: what the head node commands is to be seen, without hardware.

    ros2 launch timar_ros rviz.launch.py
    ros2 launch timar_ros rviz.launch.py robot:=tiago urdf:=tiago.urdf

The head node is not started here: see simulated.launch.py, or start it by head.launch.py.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node, SetRemap
from launch_ros.parameter_descriptions import ParameterValue

from timar_ros.robot.profile import controller_remappings

SHARE = Path(get_package_share_directory("timar_ros"))


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            # Frames of several robots have the same names: each namespace has transforms of its own.
            SetRemap("/tf", "tf"),
            SetRemap("/tf_static", "tf_static"),
            DeclareLaunchArgument(
                "robot",
                default_value="",
                description="Robot profile: a name under config/robots, or the path of such a file.",
            ),
            DeclareLaunchArgument(
                "command",
                default_value="",
                description="What the neck takes: profile, what its profile says, or joint_trajectory for any robot.",
            ),
            DeclareLaunchArgument(
                "urdf",
                default_value=str(SHARE / "urdf" / "head.urdf"),
                description="The robot that is shown. The head that comes with the package has the generic profile's "
                "joints; for other robots give their URDF (of a xacro file: what xacro makes of it).",
            ),
            DeclareLaunchArgument(
                "face",
                default_value="head",
                description="Face map that turns blendshapes into the joints of the robot that is shown: a name under "
                "config/faces, or the path of such a file; empty: none.",
            ),
            DeclareLaunchArgument(
                "rviz",
                default_value="true",
                choices=["true", "false"],
                description="Shows the head in RViz.",
            ),
            DeclareLaunchArgument(
                "params_file",
                default_value=str(SHARE / "config" / "head.yaml"),
                description="Parameters of all nodes started here.",
            ),
            DeclareLaunchArgument(
                "namespace",
                default_value="",
                description="Namespace of all nodes and topics: one for each robot.",
            ),
            DeclareLaunchArgument(
                "controller",
                default_value="",
                description="Joint trajectory controller of the neck, where it is not the one that the profile of "
                "robot:= names: commands come on its topic CONTROLLER/joint_trajectory.",
            ),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="",
                choices=["", "true", "false"],
                description="Take the time from /clock.",
            ),
            DeclareLaunchArgument(
                "log_level",
                default_value="info",
                choices=["debug", "info", "warn", "error", "fatal"],
                description="What the nodes log.",
            ),
            OpaqueFunction(function=_nodes),
        ]
    )


def _nodes(context) -> list:
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    clock = {"use_sim_time": value("use_sim_time") == "true"} if value("use_sim_time") else {}
    common = {"namespace": value("namespace"), "output": "screen"}
    # Typed: a robot called "5" stays a text.
    head = {
        name: ParameterValue(text, value_type=str) for name in ("robot", "command", "face") if (text := value(name))
    }
    description = Path(value("urdf")).expanduser().read_text(encoding="utf-8")
    nodes = [
        Node(
            package="timar_ros",
            executable="simulated_head",
            name="simulated_head",
            parameters=[value("params_file"), clock | head],
            remappings=controller_remappings(value("robot"), value("controller")),
            ros_arguments=["--log-level", value("log_level")],
            **common,
        ),
        Node(
            package="robot_state_publisher",
            executable="robot_state_publisher",
            name="robot_state_publisher",
            # Every message of the face, which come at 25 Hz; by default half of them would be left out.
            parameters=[
                clock | {"publish_frequency": 100.0, "robot_description": ParameterValue(description, value_type=str)}
            ],
            **common,
        ),
    ]
    if value("rviz") == "true":
        nodes.append(
            Node(
                package="rviz2",
                executable="rviz2",
                name="rviz",
                arguments=["-d", str(SHARE / "config" / "head.rviz")],
                parameters=[clock],
                **common,
            )
        )
    return nodes
