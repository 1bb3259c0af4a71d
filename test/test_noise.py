"""Noise keyed by frame number and correlated in time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timar_ros.stream.noise import FrameNoise

CORRELATION = np.array([0.0, 2.0, 6.0])


def track(seed: int, frames: range) -> np.ndarray:
    noise = FrameNoise(seed, 5, CORRELATION)
    return np.stack([noise.at(frame) for frame in frames])


@settings(deadline=None, max_examples=30)
@given(st.integers(-(2**63), 2**63), st.integers(0, 10**9))
def test_a_frames_noise_depends_on_seed_and_frame_alone(seed, frame):
    straight = track(seed, range(frame, frame + 4))
    again = FrameNoise(seed, 5, CORRELATION)
    jumping = [again.at(f) for f in (frame + 3, frame)]
    assert np.array_equal(jumping[0], straight[3])
    assert np.array_equal(jumping[1], straight[0])


def test_other_seeds_give_other_noise():
    assert not np.allclose(track(1, range(5)), track(2, range(5)))


def test_every_number_is_standard_normal_and_neighbours_are_alike():
    values = track(1, range(6000)).reshape(6000, -1, 3)
    assert values.std(axis=(0, 1)) == pytest.approx([1, 1, 1], abs=0.06)
    assert values.mean(axis=(0, 1)) == pytest.approx([0, 0, 0], abs=0.08)
    neighbours = (values[1:] * values[:-1]).mean(axis=(0, 1)) / values.var(axis=(0, 1))
    # A Gaussian kernel of sd s gives the autocorrelation exp(-lag² / (4 s²)).
    assert neighbours == pytest.approx([0, np.exp(-1 / 16), np.exp(-1 / 144)], abs=0.03)


def test_draws_are_independent():
    values = track(0, range(4000))[:, :, 1]
    assert np.abs(np.corrcoef(values.T) - np.eye(5)).max() < 0.15
