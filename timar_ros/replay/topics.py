"""What is recorded of a running graph, relative to the robot's namespace, with the head node called `head`."""

HEARD = (
    "microphone/audio",
    "microphone/audio_info",
    "partner/audio",
    "partner/audio_info",
    "partner/blendshapes",
    "partner/head_pose",
    "head/look_at",
)
"""What the head node takes in from people: all that a replay plays to another one."""

SHOWN = (
    "head/blendshapes",
    "head/head_pose",
    "head/floor",
    "head/turns",
    "head/conversation",
    "head/trace",
    "self/is_speaking",
    "partner/is_speaking",
    "self/is_muted",
    "partner/is_muted",
    "joint_states",
    "head/voice",
    "head/voice_info",
    "head/playout_delay",
    "head/lips_lead",
    "speaker/played",
    "speaker/played_info",
    "robot_description",
    "simulated_head/command_latency_ms",
    "simulated_head/refusals",
)
"""What came of it, for the report and to repeat it."""

COMMON = ("/diagnostics", "/parameter_events")
"""The same, of all robots together."""


def recorded_topics(namespace: str, command_topic: str) -> list[str]:
    """Absolute names of all topics of one robot; `command_topic` is that of its profile."""
    base = f"/{namespace.strip('/')}/" if namespace.strip("/") else "/"
    return [*(base + name.lstrip("/") for name in (*HEARD, *SHOWN, command_topic)), *COMMON]


def heard_topics(namespace: str) -> list[str]:
    """Absolute names of what the head node of one robot takes in."""
    base = f"/{namespace.strip('/')}/" if namespace.strip("/") else "/"
    return [base + name for name in HEARD]
