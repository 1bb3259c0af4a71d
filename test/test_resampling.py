"""Streaming resampling: the right samples at the right places, soon, however packets are cut."""

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from timar_ros.errors import TimarError
from timar_ros.stream.resampling import StreamResampler

RATES = [8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000]


def noise(rate: int, seconds: float, seed: int = 0) -> np.ndarray:
    """White noise, float32 [seconds * rate]."""
    count = round(rate * seconds)
    return (0.1 * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def resample(resampler: StreamResampler, samples: np.ndarray, packet: int) -> np.ndarray:
    parts = [resampler.push(samples[at : at + packet]) for at in range(0, len(samples), packet)]
    return np.concatenate([*parts, resampler.flush()])


@pytest.mark.parametrize("rate", RATES)
def test_equals_soxr_over_the_whole_recording(rate):
    samples = noise(rate, 1.0)
    streamed = resample(StreamResampler(rate), samples, rate // 100)
    whole = soxr.resample(samples, rate, 16_000, quality="MQ")
    assert len(streamed) == 16_000
    inner = slice(200, 15_800)
    assert np.std(streamed[inner] - whole[inner]) < 1e-5 * np.std(whole)


@pytest.mark.parametrize("rate", [*RATES, 44_056, 15_999])
def test_output_k_belongs_to_time_k_over_16000(rate):
    time = np.arange(rate) / rate
    streamed = resample(StreamResampler(rate), np.sin(2 * np.pi * 440 * time).astype("f4"), 441)
    expected = np.sin(2 * np.pi * 440 * np.arange(len(streamed)) / 16_000)
    half_an_input_sample = 2 * np.pi * 440 * 0.5 / rate
    exact = rate in RATES
    limit = 1e-4 if exact else half_an_input_sample
    assert np.abs(streamed - expected)[200:-200].max() < limit


@pytest.mark.parametrize("rate", RATES)
def test_holds_back_10_ms_at_most_and_15_at_low_rates(rate):
    resampler, taken, given_out, held_ms = StreamResampler(rate), 0, 0, []
    packet = rate // 100
    samples = noise(rate, 1.0)
    for at in range(0, len(samples) - packet, packet):
        given_out += len(resampler.push(samples[at : at + packet]))
        taken += packet
        held_ms.append(1000 * (taken / rate - given_out / 16_000))
        assert resampler.held_ns / 1e6 == pytest.approx(held_ms[-1], abs=1e-5)
    assert max(held_ms) <= (10.1 if rate >= 16_000 else 15.1)
    assert min(held_ms) >= 0


def test_16_khz_passes_through_untouched_and_at_once():
    samples, resampler = noise(16_000, 0.1), StreamResampler(16_000)
    assert np.array_equal(resampler.push(samples), samples)
    assert resampler.held_ns == 0


def test_what_lies_above_8_khz_is_gone():
    time = np.arange(48_000) / 48_000
    tone = np.sin(2 * np.pi * 9_000 * time).astype(np.float32)
    out = resample(StreamResampler(48_000), tone, 480)[200:-200]
    assert np.abs(out).max() < 1e-4


@settings(max_examples=40, deadline=None)
@given(
    rate=st.sampled_from([*RATES, 16_000, 44_056]),
    cuts=st.lists(st.integers(0, 3000), min_size=1, max_size=30),
    seed=st.integers(0, 9),
)
def test_same_bits_however_the_input_is_cut(rate, cuts, seed):
    samples = noise(rate, 0.25, seed)
    resampler, parts, at = StreamResampler(rate), [], 0
    for size in cuts:
        parts.append(resampler.push(samples[at : at + size]))
        at += size
    parts += [resampler.push(samples[at:]), resampler.flush()]
    at_once = StreamResampler(rate)
    expected = np.concatenate([at_once.push(samples), at_once.flush()])
    assert np.array_equal(np.concatenate(parts), expected)


def test_after_flush_a_new_recording_starts():
    resampler = StreamResampler(48_000)
    first, second = (resample(resampler, noise(48_000, 0.1), 480) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("rate", [0, 7_999, 48_001])
def test_other_rates_are_refused_with_a_sentence(rate):
    with pytest.raises(TimarError, match="expected 8000 to 48000 Hz"):
        StreamResampler(rate)
