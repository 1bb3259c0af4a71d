"""The background of a channel in which somebody nearly always speaks, and noise that sounds like it."""

from __future__ import annotations

from collections import deque

import numpy as np
from scipy.linalg import solve_toeplitz
from scipy.signal import lfilter

from timar_ros.stream.echo_filter import BLOCK, SILENCE


class Background:
    """What the partner's channel sounds like when nobody speaks: power and spectrum, learned from its quiet blocks.

    Attributes:
        power: mean square.
    """

    QUANTILE = 0.1
    KNOWN_BLOCKS = 200
    """Until so many were heard the quantile is a smaller one, at first the quietest block: the rest may all be echo."""
    QUIET = 2.0
    """Times the quantile's power: blocks up to that are background."""
    MEMORY_BLOCKS = 600
    ORDER = 16
    LEARN = 0.04

    def __init__(self) -> None:
        self._powers: deque[float] = deque(maxlen=self.MEMORY_BLOCKS)
        self._seen = self._learned = 0
        self._limit = 0.0
        self._correlation = np.zeros(self.ORDER + 1)
        self._random = np.random.default_rng(1)
        self._colour = np.zeros(self.ORDER)  # of the noise made last: the prediction's coefficients
        self._strength = 0.0
        self._state = np.zeros(self.ORDER)

    @property
    def power(self) -> float:
        return max(float(self._correlation[0]), SILENCE)

    def learn(self, samples: np.ndarray) -> None:
        """Take in a block [320] of the channel, whatever it holds."""
        power = float(np.square(samples).mean())
        self._powers.append(power)
        self._seen += 1
        now = self._seen < 10 or self._seen % 10 == 0
        if now:
            quantile = self.QUANTILE * min(1.0, self._seen / self.KNOWN_BLOCKS)
            self._limit = self.QUIET * float(np.quantile(self._powers, quantile))
            if self._limit < self._correlation[0]:
                self._learned = 0  # from what was no background
        if power <= self._limit:
            self._learned += 1
            correlation = np.correlate(samples, samples, "full")[BLOCK - 1 : BLOCK + self.ORDER] / BLOCK
            self._correlation += max(self.LEARN, 1 / self._learned) * (correlation - self._correlation)
        if now:
            self._model()

    def _model(self) -> None:
        """Linear prediction of the background, with a floor 40 dB below that keeps it well conditioned."""
        column = self._correlation[: self.ORDER].copy()
        column[0] = column[0] * 1.0001 + 1e-14
        self._colour = solve_toeplitz(column, self._correlation[1:])
        error = float(column[0] - self._colour @ self._correlation[1:])
        self._strength = float(np.sqrt(max(error, 0.0)))

    def noise(self, count: int) -> np.ndarray:
        """float64 [count] that sounds like it."""
        white = self._strength * self._random.standard_normal(count)
        made, self._state = lfilter([1.0], np.concatenate([[1.0], -self._colour]), white, zi=self._state)
        return made
