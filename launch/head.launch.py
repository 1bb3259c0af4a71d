"""Brings up the conversational head of one robot: the head node and, when asked for, a microphone
and a speaker.

    ros2 launch timar_ros head.launch.py robot:=generic microphone:=partner
    ros2 launch timar_ros head.launch.py --show-args

An argument left empty leaves that parameter to `params_file`.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue

from timar_ros.robot.profile import controller_remappings
from timar_ros.stream.audio_messages import default_message_type

SHARE = Path(get_package_share_directory("timar_ros"))

# Arguments that set a parameter of the head node of the same name, where they are given. Typed: a policy called "5"
# stays a text.
HEAD_PARAMETERS = {
    "robot": (str, "Robot profile: a name under config/robots, or the path of such a file."),
    "policy": (str, "Policy: a name under models, or the path of such a folder."),
    "device": (str, "Where the policy runs: auto, cuda or cpu."),
    "hop_frames": (int, "Frames of 40 ms that the policy advances by."),
    "temperature": (float, "Factor on the policy's noise: less is calmer."),
    "intensity": (float, "Factor on the head's learned and idle rotation, 0 to 1.5."),
    "own_voice": (str, "live: as from a microphone; queued: a synthesiser's, which may come in bursts."),
    "lookahead_ms": (
        int,
        "By how much earlier than it is spoken the policy hears a synthesiser's voice; 0 for a policy that knows no "
        "look-ahead.",
    ),
    "command": (
        str,
        "How the neck is commanded: profile, as its profile says, or joint_trajectory, which a simulated head takes "
        "for any robot.",
    ),
    "autostart": (
        bool,
        "Whether the head node configures and activates itself; false: a lifecycle manager or `ros2 lifecycle set` "
        "does.",
    ),
}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
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
            *(
                DeclareLaunchArgument(name, default_value="", description=description)
                for name, (_, description) in HEAD_PARAMETERS.items()
            ),
            DeclareLaunchArgument(
                "audio_message_type",
                default_value="auto",
                description="Type of all audio messages, such as "
                "audio_common_msgs/msg/AudioDataStamped, which is what auto takes where it is "
                "installed; else auto takes std_msgs/msg/Int16MultiArray.",
            ),
            DeclareLaunchArgument(
                "controller",
                default_value="",
                description="Joint trajectory controller of the neck, where it is not the one that the profile of "
                "robot:= names: commands go to its topic CONTROLLER/joint_trajectory.",
            ),
            DeclareLaunchArgument(
                "microphone",
                default_value="none",
                choices=["none", "self", "partner"],
                description="Starts a microphone and says whose voice it hears: partner on a robot "
                "that listens by itself, self for an operator who speaks through it.",
            ),
            DeclareLaunchArgument(
                "speaker",
                default_value="false",
                choices=["true", "false"],
                description="Plays a live own voice, delayed so that the lips match; for a synthesiser's see "
                "robot_with_tts.launch.py.",
            ),
            DeclareLaunchArgument(
                "respawn",
                default_value="false",
                choices=["true", "false"],
                description="Starts a node again, two seconds after it ended by itself.",
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

    given = {
        name: ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, (kind, _) in HEAD_PARAMETERS.items()
        if value(name)
    }
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
        "respawn": value("respawn") == "true",
        "respawn_delay": 2.0,
    }
    head = LifecycleNode(
        executable="head_node",
        name="head",
        parameters=[value("params_file"), given | clock | {"audio_message_type": audio_type}],
        remappings=controller_remappings(value("robot"), value("controller")),
        **common,
    )
    nodes = [head]
    if value("microphone") != "none":
        # Its topic is the own voice's unless it hears the partner.
        partner = [("microphone/audio", "partner/audio")]
        nodes.append(
            Node(
                executable="microphone_node",
                name="microphone",
                parameters=[value("params_file"), clock | audio],
                remappings=partner if value("microphone") == "partner" else [],
                **common,
            )
        )
    if value("speaker") == "true":
        nodes.append(
            Node(
                executable="speaker_node",
                name="speaker",
                parameters=[value("params_file"), clock | audio],
                **common,
            )
        )
    return nodes
