"""What topics of several nodes have in common: latching, stamps, the type of audio messages, who tells its format."""

from __future__ import annotations

from collections.abc import Callable

from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from timar_ros.nodes.parameters import Parameter
from timar_ros.stream.audio_messages import (
    AUDIO_MESSAGE_TYPES,
    AUTO,
    audio_message_type,
    import_message_class,
    make_info,
)

LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
BURST = QoSProfile(depth=5000)
"""Of a synthesiser's sound, which may come at once: a minute in packets of 12 ms waits."""


def stamp_of(time_ns: int) -> Time:
    """A time as messages hold it, which rclpy's own class refuses below 0: simulated sound is captured before that."""
    sec, nanosec = divmod(time_ns, 10**9)
    return Time(sec=sec, nanosec=nanosec)


def time_of(stamp: Time) -> int:
    """A stamp's ns."""
    return stamp.sec * 10**9 + stamp.nanosec


def message_type_parameter(name: str = "message_type") -> Parameter:
    """The parameter that says in which type audio comes and goes."""
    return Parameter(
        name,
        AUTO,
        "type of the audio messages; auto: AudioDataStamped where audio_common_msgs is installed, else Int16MultiArray",
        choices=(AUTO, *AUDIO_MESSAGE_TYPES),
        read_only=True,
    )


def subscribe_format(node: Node, type_name: str, topic: str, take: Callable) -> list[Subscription]:
    """Hear the audio format of `topic` on `topic`_info, if its messages do not tell it themselves.

    Twice, as one subscription hears either what is latched or nodes that do not latch and say it again and again, as
    audio_capture of ros-drivers' audio_common does every 5 s.
    """
    info_type = audio_message_type(type_name).info_type
    if info_type is None:
        return []
    info_class = import_message_class(info_type)
    return [node.create_subscription(info_class, f"{topic}_info", take, qos) for qos in (LATCHED, QoSProfile(depth=1))]


def publish_format(node: Node, topic: str, type_name: str, rate: int) -> Publisher | None:
    """Tell the audio format of `topic` on `topic`_info, latched; None where the messages tell it themselves."""
    info_type = audio_message_type(type_name).info_type
    if info_type is None:
        return None
    info_class = import_message_class(info_type)
    publisher = node.create_publisher(info_class, f"{topic}_info", LATCHED)
    publisher.publish(make_info(info_class, type_name, rate))
    return publisher
