"""The way from the loudspeaker to the microphone, learned while both parties speak.

A partitioned-block Kalman filter in the frequency domain (Enzner & Vary 2006; Kuech, Mabande & Enzner 2014) behind a
loudspeaker that bends the loud.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import scipy.fft

BLOCK = 320
"""Samples, 20 ms, that are heard at once."""
SILENCE = 1e-9
"""Mean square below which a voice is not there (-90 dB re full scale)."""


class EchoFilter:
    """Learns the way from a reference to the microphone, block by block of 20 ms.

    The loudspeaker's part of it is a polynomial without memory (Stenger & Kellermann 2000), for one
    that is driven hard bends the loud: a linear filter alone leaves -14 to -16 dB of what tanh makes of a voice.

    Args:
        partitions: blocks of 20 ms that the response may last.
    """

    KEEP = 0.99994
    """How much of the response stays the same from block to block. With less, the filter learns the partner's voice."""
    AUDIBLE = 0.1
    """Times what is not echo: a softer echo is not heard."""
    FORGETTING = 500
    """Blocks without an audible echo, after which nothing more is forgotten: a robot may say nothing for an hour."""
    NEIGHBOURS = np.full(17, 1 / 17, np.float32)
    """Over which frequencies what is not echo is smoothed: 425 Hz."""
    PASSES = 2
    """How often it learns from each block."""
    CHANGED = 0.1
    """How much of the response, in power, may be another after `doubt`."""
    PRIOR_DECAY_DB = 1.0
    """Before anything is known, the variance of the response's spectrum falls so much with every block."""
    PRIOR_MARGIN = 3.0
    """Times what was heard: how loud an echo that variance allows."""
    BENDS = 2
    """Odd powers of the own voice's samples beside themselves: up to the fifth."""
    BENT_MEMORY = 0.998
    """Of what their parts are found from, from block to block: 10 s of own speech."""
    STRAIGHT = 1e-4
    """How much, against the own voice's energy, speaks for a loudspeaker that does not bend."""
    FULL_SCALE = (0.25, 1.25)
    """What a sample of 1 may come out as."""

    def __init__(self, partitions: int = 15) -> None:
        bins = BLOCK + 1
        self._response = np.zeros((partitions, bins), np.complex64)
        decay = (10.0 ** (-self.PRIOR_DECAY_DB / 10 * np.arange(partitions))).astype(np.float32)
        self._variance = np.repeat(decay[:, None], bins, axis=1)
        self._disturbance = np.full(bins, 1e-8, np.float32)
        self._bends = np.zeros(self.BENDS, np.float32)
        self._products = np.zeros((1 + self.BENDS, 2 + self.BENDS))
        self._powers = np.zeros((1 + self.BENDS, partitions, bins), np.complex64)
        self._unheard = 0
        self._kept: deque[tuple[np.ndarray, ...]] = deque(maxlen=2)
        self.remember()

    def remember(self) -> None:
        """Keep what was learned, for `recall`."""
        self._kept.append(tuple(part.copy() for part in (self._response, self._variance, self._bends, self._products)))

    def recall(self) -> None:
        """Know again what was known the time before it was last told to remember, and nothing since."""
        self._response, self._variance, self._bends, self._products = (part.copy() for part in self._kept[0])
        self.doubt()

    def doubt(self) -> None:
        """Part of what was learned may be wrong by now."""
        self._variance += self.CHANGED * np.abs(self._response) ** 2

    def expect(self, microphone: np.ndarray, reference: np.ndarray) -> None:
        """Before anything is learned: how loud an echo, and how loud all else, may be in such sound (each [n])."""
        blocks = microphone[: len(microphone) // BLOCK * BLOCK].reshape(-1, BLOCK)
        self._disturbance = np.square(np.abs(scipy.fft.rfft(blocks, 2 * BLOCK))).mean(axis=0).astype(np.float32) + 1e-8
        coupling = float(np.square(microphone).mean() / (np.square(reference).mean() + SILENCE))
        self._variance *= min(1.0, self.PRIOR_MARGIN * coupling / float(self._variance[:, 0].sum()))

    @property
    def samples(self) -> int:
        """Reference samples before a block that may echo in it, and of which `line_up` is to be told."""
        return (self._response.shape[0] + 1) * BLOCK

    def line_up(self, reference: np.ndarray) -> None:
        """The reference [`samples`] until where the next block begins."""
        windows = np.lib.stride_tricks.sliding_window_view(reference, 2 * BLOCK)[::BLOCK][::-1]
        self._powers = self._spectra(windows)

    def __call__(self, microphone: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """The echo in the next block of the microphone [320], learning from it.

        Args:
            reference: [640], its last 320 samples at the microphone's time.
        """
        far = self._hear(reference)
        parts = scipy.fft.irfft((self._powers * self._response).sum(axis=1), axis=1)[:, BLOCK:]
        echo = parts[0] + self._bends @ parts[1:]
        power = np.square(far.real) + np.square(far.imag)
        rest = microphone - echo
        for again in range(self.PASSES):
            if again:
                rest = microphone - self._echo(far)
            error = _behind_zeros(rest)
            present = np.square(error.real) + np.square(error.imag)
            if not again:
                self._disturbance += 0.36 * (present - self._disturbance)
            # The present as well, as the partner may just begin.
            other = np.convolve(np.maximum(self._disturbance, present), self.NEIGHBOURS, "same")
            # Half: an overlap-save block holds as much of the past as of the present.
            sureness = 1.0 / (0.5 * (self._variance * power).sum(axis=0) + other + 1e-10)
            step = scipy.fft.irfft(self._variance * far.conj() * (sureness * error), axis=1)
            step[:, BLOCK:] = 0.0
            self._response = self._response + scipy.fft.rfft(step, axis=1)
            self._variance *= 1.0 - 0.5 * np.minimum(self._variance * power * sureness, 2.0)
        audible = float(echo @ echo) > self.AUDIBLE * float(self._disturbance.sum()) / BLOCK
        self._unheard = 0 if audible else self._unheard + 1
        if self._unheard < self.FORGETTING:
            self._response *= self.KEEP
            self._variance *= self.KEEP**2
            self._variance += (1.0 - self.KEEP**2) * np.abs(self._response) ** 2
        self._learn_bends(parts, microphone)
        return echo

    def predict(self, reference: np.ndarray) -> np.ndarray:
        """The echo as above, without learning."""
        return self._echo(self._hear(reference))

    def _hear(self, reference: np.ndarray) -> np.ndarray:
        """Spectra [partitions, bins] of what the loudspeaker made of the reference, the newest first."""
        self._powers = np.concatenate([self._spectra(reference[None]), self._powers[:, :-1]], axis=1)
        return self._powers[0] + np.tensordot(self._bends, self._powers[1:], 1)

    def _spectra(self, windows: np.ndarray) -> np.ndarray:
        """[1 + powers, windows, bins]"""
        squared = np.square(windows)
        powers = [windows]
        while len(powers) < len(self._powers):
            powers.append(powers[-1] * squared)
        return scipy.fft.rfft(np.stack(powers), axis=2)

    def _echo(self, far: np.ndarray) -> np.ndarray:
        return scipy.fft.irfft((far * self._response).sum(axis=0))[BLOCK:]

    def _learn_bends(self, parts: np.ndarray, microphone: np.ndarray) -> None:
        """How much of each power the microphone holds, by recursive least squares where all else is soft.

        parts: [1 + powers, 320] of the echo, were each alone what the loudspeaker makes of the own voice.
        """
        spectra = _behind_zeros(np.concatenate([parts, microphone[None]]))
        weight = 1.0 / (np.convolve(self._disturbance, self.NEIGHBOURS, "same") + 1e-10)
        products = ((spectra[:-1].conj() * weight) @ spectra.T).real.astype(np.float64)
        if products[0, 0] < 0.1 * len(weight):
            return  # no echo to speak of
        self._products = self.BENT_MEMORY * self._products + products
        straight = self.STRAIGHT * self._products[0, 0] * np.eye(len(parts))
        straight[0, 0] = 0.0
        found = np.linalg.solve(self._products[:, :-1] + straight + 1e-3 * np.eye(len(parts)), self._products[:, -1])
        if found[0] > 0.3:
            bends = found[1:] / found[0]
            bends *= np.clip(bends.sum(), *(v - 1.0 for v in self.FULL_SCALE)) / (bends.sum() or 1.0)
            self._bends = bends.astype(np.float32)


def _behind_zeros(blocks: np.ndarray) -> np.ndarray:
    """Spectra of blocks [.., 320] with as many zeros before them."""
    return scipy.fft.rfft(np.concatenate([np.zeros_like(blocks), blocks], axis=-1), axis=-1)
