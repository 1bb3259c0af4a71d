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
QUICK = Thresholds(2.0, 1.0, 0.5, 12.0, 0.04, 0.08)
SURE = Thresholds(12.0, 12.0, 12.0, 40.0, 0.02, 0.04)


class Decision:
    """Speaking or not, decided from log odds by summing up what speaks against the present state.

    The sum (CUSUM) starts at 0 and returns to it when the evidence turns; the state changes when
    the sum is large enough, and the change is set back to where the sum left 0. Silence must also
    have lasted `JOINED_PAUSE_S`.
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

    @property
    def sure_to(self) -> int:
        """The sample up to which no later evidence changes what is decided."""
        if self.doubt_since is not None:
            return self.doubt_since
        limits = self._thresholds
        set_back_s = limits.end_set_back_s if self.speaking else limits.start_set_back_s
        return max(self._judged_to - round(set_back_s * SAMPLE_RATE), self.since)

    def judge(self, end_sample: int, log_odds: float) -> None:
        """Take in the evidence of the chunk that ends there."""
        limits = self._thresholds
        self._judged_to = end_sample
        log_odds = min(max(log_odds, -limits.log_odds_max), limits.log_odds_max)
        against = self._against + (-log_odds if self.speaking else log_odds)
        self._against = min(against, limits.evidence_max)
        if against <= 0.0:
            self._against, self.doubt_since = 0.0, None
            return
        if self.doubt_since is None:
            set_back_s = limits.end_set_back_s if self.speaking else limits.start_set_back_s
            start = end_sample - CHUNK_SAMPLES - round(set_back_s * SAMPLE_RATE)
            self.doubt_since = max(start, self.since)
        if self.speaking:
            pause_s = (end_sample - self.doubt_since) / SAMPLE_RATE
            decided = against >= limits.evidence_to_end and pause_s >= JOINED_PAUSE_S
        else:
            decided = against >= limits.evidence_to_start
        if decided:
            self.speaking = not self.speaking
            self.since, self.doubt_since, self._against = self.doubt_since, None, 0.0


class SpeakingDetector:
    """Whether one party speaks: quickly (`now`), and more surely but later (`sure`).

    The first is for whoever reacts at once; the second for turns, which are set back anyway.
    """

    def __init__(self) -> None:
        self._evidence = SpeechEvidence()
        self.now = Decision(QUICK)
        self.sure = Decision(SURE)
        self.reset()

    def reset(self) -> None:
        """As if new: silent, nothing heard."""
        self._evidence.reset()
        self.now.reset()
        self.sure.reset()
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

    def __call__(self, samples: np.ndarray) -> None:
        """Take in the next samples (float32 [n], 16 kHz mono)."""
        for end_sample, now, then in self._evidence(samples):
            self.probability = 1.0 / (1.0 + math.exp(-now))
            self.now.judge(end_sample - NOW_DELAY_CHUNKS * CHUNK_SAMPLES, now)
            self.sure.judge(end_sample - SURE_DELAY_CHUNKS * CHUNK_SAMPLES, then)
