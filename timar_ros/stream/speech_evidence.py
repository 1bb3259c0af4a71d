"""Log odds that the near voice speaks, every 32 ms: Silero's judgement weighed against what the
channel's background sounds like.

Silero takes babble for speech, as it is. What tells the near voice from it is that it stands out
of its background: in level, in single bands, and for Silero once a steady noise as loud as the
background is added, which masks the babble and leaves the voice. A small recurrent network
trained for that (`timar_ros.learn.speech_evidence_training`) weighs these.
"""

from __future__ import annotations

import math
from collections import deque
from functools import lru_cache
from pathlib import Path

import numpy as np

from timar_ros.errors import TimarError
from timar_ros.rates import SAMPLE_RATE
from timar_ros.stream.voice_activity import CHUNK_SAMPLES, Chunks, SileroModel

CHUNK_S = CHUNK_SAMPLES / SAMPLE_RATE

BACKGROUND_QUANTILE = 0.2
"""The level that a channel stays below for so much of the time is its background's."""
BACKGROUND_MEMORY_S = 12.0
BACKGROUND_PRIOR_S = 0.3
"""A channel counts as silent for so long before it starts."""
MASK_ABOVE_BACKGROUND_DB = 4.0
"""A background's loud moments lie about so much above the quantile."""

BANDS = 10
BAND_RANGE_HZ = (120.0, 6500.0)
FEATURES = 4 + BANDS
CHUNKS_STACKED = 3

NOW_DELAY_CHUNKS = 1
SURE_DELAY_CHUNKS = 5
"""Whether somebody spoke is judged with so much of what came after: at once, and for turns."""

WEIGHTS_FILE = "speech_evidence.npz"


class RunningQuantiles:
    """A quantile of what each of several values was lately: histograms that forget."""

    def __init__(self, values: int, low: float, high: float, bins: int) -> None:
        self._low, self._width, self._bins = low, (high - low) / bins, bins
        self._keep = math.exp(-CHUNK_S / BACKGROUND_MEMORY_S)
        self._rows = np.arange(values)
        self._counts = np.zeros((values, bins))
        self.reset()

    def reset(self) -> None:
        """As if only `low` had been seen, for a short while."""
        self._counts[:] = 0.0
        self._counts[:, 0] = BACKGROUND_PRIOR_S / CHUNK_S

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Take in the values of one chunk; their quantiles now (the middle of a bin)."""
        places = ((values - self._low) / self._width).astype(np.int64)
        self._counts *= self._keep
        self._counts[self._rows, np.clip(places, 0, self._bins - 1)] += 1.0
        below = np.cumsum(self._counts, axis=1)
        places = (below < BACKGROUND_QUANTILE * below[:, -1:]).sum(axis=1)
        return self._low + (places + 0.5) * self._width


class SpeechFeatures:
    """What the network judges, chunk by chunk."""

    def __init__(self) -> None:
        self._silero = SileroModel(streams=2)
        self._level_background = RunningQuantiles(1 + BANDS, -100.0, 0.0, 100)
        self._silero_background = RunningQuantiles(1, -7.0, 7.0, 56)
        self._noise = _steady_noise()
        self._hann = np.hanning(2 * CHUNK_SAMPLES).astype(np.float32)
        self._band_weights = _band_weights()
        self.reset()

    def reset(self) -> None:
        """Forget everything heard, as if new."""
        self._silero.reset_states()
        self._level_background.reset()
        self._silero_background.reset()
        self._recent = np.zeros(2 * CHUNK_SAMPLES, dtype=np.float32)

    def __call__(self, end_sample: int, chunk: np.ndarray) -> np.ndarray:
        """float32 [FEATURES], about in [-1, 3], of the next chunk (float32 [512]).

        Silero's log odds, the same with the background masked, the background's log odds, the
        level above the background's, and that of each band.
        """
        self._recent = np.concatenate([self._recent[CHUNK_SAMPLES:], chunk])
        spectrum = np.fft.rfft(self._recent * self._hann)
        power = spectrum.real**2 + spectrum.imag**2
        levels_db = 10.0 * np.log10(self._band_weights @ power + 1e-10)
        background_db = self._level_background(levels_db)
        above_db = np.clip(levels_db - background_db, -5.0, 20.0)

        gain = np.float32(10.0 ** ((background_db[0] + MASK_ABOVE_BACKGROUND_DB) / 20.0))
        start = (end_sample - CHUNK_SAMPLES) % len(self._noise)
        masked = chunk + gain * self._noise[start : start + CHUNK_SAMPLES]
        probability = self._silero(np.stack([chunk, masked])).astype(np.float64)
        log_odds = np.log((probability + 1e-3) / (1.001 - probability))
        silero_background = self._silero_background(log_odds[:1])
        return np.concatenate([log_odds / 5.0, silero_background / 5.0, above_db / 8.0]).astype(np.float32)


class SpeechEvidence:
    """Log odds of speech for every 32 ms of one voice, from samples cut anyhow."""

    def __init__(self, weights: dict[str, np.ndarray] | None = None) -> None:
        """weights: as `speech_evidence_training.train` gives them; None: those that come along."""
        self._features = SpeechFeatures()
        self._network = RecurrentNetwork(_shipped_weights() if weights is None else weights)
        self.reset()

    def reset(self) -> None:
        """Forget everything heard, as if new."""
        self._features.reset()
        self._network.reset()
        self._chunks = Chunks()

    def __call__(self, samples: np.ndarray) -> list[tuple[int, float, float]]:
        """Of each chunk completed by these samples (float32 [n], 16 kHz mono).

        `(end_sample, log odds now, log odds then)`: of speech `NOW_DELAY_CHUNKS` ago, and, judged
        better, `SURE_DELAY_CHUNKS` ago.
        """
        evidence = []
        for end_sample, chunk in self._chunks(samples):
            now, then = self._network(self._features(end_sample, chunk))
            evidence.append((end_sample, float(now), float(then)))
        return evidence


class RecurrentNetwork:
    """Features of the newest chunks, a gated recurrent unit (Cho et al. 2014), two log odds."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self._weights = weights
        self.reset()

    def reset(self) -> None:
        """Forget all features."""
        self._recent: deque[np.ndarray] = deque(maxlen=CHUNKS_STACKED)
        self._state = np.zeros(len(self._weights["state_weight"]), dtype=np.float32)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Log odds [2] after the next chunk's features [FEATURES]."""
        w, size = self._weights, len(self._state)
        self._recent.extend([features] * (1 if self._recent else CHUNKS_STACKED))
        stacked = np.concatenate(self._recent)
        inputs = np.maximum(stacked @ w["input_weight"] + w["input_bias"], 0.0)
        given = inputs @ w["given_weight"] + w["given_bias"]
        kept = self._state @ w["state_weight"] + w["state_bias"]
        reset, update = np.split(_sigmoid(given[: 2 * size] + kept[: 2 * size]), 2)
        candidate = np.tanh(given[2 * size :] + reset * kept[2 * size :])
        self._state = (1.0 - update) * candidate + update * self._state
        return self._state @ w["out_weight"] + w["out_bias"]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(0.5 * x)


@lru_cache(maxsize=1)
def _shipped_weights() -> dict[str, np.ndarray]:
    path = Path(__file__).with_name(WEIGHTS_FILE)
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise TimarError(
            f"the speech evidence network {path} cannot be read ({error}); expected the file that "
            "comes with timar_ros; install the package again"
        ) from error


@lru_cache(maxsize=1)
def _band_weights() -> np.ndarray:
    """[1 + BANDS, bins]: mean power of the whole range, and of bands of equal width in mel.

    Scaled so that the level is that of the samples' mean square in the range, in dB re 1.
    """
    frequency = np.fft.rfftfreq(2 * CHUNK_SAMPLES, 1.0 / SAMPLE_RATE)
    mel = 2595.0 * np.log10(1.0 + frequency / 700.0)
    low, high = (2595.0 * math.log10(1.0 + hz / 700.0) for hz in BAND_RANGE_HZ)
    band = np.floor((mel - low) / (high - low) * BANDS)
    # A Hann window's mean square is 3/8; each frequency counts twice, as a negative one too.
    scale = 2.0 / (2 * CHUNK_SAMPLES) ** 2 / 0.375
    # Pre-emphasis: the background's bass says little about whether it hides a voice.
    emphasis = np.abs(1.0 - 0.9 * np.exp(-2j * np.pi * frequency / SAMPLE_RATE)) ** 2
    rows = [emphasis * ((band >= 0) & (band < BANDS))]
    rows += [(band == number).astype(float) for number in range(BANDS)]
    return np.stack(rows) * scale


@lru_cache(maxsize=1)
def _steady_noise() -> np.ndarray:
    """Four seconds of noise shaped roughly like speech, level 1 as the bands measure it."""
    noise = np.random.default_rng(0).standard_normal(125 * CHUNK_SAMPLES)
    for place in range(1, len(noise)):
        noise[place] += 0.8 * noise[place - 1]
    spectrum = np.fft.rfft(noise.reshape(-1, CHUNK_SAMPLES)[1:61].reshape(-1, 2 * CHUNK_SAMPLES))
    level = 0.375 * np.mean(_band_weights()[0] @ (np.abs(spectrum) ** 2).T)
    return (noise / math.sqrt(level)).astype(np.float32)
