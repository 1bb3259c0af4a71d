"""Log odds that the near voice speaks, every 32 ms: Silero's judgement weighed against what the
channel's background sounds like.

Silero takes babble for speech, as it is. What tells the near voice from it is that it stands out
of its background: in level, in single bands, and for Silero once a steady noise as loud as the
background is added, which masks the babble and leaves the voice. A small recurrent network
trained for that (`timar_ros.learn.speech_evidence_training`) weighs these.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np

from timar_ros.errors import TimarError
from timar_ros.rates import SAMPLE_RATE
from timar_ros.stream.voice_activity import CHUNK_SAMPLES, SILERO_STATE, Chunks, SileroModel

CHUNK_S = CHUNK_SAMPLES / SAMPLE_RATE

BACKGROUND_QUANTILE = 0.2
"""The level that a channel stays below for so much of the time is its background's."""
BACKGROUND_MEMORY_S = 12.0
BACKGROUND_PRIOR_S = 0.3
"""A channel counts as silent for so long before it starts."""
LOUD_QUANTILE = 0.9
MASK_ABOVE_BACKGROUND_DB = 4.0
"""A background's loud moments lie about so much above the quantile."""

BANDS = 24
BAND_RANGE_HZ = (120.0, 6500.0)
PITCH_RANGE_HZ = (70.0, 350.0)
FEATURES = 7 + BANDS + 2 * SILERO_STATE

NOW_DELAY_CHUNKS = 1
SURE_DELAY_CHUNKS = 7
"""Whether somebody spoke is judged with so much of what came after: at once, and for turns."""
TOLD_START_S, TOLD_END_S = 0.11, 0.26
"""A party is to be told to speak from so long after a start of speech until so long after an end.

An end that comes any sooner would be told of a pause which `floor.JOINED_PAUSE_S` joins.
"""

WEIGHTS_FILE = "speech_evidence.npz"


class RunningQuantiles:
    """Quantiles of what each of several values was lately: histograms that forget."""

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

    def take(self, values: np.ndarray, known: np.ndarray | None = None) -> None:
        """Take in the values of one chunk; where they are not known (bool [values]) nothing is learned or forgotten."""
        places = _within(((values - self._low) / self._width).astype(np.int64), 0, self._bins - 1)
        keep, rows = self._keep, self._rows
        if known is not None:
            keep, rows = np.where(known, keep, 1.0)[:, None], rows[known]
        self._counts *= keep
        self._counts[rows, places[rows]] += 1.0

    def at(self, *quantiles: float) -> np.ndarray:
        """Those quantiles [quantiles, values] of each value now: the middles of bins."""
        below = np.cumsum(self._counts, axis=1)
        places = [(below >= quantile * below[:, -1:]).argmax(axis=1) for quantile in quantiles]
        return self._low + (np.array(places) + 0.5) * self._width


class SpeechFeatures:
    """What the network judges, chunk by chunk, of several voices side by side."""

    def __init__(self, voices: int = 1) -> None:
        self._voices = voices
        self._silero = SileroModel(streams=2 * voices)
        self._levels = RunningQuantiles(voices * (1 + BANDS), -100.0, 0.0, 100)
        self._judgements = RunningQuantiles(voices, -7.0, 7.0, 56)
        self._noise = _steady_noise()
        self._hann = np.hanning(2 * CHUNK_SAMPLES).astype(np.float32)
        self._band_weights = _band_weights().T.copy()
        self.reset()

    def reset(self) -> None:
        """Forget everything heard, as if new."""
        self._silero.reset_states()
        for quantiles in (self._levels, self._judgements):
            quantiles.reset()
        self._recent = np.zeros((self._voices, 2 * CHUNK_SAMPLES), dtype=np.float32)

    def begin(self, voice: int) -> None:
        """One voice begins here; what its background was taken for stays."""
        self._silero.reset_states([voice, self._voices + voice])

    def __call__(self, end_sample: int, chunks: np.ndarray, heard: np.ndarray | None = None) -> np.ndarray:
        """float32 [voices, FEATURES], about in [-1, 3], of the next chunks (float32 [voices, 512]).

        Of voices that are not `heard` (bool [voices]; None: all are) silence stands in, which is no background.

        Silero's log odds, the same with the background masked, the background's log odds, the
        level above the background's, the loud moments' level above it, how periodic the sound is
        and with what pitch, the level of each band above its background; Silero's state for both.
        """
        self._recent = np.concatenate([self._recent[:, CHUNK_SAMPLES:], chunks], axis=1)
        spectrum = np.fft.rfft(self._recent * self._hann)
        power = spectrum.real**2 + spectrum.imag**2
        levels_db = 10.0 * np.log10(power @ self._band_weights + 1e-10)
        self._levels.take(levels_db.ravel(), None if heard is None else np.repeat(heard, levels_db.shape[1]))
        backgrounds_db, loud_db = self._levels.at(BACKGROUND_QUANTILE, LOUD_QUANTILE).reshape(2, *levels_db.shape)
        above_db = _within(levels_db - backgrounds_db, -5.0, 20.0) / 8.0
        background_db = backgrounds_db[:, 0]

        gains = (10.0 ** ((background_db + MASK_ABOVE_BACKGROUND_DB) / 20.0)).astype(np.float32)
        start = (end_sample - CHUNK_SAMPLES) % len(self._noise)
        masked = chunks + gains[:, None] * self._noise[start : start + CHUNK_SAMPLES]
        probability = self._silero(np.concatenate([chunks, masked])).astype(np.float64)
        log_odds = np.log((probability + 1e-3) / (1.001 - probability)).reshape(2, self._voices)
        self._judgements.take(log_odds[0], heard)
        (silero_background,) = self._judgements.at(BACKGROUND_QUANTILE)
        columns = [*(log_odds / 5.0), silero_background / 5.0, above_db[:, 0]]
        columns += [_within(loud_db[:, 0] - background_db, 0.0, 40.0) / 16.0, *_periodicity(power)]
        hidden = self._silero.hidden.reshape(2, self._voices, SILERO_STATE)
        return np.concatenate([np.stack(columns, axis=1), above_db[:, 1:], *hidden], axis=1).astype(np.float32)


def _within(values: np.ndarray, least: float, most: float) -> np.ndarray:
    """np.clip, whose own checks take longer than these few numbers."""
    return np.minimum(np.maximum(values, least), most)


def _periodicity(power: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How periodic a sound is (0 to about 1), and log2 of its pitch in 150 Hz; each [voices].

    power: spectra [voices, 513] of Hann windows. The highest peak of the autocorrelation of the
    compressed spectrum (Tolonen & Karjalainen 2000) below 2 kHz, where voices are periodic.
    """
    width = 2 * CHUNK_SAMPLES / SAMPLE_RATE
    voiced = slice(math.ceil(80 * width), math.floor(2000 * width) + 1)
    compressed = np.zeros_like(power)
    compressed[:, voiced] = power[:, voiced] ** 0.33
    correlation = np.fft.irfft(compressed, 2 * CHUNK_SAMPLES)
    shortest, longest = (round(SAMPLE_RATE / hz) for hz in reversed(PITCH_RANGE_HZ))
    within = correlation[:, shortest : longest + 1]
    lag = within.argmax(axis=1)
    peak = within[np.arange(len(lag)), lag] / (correlation[:, 0] + 1e-10)
    return peak, np.log2(SAMPLE_RATE / (lag + shortest) / 150.0)


class SpeechEvidence:
    """Log odds of speech for every 32 ms of both parties' voices, from samples cut anyhow."""

    def __init__(self, weights: dict[str, np.ndarray] | None = None) -> None:
        """weights: as `speech_evidence_training.train` gives them; None: those that come along."""
        self._features = SpeechFeatures(2)
        self._network = EvidenceNetwork(_shipped_weights() if weights is None else weights)
        self.reset()

    def reset(self) -> None:
        """Forget everything heard, as if new."""
        self._features.reset()
        self._network.reset()
        self._chunks = Chunks(), Chunks()
        self._partner_came = self._partner_heard = False

    def __call__(
        self, own: np.ndarray, partner: np.ndarray, partner_heard: bool = True
    ) -> list[tuple[int, np.ndarray]]:
        """Of each chunk completed by these samples of both voices (float32 [n] each, 16 kHz mono).

        `(end_sample, log odds [2, 3])`, of the own party and the partner: of speech `NOW_DELAY_CHUNKS`
        ago; judged better, `SURE_DELAY_CHUNKS` ago; and that the party is to be told to speak.

        Where the partner is not heard, silence that stands in is not taken for the background: all that comes after
        would stand out of it. Of the own voice it is what a synthesiser sends between sentences.
        """
        chunks = (cut(samples) for cut, samples in zip(self._chunks, (own, partner), strict=True))
        known = partner_heard or self._partner_heard  # the chunk begins in the samples before
        self._partner_heard = partner_heard
        self._partner_came = self._partner_came or partner_heard
        heard = None if known else np.array([True, False])
        evidence = []
        for (end_sample, own_chunk), (_, partner_chunk) in zip(*chunks, strict=True):
            features = self._features(end_sample, np.stack([own_chunk, partner_chunk]), heard)
            evidence.append((end_sample, self._network(*features)))
            if not self._partner_came:
                self._features.begin(1)
                self._network.begin(1)
        return evidence


class EvidenceNetwork:
    """What both parties' features say about each: two layers of gated recurrent units (Cho et al. 2014).

    The first hears one party; the second, the same for both, knows what the first made of either: who
    talks seldom does so out of nothing, and what one says leaks into the other's microphone.
    """

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self._weights = weights
        self._alone, self._both = (GatedRecurrentUnit(weights, name, rows=2) for name in ("alone", "both"))

    def reset(self) -> None:
        """Forget all features."""
        self._alone.reset()
        self._both.reset()

    def begin(self, party: int) -> None:
        """Forget the features of one party (0: own, 1: partner)."""
        self._alone.begin(party)
        self._both.begin(party)

    def __call__(self, own: np.ndarray, partner: np.ndarray) -> np.ndarray:
        """Log odds [2 parties, 3] after the next chunk's features [FEATURES] of each."""
        w = self._weights
        inputs = np.maximum(np.stack([own, partner]) @ w["input_weight"] + w["input_bias"], 0.0)
        alone = self._alone(inputs)
        judged = self._both(np.concatenate([alone, alone[::-1]], axis=1))
        return judged @ w["out_weight"] + w["out_bias"]


class GatedRecurrentUnit:
    """One layer with the states of several streams side by side, as torch.nn.GRU computes it."""

    def __init__(self, weights: dict[str, np.ndarray], name: str, rows: int) -> None:
        """name: before which `_given_weight` and the others are found in `weights`. rows: streams."""
        self._given, self._given_bias, self._kept, self._kept_bias = (
            weights[f"{name}_{part}"] for part in ("given_weight", "given_bias", "state_weight", "state_bias")
        )
        self._rows = rows
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._state = np.zeros((self._rows, len(self._kept)), dtype=np.float32)

    def begin(self, row: int) -> None:
        """Forget what one stream was given."""
        self._state[row] = 0.0

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """The states [rows, units] after the next inputs of each row."""
        size = self._state.shape[1]
        given = inputs @ self._given + self._given_bias
        kept = self._state @ self._kept + self._kept_bias
        gates = _sigmoid(given[:, : 2 * size] + kept[:, : 2 * size])
        reset, update = gates[:, :size], gates[:, size:]
        candidate = np.tanh(given[:, 2 * size :] + reset * kept[:, 2 * size :])
        self._state = (1.0 - update) * candidate + update * self._state
        return self._state


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
