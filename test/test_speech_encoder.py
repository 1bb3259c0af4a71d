"""The speech encoder: the same however a voice is cut, deaf to what comes later, and taught to tell mouths."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from timar_ros.channels import CHANNELS
from timar_ros.errors import TimarError
from timar_ros.learn.dataset import Conversation
from timar_ros.learn.recipe import Recipe
from timar_ros.learn.speech_teaching import MouthReading, teach
from timar_ros.model.features import CONTEXT_SAMPLES, FEATURES_PER_FRAME
from timar_ros.model.speech_encoder import DILATIONS, SpeechEncoder

FRAMES = 60
REACH = 2 * sum(DILATIONS)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return SpeechEncoder(32).requires_grad_(False)


def features(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, FRAMES, FEATURES_PER_FRAME, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None)
@given(cuts=st.sets(st.integers(1, FRAMES - 1)))
def test_a_voice_is_heard_alike_however_it_is_cut(encoder, cuts):
    whole, _ = encoder(features())
    parts, kept = [], None
    for first, last in pairwise([0, *sorted(cuts), FRAMES]):
        part, kept = encoder(features()[:, first:last], kept)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_the_features_go_through_and_what_is_heard_stands_behind_them(encoder):
    heard, _ = encoder(features())
    assert heard.shape == (2, FRAMES, FEATURES_PER_FRAME + 32)
    assert torch.equal(heard[..., :FEATURES_PER_FRAME], features())


@pytest.mark.parametrize("changed", [0, 30])
def test_a_frame_is_heard_from_its_own_time_on_for_1_3_s_and_in_its_own_voice(encoder, changed):
    other = features()
    other[0, changed] += 1.0
    moved = (encoder(features())[0] - encoder(other)[0])[..., FEATURES_PER_FRAME:].abs().amax(dim=-1) > 1e-7
    assert not moved[1].any()
    at = torch.nonzero(moved[0])[:, 0]
    assert at.min() == changed and at.max() <= changed + REACH and REACH == 32


def conversations() -> list[Conversation]:
    """Noise that is loud for a second and silent for another, and jaws that are open where it is loud."""
    found = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        loud = np.repeat(rng.random((2, 20)) < 0.5, 25, axis=1)
        voices = 3000 * np.repeat(loud, 640, axis=1) * rng.standard_normal((2, 20 * 16_000))
        motion = np.zeros((2, 500, len(CHANNELS)), np.float32)
        motion[..., CHANNELS.index("jawOpen")] = 0.5 * loud
        none = np.zeros((2, 500), np.int64)
        known = np.array([name == "jawOpen" for name in CHANNELS])
        starts = np.arange(0, 500, 25)
        found.append(Conversation(str(seed), voices.astype(np.int16), motion, known, starts, none, none > 0))
    return found


def test_teaching_lets_the_mouth_be_told_from_what_is_heard_and_goes_on_where_it_stopped(tmp_path):
    recipe, data = Recipe(speech_steps=40, batch=2), conversations()
    taught = []
    for run, stops in (("straight", [None]), ("broken", [15, None])):
        torch.manual_seed(1)
        encoder = SpeechEncoder(32)
        for stop in stops:
            teach(encoder, data, recipe, tmp_path / f"{run}.pt", stop)
        assert not any(weight.requires_grad for weight in encoder.parameters())
        taught.append(encoder.state_dict())
    assert all(torch.equal(taught[0][name], taught[1][name]) for name in taught[0])

    reading = MouthReading(SpeechEncoder(32), data)
    reading.load_state_dict(torch.load(tmp_path / "straight.pt", weights_only=True)["reading"])
    voices = np.pad(data[0].voices / np.float32(32768), ((0, 0), (CONTEXT_SAMPLES, 0)))
    with torch.no_grad():
        error = reading(torch.from_numpy(voices), torch.from_numpy(data[0].motion))
    assert error < 0.5  # 1: the mean mouth

    with pytest.raises(TimarError, match="other settings"):
        teach(SpeechEncoder(32), data, Recipe(speech_steps=41, batch=2), tmp_path / "straight.pt")
