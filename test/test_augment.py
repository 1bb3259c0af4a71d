"""Sound as a robot gets it: what may happen to it, and what may not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timar_ros.learn.augment import _leak, _rooms, _sounds, degrade
from timar_ros.model.features import CONTEXT_SAMPLES

FRAMES = 50


def voices(level: float = 0.1, frames: int = FRAMES) -> np.ndarray:
    """Two voices that take turns: noise in bursts."""
    rng = np.random.default_rng(0)
    sound = level * rng.standard_normal((2, CONTEXT_SAMPLES + 640 * frames))
    half = sound.shape[1] // 2
    sound[0, half:] = 0.0
    sound[1, :half] = 0.0
    return sound.astype(np.float32)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), level=st.sampled_from([0.0, 1e-6, 0.05, 1.0]), frames=st.integers(1, 120))
def test_sound_stays_sound(seed, level, frames):
    given_voices = voices(level, frames)
    before = given_voices.copy()
    received, heard = degrade(np.random.default_rng(seed), given_voices, frames)
    assert received.shape == given_voices.shape
    assert received.dtype == np.float32
    assert np.isfinite(received).all()
    assert np.abs(received).max() <= 1.0
    assert not received[:, CONTEXT_SAMPLES:].reshape(2, frames, 640)[~heard].any()
    assert np.array_equal(given_voices, before)


def test_the_same_seed_degrades_alike_in_any_process_at_any_time():
    first = degrade(np.random.default_rng(4), voices(), FRAMES)[0]
    _rooms.cache_clear()
    _sounds.cache_clear()
    assert np.array_equal(first, degrade(np.random.default_rng(4), voices(), FRAMES)[0])


def test_a_voice_that_runs_ahead_leaks_when_it_is_heard_and_hears_nobody():
    lead = 3 * 640
    click = np.zeros((2, CONTEXT_SAMPLES + FRAMES * 640), np.float32)
    click[0, 9000] = 1.0
    delays = set()
    for seed in range(40):
        leaked = _leak(np.random.default_rng(seed), click, lead)
        assert np.array_equal(leaked[0], click[0])
        delays |= set((np.flatnonzero(leaked[1]) - 9000).tolist())
    assert delays and min(delays) > lead and max(delays) < lead + 320


@pytest.fixture(scope="module")
def many() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    results = [degrade(rng, voices(), FRAMES) for _ in range(200)]
    return np.stack([r for r, _ in results]), np.stack([h for _, h in results])


def test_background_lies_0_to_30_db_below_speech_or_far_below(many):
    received, heard = many
    # Party 1 is silent in the first half; what is there beyond a leak is background.
    whole = heard.all(axis=(1, 2))
    half = received.shape[2] // 2
    speech = np.sqrt(np.square(received[whole, 0, :half]).mean(axis=1))
    rest = np.sqrt(np.square(received[whole, 1, : half - 2000]).mean(axis=1))
    below = 20 * np.log10(rest / speech + 1e-9)
    assert 0.4 < np.mean(below > -32) < 0.95  # background, leak or both
    assert np.mean(below > -6) < 0.25
    assert np.mean(below < -35) > 0.1  # a quiet room


def test_packets_are_lost_and_streams_are_missing_now_and_then(many):
    received, heard = many
    assert 0.05 < np.mean(~heard.all(axis=(1, 2))) < 0.4
    gaps = []
    for voice, present in zip(received[:, 0], heard[:, 0], strict=True):
        silent = (voice[CONTEXT_SAMPLES:] == 0.0).reshape(-1, 160)[np.repeat(present, 4)].all(axis=1)
        gaps.append(silent.mean() if len(silent) else 0.0)
    gaps = np.array(gaps)
    assert 0.03 < np.mean(gaps > 0.005) < 0.2
    assert gaps.max() < 0.25


def test_one_voice_leaks_into_the_others_channel():
    leaks = []
    for seed in range(60):
        received, heard = degrade(np.random.default_rng(seed), voices(0.2), FRAMES)
        if heard.all():
            half = received.shape[1] // 2
            spectra = np.fft.rfft(received[:, :half])
            shifts = np.fft.irfft(spectra[1] * np.conj(spectra[0]))[:400]
            leaks.append(np.abs(shifts).max() / np.sqrt(np.square(received[0, :half]).sum() ** 2))
    assert 0.3 < np.mean(np.array(leaks) > 0.02) < 0.75


def test_rooms_ring_behind_the_direct_sound():
    assert len(_rooms()) > 10
    for room in _rooms():
        assert room[0] == 1.0
        assert np.abs(room[1:]).max() < 1.0
        quarter = len(room) // 4
        assert np.square(room[-quarter:]).sum() < 0.05 * np.square(room[:quarter]).sum()


def test_backgrounds_differ():
    powers = []
    for sound in _sounds():
        assert np.square(sound).mean() == pytest.approx(1.0, rel=1e-3)
        power = np.abs(np.fft.rfft(sound)) ** 2
        bands = [power[a:b].sum() for a, b in ((0, 6000), (6000, 20000), (20000, 60000), (60000, 160001))]
        powers.append(np.array(bands) / power.sum())
    distance = np.abs(np.array(powers)[:, None] - np.array(powers)).sum(axis=-1)
    assert np.count_nonzero(distance > 0.1) > 0.7 * distance.size
