"""Log-mel frames: causal, alike however the sound is cut, level kept."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from timar_ros.model.features import CONTEXT_SAMPLES, FEATURES_PER_FRAME, MEL_BANDS, NOISE_FLOOR, log_mel, over_noise
from timar_ros.rates import FRAME_SAMPLES


def noise(frames: int) -> torch.Tensor:
    samples = np.random.default_rng(0).standard_normal(CONTEXT_SAMPLES + frames * FRAME_SAMPLES)
    return torch.from_numpy(0.1 * samples).float()


def test_a_frame_gives_four_spectra_and_the_means_of_the_twelve_frames_before():
    features = log_mel(noise(14))
    assert features.shape == (14, FEATURES_PER_FRAME) and FEATURES_PER_FRAME == (4 + 12) * MEL_BANDS
    own, before = features[:, : 4 * MEL_BANDS].reshape(14, 4, MEL_BANDS), features[:, 4 * MEL_BANDS :]
    assert torch.allclose(before[13].reshape(12, MEL_BANDS), own[1:13].mean(dim=1), atol=1e-5)


@given(st.integers(1, 5), st.integers(1, 5))
def test_frames_do_not_depend_on_what_comes_after_or_on_the_cut(first, second):
    samples = noise(first + second)
    whole = log_mel(samples)
    cut = first * FRAME_SAMPLES
    assert torch.allclose(log_mel(samples[: CONTEXT_SAMPLES + cut]), whole[:first], atol=1e-5)
    assert torch.allclose(log_mel(samples[cut:]), whole[first:], atol=1e-5)


def test_silence_is_finite_and_low_and_level_is_kept():
    silence = log_mel(torch.zeros(CONTEXT_SAMPLES + FRAME_SAMPLES))
    quiet, loud = log_mel(0.1 * noise(1)), log_mel(noise(1))
    assert torch.isfinite(silence).all()
    assert silence.max() < quiet.min() < loud.max()
    assert float((loud - quiet).mean()) == pytest.approx(2 * np.log(10) / 5, rel=0.05)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=6), st.integers(0, 10**9), st.data())
def test_the_noise_under_a_voice_is_faint_the_same_however_it_is_cut_and_only_where_it_is_heard(heard, first, data):
    heard = np.array(heard).T
    frames = heard.shape[1]
    voices = np.random.default_rng(1).standard_normal((2, frames * FRAME_SAMPLES)).astype(np.float32)
    whole, cut = over_noise(voices, heard, first), data.draw(st.integers(1, frames - 1))
    parts = [
        over_noise(
            voices[:, part.start * FRAME_SAMPLES : part.stop * FRAME_SAMPLES], heard[:, part], first + part.start
        )
        for part in (slice(0, cut), slice(cut, frames))
    ]
    assert np.array_equal(np.concatenate(parts, axis=1), whole) and whole.dtype == np.float32
    added = (whole - voices).reshape(2, frames, FRAME_SAMPLES)
    assert not added[~heard].any()
    assert added[heard].std(axis=-1) == pytest.approx(NOISE_FLOOR, rel=0.2)


@pytest.mark.parametrize("hz", [200, 1000, 3000])
def test_a_tone_lights_up_its_band(hz):
    time = torch.arange(CONTEXT_SAMPLES + FRAME_SAMPLES) / 16000
    bands = log_mel(0.3 * torch.sin(2 * np.pi * hz * time))[0].reshape(-1, MEL_BANDS)[:4].mean(0)
    mel = 2595 * np.log10(1 + hz / 700)
    edges = np.linspace(2595 * np.log10(1 + 60 / 700), 2595 * np.log10(1 + 7600 / 700), MEL_BANDS + 2)
    assert abs(int(bands.argmax()) - int(np.abs(edges[1:-1] - mel).argmin())) <= 1
