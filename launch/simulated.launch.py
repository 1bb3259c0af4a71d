"""A simulated head in RViz that takes part in the conversation that comes with the package.

    ros2 launch timar_ros simulated.launch.py
    ros2 launch timar_ros simulated.launch.py self_file:=a.wav partner_file:=b.wav bag:=my_bag
    ros2 launch timar_ros simulated.launch.py microphone:=partner      # talk to it yourself

Every argument of head.launch.py and rviz.launch.py may be given as well.
"""

import time
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node, SetRemap
from launch_ros.parameter_descriptions import ParameterValue

from timar_ros.stream.audio_messages import default_message_type

SHARE = Path(get_package_share_directory("timar_ros"))

# Both files begin at one instant, by when their nodes are known to those that listen. Simulated time is not known here:
# then each begins when it is heard.
LEAD_S = 4.0


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "self_file",
                default_value=str(SHARE / "demo" / "self.ogg"),
                description="Sound file of the voice that the head speaks with; empty: none.",
            ),
            DeclareLaunchArgument(
                "partner_file",
                default_value=str(SHARE / "demo" / "partner.ogg"),
                description="Sound file of the person in front of the head; empty: none.",
            ),
            DeclareLaunchArgument(
                "bag",
                default_value="",
                description="New folder to record all topics to; empty: none.",
            ),
            # Also of the head node, for targets in frames of this robot; as in rviz.launch.py.
            SetRemap("/tf", "tf"),
            SetRemap("/tf_static", "tf_static"),
            # They declare the arguments that they share with what is started below.
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(SHARE / "launch" / "head.launch.py"))),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(SHARE / "launch" / "rviz.launch.py"))),
            OpaqueFunction(function=_nodes),
        ]
    )


def _nodes(context) -> list:
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    clock = {"use_sim_time": value("use_sim_time") == "true"} if value("use_sim_time") else {}
    ours = {
        "namespace": value("namespace"),
        "output": "screen",
        "package": "timar_ros",
        "ros_arguments": ["--log-level", value("log_level")],
    }
    nodes = []
    start = {} if clock.get("use_sim_time") else {"start_at": time.time() + LEAD_S}
    audio_type = value("audio_message_type")
    if audio_type == "auto":
        audio_type = default_message_type()
    for party, topic in (("self", "microphone/audio"), ("partner", "partner/audio")):
        file = value(f"{party}_file")
        if not file or value("microphone") == party:  # a microphone takes the file's place
            continue
        nodes.append(
            Node(
                executable="microphone_node",
                name=f"{party}_voice",
                parameters=[
                    value("params_file"),
                    clock | _text(file=file, message_type=audio_type) | start,
                ],
                remappings=[("microphone/audio", topic)],
                **ours,
            )
        )
    if value("bag"):
        nodes.append(
            Node(
                executable="recorder",
                name="recorder",
                parameters=[value("params_file"), clock | _text(out=value("bag"))],
                **ours,
            )
        )
    return nodes


def _text(**parameters: str) -> dict:
    """Parameters that are texts even where they look like numbers; empty ones are left out."""
    return {k: ParameterValue(v, value_type=str) for k, v in parameters.items() if v}
