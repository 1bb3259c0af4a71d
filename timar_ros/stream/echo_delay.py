"""How much later than its stamp the own voice comes back in the partner's channel.

The generalised cross-correlation with phase transform (Knapp & Carter 1976) of the last second.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from scipy.signal.windows import tukey

from timar_ros.rates import FRAME_SAMPLES, SAMPLE_RATE
from timar_ros.stream.echo_filter import SILENCE

LONGEST_DELAY_S = 1.0
"""Beyond this an echo is not looked for: a speaker node's delay, its device and the room."""


class DelayTracker:
    """The lag of the own voice in the partner's channel.

    Attributes:
        lag: samples, or None until it was found; as sure as two findings in a row can make it.
    """

    WINDOW = SAMPLE_RATE
    EVERY_FRAMES = 5
    SURE = 12.0
    """Height of the peak in standard deviations of the correlation; noise alone reaches 4.5, other speech 8.6."""
    AGREE = 24
    HASTE_FRAMES = 25
    """So long it searches at every other frame, once it was told that the echo comes otherwise."""
    JUST_FRAMES = 3
    """Within so many that is noticed."""
    EDGE = FRAME_SAMPLES // 4
    """Samples over which the partner's window comes and goes."""
    BAND_HZ = (250.0, 6000.0)

    def __init__(self) -> None:
        self._reach = round(LONGEST_DELAY_S * SAMPLE_RATE)
        self._own = np.zeros(self.WINDOW + self._reach, np.float32)
        self._partner = np.zeros(self.WINDOW, np.float32)
        self._size = scipy.fft.next_fast_len(len(self._own), real=True)
        hertz = np.fft.rfftfreq(self._size, 1 / SAMPLE_RATE)
        self._band = (hertz >= self.BAND_HZ[0]) & (hertz <= self.BAND_HZ[1])
        # Without it both windows would begin and end with a click, which speaks for no delay or the longest.
        self._taper = tukey(self.WINDOW, 2 * self.EDGE / self.WINDOW).astype(np.float32)
        self._frames = 0
        self._haste = 0
        self._found: int | None = None
        self.lag: int | None = None

    def forget(self) -> None:
        """The echo comes otherwise since a moment ago: what was heard before would speak for the old delay."""
        self._partner[: -self.JUST_FRAMES * FRAME_SAMPLES] = 0.0
        self._found, self._haste = None, self.HASTE_FRAMES

    def __call__(self, own: np.ndarray, partner: np.ndarray) -> None:
        """Take in the next frame of both voices (float32 [640] each)."""
        self._own = np.concatenate([self._own[len(own) :], own])
        self._partner = np.concatenate([self._partner[len(partner) :], partner])
        self._frames += 1
        self._haste = max(0, self._haste - 1)
        if self._frames % (2 if self._haste else self.EVERY_FRAMES) == 0:
            found = self._search()
            if found is not None and self._found is not None and abs(found - self._found) <= self.AGREE:
                self.lag = found
            self._found = found

    def _search(self) -> int | None:
        if min(np.square(v).mean() for v in (self._own, self._partner)) < SILENCE:
            return None
        spectrum = (
            scipy.fft.rfft(self._taper * self._partner, self._size) * scipy.fft.rfft(self._own, self._size).conj()
        )
        spectrum = np.where(self._band, spectrum / (np.abs(spectrum) + 1e-12), 0.0)
        # The own window begins `reach` before the partner's: a lag of l lies at l - reach.
        correlation = np.roll(scipy.fft.irfft(spectrum, self._size), self._reach)[: self._reach]
        peak = int(np.argmax(correlation))
        return peak if correlation[peak] > self.SURE * correlation.std() else None
