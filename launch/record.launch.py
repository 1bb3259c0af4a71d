"""Records a conversation: exactly the topics that a replay and the report need.

ros2 launch timar_ros record.launch.py bag:=my_bag
ros2 launch timar_ros record.launch.py bag:=my_bag robot:=reachy2 namespace:=robot1
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.substitutions import LaunchConfiguration

from timar_ros.replay.topics import recorded_topics
from timar_ros.robot.profile import RobotProfile, controller_remappings


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", default_value="timar_bag", description="New folder for the bag."),
            DeclareLaunchArgument(
                "robot",
                default_value="generic",
                description="Robot profile, which tells the topic of the neck's commands.",
            ),
            DeclareLaunchArgument(
                "controller",
                default_value="",
                description="Joint trajectory controller of the neck, as head.launch.py was given it.",
            ),
            DeclareLaunchArgument("namespace", default_value="", description="Namespace of the robot."),
            DeclareLaunchArgument(
                "storage",
                default_value="mcap",
                choices=["mcap", "sqlite3"],
                description="The bag's format; mcap needs rosbag2_storage_mcap on Humble.",
            ),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="false",
                choices=["true", "false"],
                description="Take the time from /clock.",
            ),
            OpaqueFunction(function=_recorder),
        ]
    )


def _recorder(context) -> list:
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    topic = RobotProfile.load(value("robot")).command.topic
    topic = dict(controller_remappings(value("robot"), value("controller"))).get(topic, topic)
    clock = ["--use-sim-time"] if value("use_sim_time") == "true" else []
    command = ["ros2", "bag", "record", "--storage", value("storage"), "--output", value("bag"), *clock]
    return [ExecuteProcess(cmd=[*command, *recorded_topics(value("namespace"), topic)], output="screen")]
