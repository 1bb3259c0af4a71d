"""What is looked at while a policy trains: its loss on conversations it does not learn from, and a short video."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from timar_ros.learn.dataset import Conversation
from timar_ros.model.checkpoint import Policy
from timar_ros.rates import FRAME_NS, FRAME_SAMPLES
from timar_ros.replay import offline
from timar_ros.replay.recording import Recording, Turn, Voice
from timar_ros.replay.render import render_side_by_side
from timar_ros.stream.policy import IncrementalPolicy

VIDEO_S = 12.0


def write_sample_video(policy: Policy, conversation: Conversation, path: Path) -> None:
    """Party 1 of a conversation as recorded and as the policy moves it, beside each other, with the sound."""
    frames = min(conversation.frames, round(VIDEO_S * 1e9 / FRAME_NS)) // 2 * 2
    voices = conversation.voices[:, : frames * FRAME_SAMPLES] / np.float32(32768)
    heard = offline.hear(*voices)
    drawn = offline.move(IncrementalPolicy(policy, "cpu"), heard)
    changes = [boundary for update in heard.updates for boundary in update.boundaries if boundary.reason == "floor"]
    recording = Recording(
        Path(conversation.name),
        0,
        frames * FRAME_NS,
        voices={party: Voice(0, voice, frames, 0) for party, voice in zip(("self", "partner"), voices, strict=True)},
        turns=[Turn(b.frame, b.frame * FRAME_NS, "floor", b.floor.value) for b in changes],
    )
    motions = {"recorded": conversation.motion[0, :frames].astype(float), "policy": drawn.astype(float)}
    part = path.with_name("part_" + path.name)
    render_side_by_side(recording, motions, part, 0, frames * FRAME_NS / 1e9)
    part.replace(path)
