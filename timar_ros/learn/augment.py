"""Voices as a robot gets them: level, colour, room, leakage, noise and music, clipping, lost packets, a missing stream.

Rooms, noise and music are made once a process and drawn from then on, in float32, so that a training step does not wait
for them.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from scipy.signal import lfilter

from timar_ros.learn.rooms import Room, impulse_response
from timar_ros.model.features import CONTEXT_SAMPLES
from timar_ros.rates import FRAME_SAMPLES, SAMPLE_RATE

_ROOMS = 24
_EARLY_S = 0.03  # reflections up to here are those of a shoebox, the tail behind them is noise that dies away
_DIRECT = 20
_BACKGROUND_S = 20
_QUIET = 1e-4  # rms below which a voice is no measure for noise
_PACKET_S = (0.01, 0.02, 0.04)


def degrade(rng: np.random.Generator, voices: np.ndarray, frames: int, lead: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Degrade both voices [2, CONTEXT_SAMPLES + 640 frames] at random.

    Args:
        lead: by how many samples the first voice runs ahead of when it is heard: that of a synthesiser, not of a
            microphone.

    Returns:
        the voices as received, float32, and [2, frames] bool, False where a voice is missing altogether. A lost packet
        is shorter than a frame or a little longer; it is heard as a gap of silence.
    """
    voices = np.stack([_through(rng, voice) for voice in voices.astype(np.float32)])
    voices *= _gain(rng.uniform(-18.0, 6.0, (2, 1)))
    voices = _leak(rng, voices, lead)
    # The louder of the two: a room is not quieter because nobody speaks in it.
    speech = max(float(np.sqrt(np.square(voices).mean(axis=1)).max()), _QUIET)
    voices = np.stack([voice + _background(rng, len(voice), speech) for voice in voices])
    if rng.random() < 0.1:
        most = np.float32(rng.uniform(0.3, 1.0) * np.abs(voices).max())
        voices = voices.clip(-most, most)
    heard = np.ones((2, frames), bool)
    for party in range(2):
        if rng.random() < 0.1:
            _lose_packets(rng, voices[party])
        chance = rng.random()
        if chance < 0.05:
            heard[party] = False
        elif chance < 0.15:
            gap = int(rng.integers(frames))
            heard[party, gap : gap + int(rng.integers(1, 25))] = False
        missing = np.repeat(~heard[party], FRAME_SAMPLES)
        voices[party, CONTEXT_SAMPLES:][missing] = 0.0
    return voices.clip(-1.0, 1.0), heard


def prepare_sounds() -> None:
    """Make rooms, noise and music now, and not when the first voice is degraded."""
    _rooms()
    _sounds()


def _gain(decibel: float | np.ndarray) -> np.float32 | np.ndarray:
    return np.float32(10.0) ** np.float32(np.asarray(decibel) / 20)


def _through(rng: np.random.Generator, voice: np.ndarray) -> np.ndarray:
    """A microphone's tilt, a gentle slope of first order up or down; in a third of the cases a room, now and then
    telephone bandwidth (300 to 3400 Hz)."""
    tilt = np.float32(rng.uniform(-0.6, 0.6))
    tilted = voice / (1 + abs(tilt))
    tilted[1:] += tilt / (1 + abs(tilt)) * voice[:-1]
    room = _rooms()[rng.integers(_ROOMS)] if rng.random() < 0.33 else None
    telephone = rng.random() < 0.1
    if room is None and not telephone:
        return tilted
    size = next_fast_len(len(voice) + (0 if room is None else len(room)), real=True)
    spectrum = rfft(tilted, size)
    if room is not None:
        wet = np.array(room)
        wet[1:] *= _gain(rng.uniform(-12.0, 0.0))  # nearer to the microphone or farther
        spectrum *= rfft(wet, size)
    if telephone:
        hertz = rfftfreq(size, 1 / SAMPLE_RATE)
        spectrum *= (1 / (1 + (300 / (hertz + 1)) ** 4 + (hertz / 3400) ** 8)).astype(np.float32)
    return irfft(spectrum, size)[: len(voice)]


@cache
def _rooms() -> list[np.ndarray]:
    """Impulse responses from the direct sound on, its level 1; float32, 0.15 to 0.6 s to -60 dB."""
    rng = np.random.default_rng(1)
    rooms = []
    for _ in range(_ROOMS):
        size = rng.uniform((2.5, 2.5, 2.3), (8.0, 6.0, 3.5))
        seconds = rng.uniform(0.15, 0.6)
        microphone = size * rng.uniform(0.25, 0.75, 3)
        away = rng.standard_normal(3)
        talker = np.clip(microphone + rng.uniform(0.4, 2.5) * away / np.linalg.norm(away), 0.2, size - 0.2)
        flight = np.linalg.norm(talker - microphone) / 343.0
        room = Room("drawn", tuple(size), seconds, tuple(microphone), tuple(microphone), tuple(talker))
        early = impulse_response(room, room.talker, longest_s=flight + _EARLY_S)[round(flight * SAMPLE_RATE) :]
        early[:_DIRECT] = np.eye(1, _DIRECT)  # the direct sound, without its band limit
        time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        tail = rng.standard_normal(len(time)) * 10.0 ** (-3 * time / seconds) * (time >= _EARLY_S)
        # As loud where it begins as the reflections that it follows.
        rms = np.sqrt(np.square(early[len(early) // 3 :]).mean())
        tail *= rms / max(10.0 ** (-3 * _EARLY_S / seconds), 1e-6)
        tail[: len(early)] += early[: len(tail)]
        rooms.append(tail.astype(np.float32))
    return rooms


def _leak(rng: np.random.Generator, voices: np.ndarray, lead: int) -> np.ndarray:
    """Each voice in the other's channel at -30 to -8 dB, up to 20 ms late, in half of the cases.

    A voice that runs ahead comes out of a loudspeaker: it leaks when it is heard, and hears nobody itself.
    """
    leaked = voices.copy()
    for party in (1,) if lead else (0, 1):
        if rng.random() < 0.5:
            delay = lead + int(rng.integers(1, 320))
            leaked[party, delay:] += _gain(rng.uniform(-30.0, -8.0)) * voices[1 - party, :-delay]
    return leaked


def _background(rng: np.random.Generator, count: int, speech: float) -> np.ndarray:
    """A noise floor always; in half of the cases noise or music as well, steady or swelling, 0 to 30 dB below `speech`
    (rms). float32 [count]."""
    sounds = _sounds()
    floor = _piece(rng, sounds[0], count) * _gain(rng.uniform(-95.0, -65.0))
    if rng.random() < 0.5:
        return floor
    sound = _piece(rng, sounds[rng.integers(len(sounds))], count)
    if rng.random() < 0.5:
        swell = np.interp(np.arange(count), np.linspace(0, count, 9), rng.uniform(0.2, 1.0, 9))
        sound = sound * swell.astype(np.float32)
    level = np.sqrt(np.square(sound).mean()) + np.float32(1e-6)
    return floor + sound * (np.float32(speech) / level * _gain(-rng.uniform(0.0, 30.0)))


def _piece(rng: np.random.Generator, sound: np.ndarray, count: int) -> np.ndarray:
    """`count` samples of an endless sound from anywhere on."""
    start = int(rng.integers(len(sound)))
    if start + count <= len(sound):
        return sound[start : start + count]
    return np.resize(np.roll(sound, -start), count)


@cache
def _sounds() -> list[np.ndarray]:
    """Twenty seconds each, rms 1, float32: white noise first, pink, brown, a fan's hum, chatter, three pieces of music.

    They are drawn from a fixed seed, so that a run that is resumed hears the same.
    """
    rng = np.random.default_rng(2)
    count = _BACKGROUND_S * SAMPLE_RATE
    white = rng.standard_normal((5, count))
    hertz = rfftfreq(count, 1 / SAMPLE_RATE)
    sounds = [white[0]]
    sounds += [irfft(rfft(white[k]) / np.maximum(hertz, 40.0) ** slope, count) for k, slope in ((1, 0.5), (2, 1.0))]
    time = np.arange(count) / SAMPLE_RATE
    hum = sum(np.sin(2 * np.pi * 100 * k * time + k) / k for k in range(1, 8))
    sounds.append(hum / hum.std() + 2 * irfft(rfft(white[3]) / np.maximum(hertz, 200.0), count) * 200)
    sounds.append(_chatter(rng, white[4]))
    sounds += [_music(rng, count) for _ in range(3)]
    return [(sound / (np.sqrt(np.square(sound).mean()) + 1e-9)).astype(np.float32) for sound in sounds]


def _chatter(rng: np.random.Generator, noise: np.ndarray) -> np.ndarray:
    """Many people at once: noise with speech's slope, in six bands that rise and fall as syllables do."""
    count = len(noise)
    spectrum, hertz = rfft(noise), rfftfreq(count, 1 / SAMPLE_RATE)
    total = np.zeros(count)
    for low, high in ((100, 300), (300, 700), (700, 1200), (1200, 2000), (2000, 3500), (3500, 6000)):
        band = irfft(spectrum * ((hertz >= low) & (hertz < high)) / np.maximum(hertz, 500.0), count)
        knots = rng.uniform(0.1, 1.0, 5 * _BACKGROUND_S)
        total += band * np.interp(np.arange(count), np.linspace(0, count, len(knots)), knots)
    return total


def _music(rng: np.random.Generator, count: int) -> np.ndarray:
    """Four chords over and over, a bass, a tune in their scale, and a drum of noise on the beat."""
    beat = 60.0 / rng.uniform(70.0, 140.0)
    key = 220.0 * 2 ** rng.uniform(-0.5, 0.5)
    brightness = rng.uniform(0.8, 2.0)
    chords = ((0, 4, 7), (9, 12, 16), (5, 9, 12), (7, 11, 14))
    sound = np.zeros(count)

    def note(start_s: float, semitones: float, seconds: float, level: float) -> None:
        first = round(start_s * SAMPLE_RATE)
        time = np.arange(min(round(seconds * SAMPLE_RATE), count - first)) / SAMPLE_RATE
        pitch = key * 2 ** (semitones / 12)
        tone = sum(np.sin(2 * np.pi * k * pitch * time) / k**brightness for k in range(1, 7) if k * pitch < 7000)
        sound[first : first + len(time)] += level * tone * np.exp(-3 * time / seconds) * np.minimum(1, time / 0.01)

    for index, start in enumerate(np.arange(0.0, count / SAMPLE_RATE - beat, beat)):
        chord = chords[index // 4 % 4]
        if index % 2 == 0:
            for semitones in chord:
                note(start, semitones, 2 * beat, 0.4)
        note(start, chord[0] - 24, beat, 0.8)
        note(start + beat / 2 * rng.integers(2), chord[rng.integers(3)] + 12, beat / 2, 0.7)
        hit = round(start * SAMPLE_RATE)
        burst = rng.standard_normal(min(1600, count - hit)) * np.exp(-np.arange(min(1600, count - hit)) / 300)
        sound[hit : hit + len(burst)] += 0.4 * lfilter([1.0], [1.0, -0.5 * (index % 2)], burst)
    return sound


def _lose_packets(rng: np.random.Generator, voice: np.ndarray) -> None:
    """Silences 1 to 10 % of a voice's packets of 10, 20 or 40 ms, in place."""
    size = int(rng.choice(_PACKET_S) * SAMPLE_RATE)
    packets = len(voice) // size
    for lost in np.flatnonzero(rng.random(packets) < rng.uniform(0.01, 0.1)):
        voice[lost * size : (lost + 1) * size] = 0.0
