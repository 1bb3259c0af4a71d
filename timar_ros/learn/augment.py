"""Voices as a robot gets them: level, room, noise, leakage of one voice into the other's channel, gaps."""

from __future__ import annotations

import numpy as np
from scipy.signal import fftconvolve, lfilter

from timar_ros.model.features import CONTEXT_SAMPLES
from timar_ros.rates import FRAME_SAMPLES, SAMPLE_RATE


def degrade(rng: np.random.Generator, voices: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Degrade both voices [2, 240 + 640 frames] at random.

    Returns:
        the voices as received, and [2, frames] bool, False where a voice is missing altogether.
    """
    voices = np.stack([_room(rng, _colour(rng, voice)) for voice in voices])
    voices *= _gain(rng.uniform(-18.0, 6.0, (2, 1)))
    voices = _leak(rng, voices)
    voices = np.stack([voice + _noise(rng, voice) for voice in voices])
    if rng.random() < 0.1:
        voices = voices.clip(*(np.array([-1, 1]) * rng.uniform(0.3, 1.0) * np.abs(voices).max()))
    heard = np.ones((2, frames), bool)
    for party in range(2):
        chance = rng.random()
        if chance < 0.05:
            heard[party] = False
        elif chance < 0.15:
            gap = int(rng.integers(frames))
            heard[party, gap : gap + int(rng.integers(1, 25))] = False
        missing = np.repeat(~heard[party], FRAME_SAMPLES)
        voices[party, CONTEXT_SAMPLES:][missing] = 0.0
    return voices.clip(-1.0, 1.0), heard


def _gain(decibel: float | np.ndarray) -> float | np.ndarray:
    return 10.0 ** (decibel / 20)


def _colour(rng: np.random.Generator, voice: np.ndarray) -> np.ndarray:
    """A microphone's tilt: a gentle first-order slope up or down, and now and then telephone bandwidth."""
    tilt = rng.uniform(-0.6, 0.6)
    voice = lfilter([1.0, tilt], [1.0], voice) / (1 + abs(tilt))
    if rng.random() < 0.1:
        voice = lfilter([0.25, 0.5, 0.25], [1.0], voice)
    return voice


def _room(rng: np.random.Generator, voice: np.ndarray) -> np.ndarray:
    """In a third of the cases, the reverberation of a room of 0.15 to 0.6 s."""
    if rng.random() > 0.33:
        return voice
    length = int(rng.uniform(0.15, 0.6) * SAMPLE_RATE)
    response = rng.standard_normal(length) * 10.0 ** (-3 * np.arange(length) / length)
    response *= _gain(rng.uniform(-12.0, 0.0)) / np.sqrt((response**2).sum())
    response[0] = 1.0
    return fftconvolve(voice, response)[: len(voice)]


def _leak(rng: np.random.Generator, voices: np.ndarray) -> np.ndarray:
    """Each voice in the other's channel at -30 to -8 dB, up to 20 ms late, in half of the cases."""
    leaked = voices.copy()
    for party in range(2):
        if rng.random() < 0.5:
            delay = int(rng.integers(1, 320))
            leaked[party, delay:] += _gain(rng.uniform(-30.0, -8.0)) * voices[1 - party, :-delay]
    return leaked


def _noise(rng: np.random.Generator, voice: np.ndarray) -> np.ndarray:
    """A noise floor always; in half of the cases noise between white and brown, steady or swelling, at 0 to 30 dB."""
    white = rng.standard_normal(len(voice))
    if rng.random() < 0.5:
        return white * _gain(rng.uniform(-95.0, -65.0))
    noise = lfilter([1.0], [1.0, -rng.uniform(0.0, 0.97)], white)
    if rng.random() < 0.5:
        swell = np.interp(np.arange(len(voice)), np.linspace(0, len(voice), 9), rng.uniform(0.2, 1.0, 9))
        noise *= swell
    speech = np.sqrt(np.mean(voice**2)) + 1e-4
    return noise * speech / np.sqrt(np.mean(noise**2)) * _gain(-rng.uniform(0.0, 30.0))
