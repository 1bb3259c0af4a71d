"""The parameters of the head node."""

from timar_ros.model.precision import PRECISIONS
from timar_ros.nodes.parameters import Parameter
from timar_ros.nodes.topics import message_type_parameter
from timar_ros.nodes.voices import VOICE_PARAMETERS
from timar_ros.rates import PLAYOUT_RESERVE_MS
from timar_ros.stream.steppers import AUTO as AUTO_PREDICTION
from timar_ros.stream.steppers import HOP, TURN

PARAMETERS = (
    Parameter("policy", "default", "policy folder: a name under models/ or a path", read_only=True),
    Parameter("device", "auto", "where the policy runs", choices=("auto", "cuda", "cpu"), read_only=True),
    Parameter(
        "precision",
        "auto",
        "what large products are computed in; auto: bfloat16 on CUDA, on the CPU what is fastest there",
        choices=PRECISIONS,
        read_only=True,
    ),
    Parameter("threads", 1, "CPU threads of the policy", minimum=1, maximum=64, read_only=True),
    Parameter(
        "seed",
        0,
        "seed of the policy's noise: equal seeds and sound give equal motion",
        minimum=0,
        maximum=2**31,
        read_only=True,
    ),
    Parameter(
        "temperature",
        1.0,
        "factor on the policy's noise, 0 for none",
        minimum=0.0,
        maximum=4.0,
        read_only=True,
    ),
    Parameter(
        "robot",
        "generic",
        "robot profile: a name under config/robots/ or the path of a YAML file",
        read_only=True,
    ),
    Parameter(
        "command",
        "profile",
        "how the neck is commanded: as its profile says, or by joint trajectories, which a simulated head takes",
        choices=("profile", "joint_trajectory"),
        read_only=True,
    ),
    Parameter(
        "intensity",
        1.0,
        "factor on the head's learned and idle rotation, 0 for none; turns to a target of ~/look_at stay as they are",
        minimum=0.0,
        maximum=1.5,
    ),
    Parameter("idle_life", True, "whether the head breathes, blinks and looks around while nobody speaks"),
    Parameter(
        "look_at_timeout_s",
        5.0,
        "how long a target of ~/look_at holds that is not renewed, s; 0: for ever",
        minimum=0.0,
        maximum=3600.0,
    ),
    Parameter(
        "hop_frames",
        2,
        "frames of 40 ms that the policy advances by",
        minimum=1,
        maximum=25,
        read_only=True,
    ),
    Parameter(
        "predict_by",
        "auto",
        "published weights only: each hop of the open second, or its whole turn as published; auto: turn on the CPU",
        choices=(AUTO_PREDICTION, HOP, TURN),
        read_only=True,
    ),
    Parameter(
        "turns",
        "floor",
        "turns of the conversation, or the published second",
        choices=("floor", "fixed"),
        read_only=True,
    ),
    Parameter(
        "playout_delay_ms",
        0,
        f"from a frame's capture until the head shows it; 0: hop + {PLAYOUT_RESERVE_MS} ms, "
        "or what a slower policy needs",
        minimum=0,
        maximum=5000,
        read_only=True,
    ),
    Parameter(
        "command_margin_ms",
        20,
        "how long a command to the neck may take from being planned until the robot has it",
        minimum=10,
        maximum=200,
        read_only=True,
    ),
    Parameter(
        "max_wait_ms",
        60,
        "how long a frame waits for a voice that is late",
        minimum=0,
        maximum=500,
        read_only=True,
    ),
    Parameter("head_frame", "head", "frame of the head pose (REP-105)", read_only=True),
    Parameter(
        "stamp",
        "timeline",
        "trajectories' stamps: the sound's time, or zero for clocks that differ",
        choices=("timeline", "zero"),
    ),
    message_type_parameter("audio_message_type"),
    Parameter(
        "audio_rate",
        16000,
        "Hz, for audio messages that do not tell it",
        minimum=8000,
        maximum=48000,
        read_only=True,
    ),
    Parameter(
        "audio_channels",
        1,
        "channels, for audio messages that do not tell them",
        minimum=1,
        maximum=255,
        read_only=True,
    ),
    Parameter(
        "audio_encoding",
        "S16LE",
        "encoding, for audio messages that do not tell it",
        read_only=True,
    ),
    Parameter(
        "audio_reliability",
        "auto",
        "QoS of the audio subscriptions; auto: reliable for a queued voice, else best effort",
        choices=("auto", "best_effort", "reliable"),
        read_only=True,
    ),
    *VOICE_PARAMETERS,
    Parameter("autostart", True, "configure and activate without a lifecycle manager", read_only=True),
)
