"""Which voices are muted, for the nodes that capture, play or record them.

The head node mutes (`~/mute_self`, `~/mute_partner`) and tells so on the latched `self/is_muted` and
`partner/is_muted`; where there is no head node, nothing is muted.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from rclpy.node import Node
from std_msgs.msg import Bool

from timar_ros.nodes import runtime
from timar_ros.nodes.topics import LATCHED
from timar_ros.stream.frames import PARTNER, SELF

_VOICE_TOPIC = re.compile(
    r"(?P<namespace>.*/)(?:(?P<partner>partner/audio)|microphone/audio|[^/]+/voice|[^/]+/played)(?:_info)?$"
)


def is_muted_topic(party: str) -> str:
    """The latched std_msgs/Bool that tells whether a party's voice is muted."""
    return f"{party}/is_muted"


def party_of(topic: str) -> str:
    """Whose voice a topic of audio carries."""
    found = _VOICE_TOPIC.match(topic)
    return PARTNER if found and found["partner"] else SELF


def mute_topic_of(topic: str) -> str | None:
    """The absolute topic that tells whether what is on an (absolute) topic is muted; None where it carries no voice."""
    found = _VOICE_TOPIC.match(topic)
    return found["namespace"] + is_muted_topic(party_of(topic)) if found else None


class MuteListener:
    """Whether a party is muted, for a node that handles its voice.

    Args:
        topic: an `is_muted` topic.
        on_mute: called when it becomes so.

    Attributes:
        muted: None until it was told.
    """

    def __init__(self, node: Node, topic: str, on_mute: Callable[[], None] = lambda: None) -> None:
        self.muted: bool | None = None
        self._node = node
        self._on_mute = on_mute
        self._since = time.monotonic()
        self._subscription = node.create_subscription(Bool, topic, self._learn, LATCHED)

    @property
    def age_s(self) -> float:
        """How long it has been listening."""
        return time.monotonic() - self._since

    @property
    def may_be_muted(self) -> bool:
        """It is, or somebody is there to tell and has not done so yet."""
        return self.muted or (self.muted is None and self._node.count_publishers(self._subscription.topic_name) > 0)

    def catch_up(self) -> None:
        """Learn what was told but not taken yet; as `runtime.take_waiting`."""
        runtime.take_waiting(self._subscription, LATCHED.depth)

    def _learn(self, message: Bool) -> None:
        if message.data and not self.muted:
            self._on_mute()
        self.muted = message.data
