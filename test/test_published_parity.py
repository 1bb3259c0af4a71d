"""The published network against inputs and outputs of the published code, from audio to motion.

The fixture is PREFIX.json (sizes and cases) and PREFIX.safetensors (weights, inputs, outputs); the environment
variable TIMAR_FIXTURE names another PREFIX.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from timar_ros.model.published import FRAMES, MOTION_DIM
from timar_ros.model.published_checkpoint import published_network, speech_config
from timar_ros.stream.published_policy import PublishedSampling, PublishedWindow

PREFIX = os.environ.get("TIMAR_FIXTURE", str(Path(__file__).parent / "data" / "published" / "official_tiny"))
ALLOWED = 1e-4


@pytest.fixture(scope="module")
def fixture():
    tensors = load_file(PREFIX + ".safetensors")
    description = json.loads(Path(PREFIX + ".json").read_text())
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    sizes = description["model"]
    speech = speech_config(description["wav2vec2"])
    network = published_network(weights, speech, sizes["heads"], sizes["num_sampling_steps"])
    return description, tensors, network


CASES = json.loads(Path(PREFIX + ".json").read_text())["cases"]


def say(what: str, difference: float) -> None:
    print(f"\nlargest difference, {what}: {difference:.1e}")


@torch.inference_mode()
def test_speech_and_motion_tokens(fixture):
    _, tensors, network = fixture
    for party in ("user", "agent"):
        tokens = network.speech_tokens(tensors[f"in.{party}_speech"])
        difference = float((tokens - tensors[f"out.{party}_speech_tokens"]).abs().max())
        say(f"{party} speech tokens", difference)
        assert difference < ALLOWED
    tokens = network.motion_encoder(tensors["in.user_motion"])
    assert (tokens - tensors["out.user_motion_tokens"]).abs().max() < ALLOWED


@pytest.mark.parametrize("name", CASES)
def test_z_and_motion_of_every_turn(fixture, name):
    """Turn by turn with cached turns, the window sliding by one turn as the published one does."""
    description, tensors, network = fixture
    case = CASES[name]
    window_turns = case.get("max_context_time", description["model"]["max_context_turns"])
    window = PublishedWindow(
        network,
        torch.device("cpu"),
        PublishedSampling(temperature=case["temperature"], guidance=case["cfg"]),
        window_turns=window_turns,
        kept_turns=window_turns - 1,
        mask_history=case["mask_history_agent"],
    )
    largest = {"z": 0.0, "motion": 0.0}
    for turn in range(len(tensors["in.user_motion"])):
        motion = window.draw(
            {
                "voices": np.stack([tensors[f"in.{party}_speech"][turn] for party in ("user", "agent")]),
                "user_motion": tensors["in.user_motion"][turn].numpy(),
                "agent_motion": np.zeros((FRAMES, MOTION_DIM)),
                "user_heard": np.ones(FRAMES),
                "user_seen": np.ones(FRAMES),
                "agent_given": np.zeros(FRAMES),
                "noise": tensors[f"{name}.noise"][turn, : network.config.sampling_steps].numpy(),
            }
        )
        for what, found in (("z", window.z.numpy()), ("motion", motion)):
            difference = float(np.abs(found - tensors[f"{name}.{what}"][turn].numpy()).max())
            largest[what] = max(largest[what], difference)
        window.close(motion)
    for what, difference in largest.items():
        say(f"case {name}, {what}", difference)
        assert difference < ALLOWED
