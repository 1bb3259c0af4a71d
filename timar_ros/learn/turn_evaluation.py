"""How well turns are found: floor boundaries and speaking decisions against known speech.

The truth's floor is computed by `timar_ros.stream.floor.floor_of_speech`, the definition of a turn
that the running segmenter follows too: pauses under 0.24 s joined; a state lasts 0.2 s (one party
alone), 0.4 s (nobody) or 0.6 s (both) to become the floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from timar_ros.rates import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE
from timar_ros.stream.floor import floor_of_speech, joined
from timar_ros.stream.turns import TurnSegmenter

TOLERANCE_S = 0.12
END_DECISION_S = 0.35

Intervals = Sequence[Sequence[float]]


@dataclass
class TurnScores:
    """Counts over dialogues; `a + b` of two scores are the scores of both together."""

    matched: int = 0
    found: int = 0
    true: int = 0
    start_delays_s: list[float] = field(default_factory=list)
    """From each true start of speech to the decision; infinite where it never came."""
    end_delays_s: list[float] = field(default_factory=list)

    def __add__(self, other: TurnScores) -> TurnScores:
        return TurnScores(
            self.matched + other.matched,
            self.found + other.found,
            self.true + other.true,
            self.start_delays_s + other.start_delays_s,
            self.end_delays_s + other.end_delays_s,
        )

    @property
    def precision(self) -> float:
        return self.matched / max(self.found, 1)

    @property
    def recall(self) -> float:
        return self.matched / max(self.true, 1)

    @property
    def f1(self) -> float:
        """Of floor boundaries within ±120 ms."""
        return 2 * self.matched / max(self.found + self.true, 1)

    @property
    def start_delay_p95_s(self) -> float:
        return _p95(self.start_delays_s)

    @property
    def end_delay_p95_s(self) -> float:
        return _p95(self.end_delays_s)

    def __str__(self) -> str:
        return (
            f"F1 {self.f1:.3f} (precision {self.precision:.3f}, recall {self.recall:.3f}, "
            f"{self.true} true boundaries), start decided {self.start_delay_p95_s * 1e3:.0f} ms, "
            f"end {self.end_delay_p95_s * 1e3:.0f} ms (p95)"
        )


def _p95(delays: list[float]) -> float:
    return sorted(delays)[int(np.ceil(0.95 * len(delays))) - 1] if delays else float("nan")


def evaluate_turns(
    own: np.ndarray, partner: np.ndarray, own_speech: Intervals, partner_speech: Intervals
) -> TurnScores:
    """Run a new `TurnSegmenter` over a dialogue and score it.

    own, partner: float32 [n], 16 kHz mono, what is heard.
    own_speech, partner_speech: intervals `(start, end)` in s of true speech.
    """
    segmenter = TurnSegmenter()
    frames = min(len(own), len(partner)) // FRAME_SAMPLES
    found: list[float] = []
    speaking = np.zeros((2, frames), dtype=bool)
    for frame in range(frames):
        part = slice(frame * FRAME_SAMPLES, (frame + 1) * FRAME_SAMPLES)
        update = segmenter.step(own[part], partner[part])
        found += [b.frame * FRAME_S for b in update.boundaries if b.reason == "floor"]
        speaking[:, frame] = update.own_speaking, update.partner_speaking
    end_s = frames * FRAME_S
    # A change less than a second before the end may not be known yet.
    judged_s = end_s - 1.0
    truth = [t for t, _ in floor_of_speech(own_speech, partner_speech, end_s) if 0 < t < judged_s]
    found = [t for t in found if t < judged_s]
    scores = TurnScores(len(match_boundaries(truth, found)), len(found), len(truth))
    for states, intervals in zip(speaking, (own_speech, partner_speech), strict=True):
        starts, ends = decision_delays(states, intervals, judged_s)
        scores.start_delays_s += starts
        scores.end_delays_s += ends
    return scores


def match_boundaries(
    truth: Sequence[float], found: Sequence[float], tolerance_s: float = TOLERANCE_S
) -> list[tuple[float, float]]:
    """Pairs `(true, found)` no further apart than the tolerance, one to one, as many as possible.

    Taking each in order of time with the earliest partner left is optimal for equal tolerances.
    """
    pairs = []
    truth, found = sorted(truth), sorted(found)
    i = j = 0
    while i < len(truth) and j < len(found):
        if abs(truth[i] - found[j]) <= tolerance_s + 1e-9:
            pairs.append((truth[i], found[j]))
            i, j = i + 1, j + 1
        elif truth[i] < found[j]:
            i += 1
        else:
            j += 1
    return pairs


def decision_delays(speaking: np.ndarray, speech: Intervals, judged_s: float) -> tuple[list[float], list[float]]:
    """Delays in s from true starts and ends of speech until the decision says so.

    speaking: bool [frames], the decision after each frame; it holds from the frame's end.
    A start or end counts as decided at once if the decision says so already, and never (infinite)
    if it does not before the true state changes again. Pauses under 0.24 s are no ends; ends
    followed by a pause too short to be told in the time allowed (0.35 s) are left out.
    """
    talk = joined(speech)
    following = [start for start, _ in talk[1:]] + [judged_s]
    starts, ends = [], []
    for (start, end), next_start in zip(talk, following, strict=True):
        if end > judged_s:
            break
        starts.append(_delay(speaking, start, end))
        if next_start - end >= END_DECISION_S:
            ends.append(_delay(~speaking, end, next_start))
    return starts, ends


def _delay(decided: np.ndarray, change_s: float, until_s: float) -> float:
    """From a change to the end of the first frame that ends after it and is decided."""
    first = int(np.ceil(change_s / FRAME_S - 1e-9)) - 1
    for frame in range(max(first, 0), min(int(until_s / FRAME_S) + 1, len(decided))):
        if decided[frame]:
            # Already decided when it happened: no delay.
            return 0.0 if frame == first else (frame + 1) * FRAME_S - change_s
    return float("inf")


def speech_level(samples: np.ndarray, speech: Intervals) -> float:
    """Root mean square of the samples within the intervals of speech: the active level."""
    active = np.concatenate([_within(samples, interval) for interval in speech])
    return float(np.sqrt(np.mean(np.square(active, dtype=np.float64))))


def babble(voices: Sequence[tuple[np.ndarray, Intervals]], samples: int, seed: int) -> np.ndarray:
    """Voices that talk all at once without pauses; float32 [samples], level 1 (root mean square).

    voices: `(samples, intervals of speech in s)` of each voice. Every interval is made equally
    loud: a crowd, whose single voices do not come forward.
    """
    random = np.random.default_rng(seed)
    total = np.zeros(samples)
    for voice, speech in voices:
        spoken = np.concatenate([_level_1(_within(voice, interval)) for interval in speech])
        total += np.resize(np.roll(spoken, int(random.integers(len(spoken)))), samples)
    return _level_1(total)


def music(samples: int, seed: int) -> np.ndarray:
    """A synthesised band: chords with harmonics, bass drum, snare and hi-hat in a steady beat.

    float32 [samples], 16 kHz, level 1 (root mean square), different for every seed.
    """
    random = np.random.default_rng(seed)
    beat = int(60.0 / random.uniform(85.0, 130.0) * SAMPLE_RATE)
    time_s = np.arange(beat) / SAMPLE_RATE
    root_hz = 220.0 * 2.0 ** (random.integers(12) / 12)
    chords = ((0, 4, 7), (9, 12, 16), (5, 9, 12), (7, 11, 14))  # I, vi, IV, V in semitones
    # A bass drum's pitch falls from 130 to 50 Hz; its phase is the integral.
    drum_cycles = 50.0 * time_s + 80.0 / 30.0 * (1.0 - np.exp(-30.0 * time_s))
    bass_drum = np.sin(2 * np.pi * drum_cycles) * np.exp(-14.0 * time_s)
    half = beat // 2
    bars = []
    for number in range(-(-samples // beat)):
        bar = np.zeros(beat)
        for semitone in chords[number // 4 % len(chords)]:
            for harmonic in range(1, 7):
                pitch_hz = root_hz * 2.0 ** (semitone / 12) * harmonic
                phase = random.uniform(0.0, 2 * np.pi)
                bar += np.sin(2 * np.pi * pitch_hz * time_s + phase) / harmonic**1.3
        bar *= 0.25 * np.exp(-1.2 * time_s)
        snare = 0.5 * random.standard_normal(beat) * np.exp(-22.0 * time_s)
        bar += bass_drum if number % 2 == 0 else snare
        hat = 0.2 * random.standard_normal(beat - half) * np.exp(-60.0 * time_s[: beat - half])
        bar[half:] += hat
        bars.append(bar)
    return _level_1(np.concatenate(bars)[:samples])


def with_noise(samples: np.ndarray, speech: Intervals, noise: np.ndarray, snr_db: float = 10.0) -> np.ndarray:
    """Speech with noise of level 1 added, `snr_db` below the speech's active level."""
    gain = speech_level(samples, speech) * 10.0 ** (-snr_db / 20.0)
    return (samples + gain * noise).astype(np.float32)


def _within(samples: np.ndarray, interval: Sequence[float]) -> np.ndarray:
    return samples[int(interval[0] * SAMPLE_RATE) : int(interval[1] * SAMPLE_RATE)]


def _level_1(samples: np.ndarray) -> np.ndarray:
    return (samples / np.sqrt(np.mean(samples**2))).astype(np.float32)
