"""Whether one party speaks, decided with hysteresis and set back to where the change happened."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from timar_ros.rates import SAMPLE_RATE
from timar_ros.stream.floor import JOINED_PAUSE_S
from timar_ros.stream.speech_evidence import (
    NOW_DELAY_CHUNKS,
    SURE_DELAY_CHUNKS,
    SpeechEvidence,
)
from timar_ros.stream.voice_activity import CHUNK_SAMPLES


class Thresholds(NamedTuple):
    """What it takes to decide. Evidence is a sum of log odds over chunks of 32 ms."""

    bias: float
    """Added to the log odds of each chunk."""
    log_odds_max: float
    """The most that one chunk can say."""
    evidence_to_start: float
    evidence_to_end: float
    evidence_max: float
    """The most that is summed up."""
    start_set_back_s: float
    """Where speech starts, before the chunk whose evidence said so first."""
    end_set_back_s: float


# Found by random search on generated dialogues other than the tests'.
QUICK = Thresholds(0.0, 2.0, 1.0, 0.5, 12.0, 0.02, 0.04)
SURE = Thresholds(-0.3, 5.0, 12.0, 12.0, 40.0, 0.0, 0.0)


TOLD_START_LOG_ODDS = -0.3
"""From here on a start is told: one too late costs more than one that is taken back."""
TOLD_REST_CHUNKS = math.ceil(JOINED_PAUSE_S * SAMPLE_RATE / CHUNK_SAMPLES)
"""After an end is told, a start within so many chunks must be likelier than not: what wavers is not told twice."""

CHUNKS_AROUND = 2
"""Before and after the chunk with which evidence of a change begins, to place the change by."""


class Decision:
    """Speaking or not, decided from log odds by summing up what speaks against the present state.

    The sum (CUSUM) starts at 0 and returns to it when the evidence turns; the state changes when
    the sum is large enough, and the change is set back to where it happened: the chunks around the
    one with which the sum left 0 count with their probability, so that the place is finer than a
    chunk. Silence must also have lasted `JOINED_PAUSE_S`.
    """

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self.reset()

    def reset(self) -> None:
        """As if new: silent from sample 0."""
        self.speaking = False
        self.since = 0
        """The sample where the present state began."""
        self.doubt_since: int | None = None
        """The sample where evidence of the other state began that is still too little."""
        self._judged_to = 0
        self._against = 0.0
        self._before = [0.0] * CHUNKS_AROUND
        """Probabilities of speech in the newest chunks."""
        self._still_to_place = 0

    @property
    def sure_to(self) -> int:
        """The sample up to which later evidence hardly changes what is decided."""
        if self.doubt_since is not None:
            return self.doubt_since
        return max(self._judged_to - CHUNK_SAMPLES - self._set_back(), self.since)

    def judge(self, end_sample: int, log_odds: float) -> None:
        """Take in the evidence of the chunk that ends there."""
        limits = self._thresholds
        self._judged_to = end_sample
        log_odds += limits.bias
        probability = 1.0 / (1.0 + math.exp(-min(max(log_odds, -30.0), 30.0)))
        around = [*self._before, probability]
        self._before = around[1:]
        log_odds = min(max(log_odds, -limits.log_odds_max), limits.log_odds_max)
        against = self._against + (-log_odds if self.speaking else log_odds)
        self._against = min(against, limits.evidence_max)
        if against <= 0.0:
            self._against, self.doubt_since = 0.0, None
            return
        if self.doubt_since is None:
            changed = sum(1.0 - p if self.speaking else p for p in around)
            self.doubt_since = max(end_sample - round(CHUNK_SAMPLES * changed) - self._set_back(), self.since)
            self._still_to_place = CHUNKS_AROUND
        elif self._still_to_place:
            unchanged = probability if self.speaking else 1.0 - probability
            self.doubt_since += round(CHUNK_SAMPLES * unchanged)
            self._still_to_place -= 1
        if self.speaking:
            pause_s = (end_sample - self.doubt_since) / SAMPLE_RATE
            decided = against >= limits.evidence_to_end and pause_s >= JOINED_PAUSE_S
        else:
            decided = against >= limits.evidence_to_start
        if decided:
            self.speaking = not self.speaking
            self.since, self.doubt_since, self._against = self.doubt_since, None, 0.0

    def _set_back(self) -> int:
        limits = self._thresholds
        return round((limits.end_set_back_s if self.speaking else limits.start_set_back_s) * SAMPLE_RATE)


class PartySpeaking:
    """Whether one party speaks: as it is told, and for turns, which are set back anyway, decided twice from log odds.

    `sure` decides them, later; `now` is the first sign that it may. What is told comes of a judgement of its own: the
    network has learned how long a pause has to last.
    """

    def __init__(self) -> None:
        self.now = Decision(QUICK)
        self.sure = Decision(SURE)
        self.reset()

    def reset(self) -> None:
        """As if new: silent, nothing heard."""
        self.now.reset()
        self.sure.reset()
        self.told = False
        """For whoever reacts at once; pauses shorter than `JOINED_PAUSE_S` count as speech."""
        self._chunks_since_told = TOLD_REST_CHUNKS
        self.probability = 0.0
        """Of speech in the newest chunks judged; in [0, 1]."""

    @property
    def doubt_since(self) -> int | None:
        """The sample from which `sure` may turn out to have changed; None: no sign of it."""
        if self.sure.doubt_since is not None:
            return self.sure.doubt_since
        if self.now.speaking != self.sure.speaking:
            return max(self.now.since, self.sure.since)
        return self.now.doubt_since

    @property
    def clear(self) -> bool:
        """Whether there is hardly a doubt about the newest chunks."""
        return not 0.02 < self.probability < 0.98

    def judge(self, end_sample: int, now: float, then: float, told: float) -> None:
        """Take in the log odds of `SpeechEvidence` for the chunk that ends there."""
        self._tell(told)
        self.probability = 1.0 / (1.0 + math.exp(-now))
        self.now.judge(end_sample - NOW_DELAY_CHUNKS * CHUNK_SAMPLES, now)
        self.sure.judge(end_sample - SURE_DELAY_CHUNKS * CHUNK_SAMPLES, then)

    def _tell(self, log_odds: float) -> None:
        self._chunks_since_told += 1
        rested = not self.told and self._chunks_since_told >= TOLD_REST_CHUNKS
        told = log_odds > (TOLD_START_LOG_ODDS if rested else 0.0)
        if told != self.told:
            self.told, self._chunks_since_told = told, 0


class SpeakingDetector:
    """Who of the two parties speaks."""

    def __init__(self) -> None:
        self._evidence = SpeechEvidence()
        self.own, self.partner = PartySpeaking(), PartySpeaking()

    def reset(self) -> None:
        """As if new: both silent, nothing heard."""
        self._evidence.reset()
        self.own.reset()
        self.partner.reset()

    def __call__(self, own: np.ndarray, partner: np.ndarray, partner_heard: bool = True) -> None:
        """Take in the next samples of both voices (float32 [n] each, 16 kHz mono)."""
        for end_sample, log_odds in self._evidence(own, partner, partner_heard):
            for party, judged in zip((self.own, self.partner), log_odds.tolist(), strict=True):
                party.judge(end_sample, *judged)
