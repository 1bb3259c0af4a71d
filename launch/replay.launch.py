"""Plays what was heard in a recorded conversation to a head node and a simulated head, on the bag's clock.

    ros2 launch timar_ros replay.launch.py bag:=my_bag
    ros2 launch timar_ros replay.launch.py bag:=my_bag policy:=mine rviz:=false

Every argument of head.launch.py and rviz.launch.py may be given as well.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    Shutdown,
    TimerAction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from timar_ros.replay.topics import heard_topics

LAUNCH = Path(get_package_share_directory("timar_ros")) / "launch"

# Hz of /clock: the head node waits for frames of 40 ms.
CLOCK_RATE = 250


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="Folder of the bag, as record.launch.py made it."),
            DeclareLaunchArgument("rate", default_value="1.0", description="How fast the bag is played."),
            DeclareLaunchArgument(
                "delay_s",
                default_value="8.0",
                description="How long the bag waits until the nodes have started and found each other.",
            ),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="true",
                choices=["true"],
                description="The time is the bag's.",
            ),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(LAUNCH / "head.launch.py"))),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(LAUNCH / "rviz.launch.py"))),
            OpaqueFunction(function=_player),
        ]
    )


def _player(context) -> list:
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    command = ["ros2", "bag", "play", value("bag"), "--clock", str(CLOCK_RATE), "--rate", value("rate")]
    play = ExecuteProcess(
        cmd=[*command, "--topics", *heard_topics(value("namespace"))],
        output="screen",
        on_exit=Shutdown(reason="the bag was played to its end"),
    )
    return [TimerAction(period=float(value("delay_s")), actions=[play])]
