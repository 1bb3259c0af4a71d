"""A robot that speaks by itself: a synthesiser says what comes on `say`, the head speaks it with its lips, the
loudspeaker plays it in step, and the robot's microphone hears the person, without the robot's own voice.

    ros2 launch timar_ros robot_with_tts.launch.py robot:=generic
    ros2 launch timar_ros robot_with_tts.launch.py simulated:=true microphone:=none
    ros2 topic pub --once /say std_msgs/msg/String "data: 'Hello, how are you?'"
    ros2 service call /head/flush std_srvs/srv/Trigger        # be silent at once

Every argument of head.launch.py may be given as well. Sound of a synthesiser of your own goes to `microphone/audio`,
reliably and as fast as it comes: synthesiser:=none.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from timar_ros.robot.profile import controller_remappings
from timar_ros.stream.audio_messages import default_message_type

SHARE = Path(get_package_share_directory("timar_ros"))


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "params_file",
                default_value=str(SHARE / "config" / "robot_with_tts.yaml"),
                description="Parameters of all nodes started here.",
            ),
            DeclareLaunchArgument(
                "microphone",
                default_value="partner",
                choices=["none", "partner"],
                description="Starts the robot's microphone, which hears the person in front of it.",
            ),
            DeclareLaunchArgument(
                "synthesiser",
                default_value="",
                choices=["", "auto", "espeak-ng", "flite", "piper", "none"],
                description="Program that speaks what comes on the topic say; auto: the first that is installed; "
                "none: your own. Empty: as the parameter file says.",
            ),
            DeclareLaunchArgument(
                "voice",
                default_value="",
                description="Its voice: a name, for piper the path of an .onnx file; empty: its own.",
            ),
            DeclareLaunchArgument(
                "loudspeaker",
                default_value="true",
                choices=["true", "false"],
                description="Plays the own voice in step with the lips.",
            ),
            DeclareLaunchArgument(
                "simulated",
                default_value="false",
                choices=["true", "false"],
                description="Starts a simulated head in the robot's place.",
            ),
            # It declares the arguments that it shares with what is started below.
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(SHARE / "launch" / "head.launch.py"))),
            OpaqueFunction(function=_nodes),
        ]
    )


def _nodes(context) -> list:
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    clock = {"use_sim_time": value("use_sim_time") == "true"} if value("use_sim_time") else {}
    audio_type = value("audio_message_type")
    if audio_type == "auto":
        audio_type = default_message_type()
    audio = {"message_type": audio_type}
    common = {
        "package": "timar_ros",
        "namespace": value("namespace"),
        "output": "screen",
        "ros_arguments": ["--log-level", value("log_level")],
    }
    nodes = []
    if value("loudspeaker") == "true":
        nodes.append(
            Node(
                executable="speaker_node",
                name="speaker",
                parameters=[value("params_file"), clock | audio],
                # What the head speaks, as it speaks it.
                remappings=[("microphone/audio", "head/voice")],
                **common,
            )
        )
    if value("synthesiser") != "none":
        speech = _text(engine=value("synthesiser"), voice=value("voice"))
        nodes.append(
            Node(
                executable="synthesiser_node",
                name="synthesiser",
                parameters=[value("params_file"), clock | audio | speech],
                **common,
            )
        )
    if value("simulated") == "true":
        nodes.append(
            Node(
                executable="simulated_head",
                name="simulated_head",
                parameters=[value("params_file"), clock | _text(robot=value("robot"), command=value("command"))],
                remappings=controller_remappings(value("robot"), value("controller")),
                **common,
            )
        )
    return nodes


def _text(**parameters: str) -> dict:
    """Parameters that are texts even where they look like numbers; empty ones are left out."""
    return {k: ParameterValue(v, value_type=str) for k, v in parameters.items() if v}
