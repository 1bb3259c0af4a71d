"""Streaming resampling to 16 kHz with soxr, with little delay and exact sample positions.

Output sample k belongs to time k / rate_out, counted from the first input sample: the filter's
delay is taken out. The output depends on the samples alone, to the bit, however they were cut.

soxr's own stream works in FFT blocks and holds back 20 to 118 ms (measured; most at 8 kHz), which
is too long for live use. Therefore the output is made in blocks of 5 ms, each from its own short
stretch of input: what the filter needs before and after it, and no more. What is held back after a
packet is then the filter's half width plus the open block. Measured, least / most:

    8 kHz 10 / 15 ms; 11.025 kHz 7 / 12 ms; 22.05 to 48 kHz 5 / 10 ms; 16 kHz 0.

The result is soxr's over the whole recording to -127 dB. A block costs 0.03 to 0.08 ms. At odd
rates (44056 Hz) positions are right within half an input sample.
"""

from math import gcd

import numpy as np
import soxr

from timar_ros.errors import TimarError

BLOCK_MS = 5
_QUALITY = "MQ"
"""soxr's shortest clean filter: flat to 7.4 of 8 kHz, aliases below -110 dB (measured). LQ falls by
13 dB at 7 kHz; HQ is 1 ms wider for a precision that no microphone has."""
_MAX_PERIOD = 640
"""Output samples after which input and output coincide again, at the usual rates."""


class StreamResampler:
    """Resamples one voice, packet after packet.

    Args:
        rate_in, rate_out: Hz, 8000 to 48000 in.

    Attributes:
        latency: input samples that are needed after an output's time before the output can be made.

    Raises:
        TimarError: if the rate is outside of what is accepted.
    """

    def __init__(self, rate_in: int, rate_out: int = 16_000) -> None:
        if not 8_000 <= rate_in <= 48_000:
            raise TimarError(
                f"Audio of {rate_in} Hz cannot be taken; expected 8000 to 48000 Hz; "
                "set the publisher's sample rate, best to 16000."
            )
        self.rate_in = rate_in
        self.rate_out = rate_out
        self._block = rate_out * BLOCK_MS // 1000
        # Half the filter's width: 5 ms at 16 kHz, longer in proportion where a rate is lower.
        half_width_s = 0.005 * 16_000 / min(rate_in, rate_out)
        self.latency = 0 if rate_in == rate_out else round(half_width_s * rate_in)
        self._period_out = rate_out // gcd(rate_in, rate_out)
        self._soxr = soxr.ResampleStream(rate_in, rate_out, 1, dtype="float32", quality=_QUALITY)
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next sample is the first."""
        self._held = np.zeros(0, np.float32)
        self._held_start = 0  # position of _held[0] among all input samples
        self._done = 0  # output samples given

    @property
    def held_ns(self) -> int:
        """How much of what was taken is not given yet: the next output begins so much before the next input."""
        taken = self._held_start + len(self._held)
        return taken * 1_000_000_000 // self.rate_in - self._done * 1_000_000_000 // self.rate_out

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take float32 [n] at rate_in; give the float32 [m] at rate_out that are complete now."""
        if self.rate_in == self.rate_out:
            return np.asarray(samples, np.float32)
        self._held = np.concatenate([self._held, np.asarray(samples, np.float32)])
        outputs = []
        while (end := self._input_needed(self._done)) <= self._held_start + len(self._held):
            outputs.append(self._make_block(end))
        self._forget()
        return np.concatenate(outputs) if outputs else np.zeros(0, np.float32)

    def flush(self) -> np.ndarray:
        """Give the rest, as if silence followed, up to the last sample's end. Then start anew."""
        total_in = self._held_start + len(self._held)
        rest = -(-total_in * self.rate_out // self.rate_in) - self._done if self.latency else 0
        silence = self.latency + 2 * self._block * self.rate_in // self.rate_out + 1
        output = self.push(np.zeros(silence, np.float32))[:rest] if rest else np.zeros(0, np.float32)
        self.reset()
        return output

    def _input_needed(self, first_output: int) -> int:
        """Input samples that must be there for the block that starts with this output."""
        last = first_output + self._block - 1
        return last * self.rate_in // self.rate_out + 1 + self.latency

    def _window_start(self, first_output: int) -> tuple[int, int]:
        """(input, output) position of one instant early enough for the block's filter."""
        latest = first_output - -(-self.latency * self.rate_out // self.rate_in) - 1
        if self._period_out <= _MAX_PERIOD:
            output = latest // self._period_out * self._period_out
            return output * self.rate_in // self.rate_out, output
        # An odd rate: the instant among many at which the two come closest (within 0.1 µs).
        candidates = np.arange(latest, latest - _MAX_PERIOD, -1)
        beyond = candidates * self.rate_in % self.rate_out
        output = int(candidates[np.argmin(np.minimum(beyond, self.rate_out - beyond))])
        return round(output * self.rate_in / self.rate_out), output

    def _make_block(self, end: int) -> np.ndarray:
        start, output = self._window_start(self._done)
        window = self._held[max(0, start - self._held_start) : end - self._held_start]
        first, self._done = self._done - output, self._done + self._block
        if not window.any():
            return np.zeros(self._block, np.float32)
        if start < 0:
            window = np.concatenate([np.zeros(-start, np.float32), window])
        self._soxr.clear()
        return self._soxr.resample_chunk(window, last=True)[first : first + self._block]

    def _forget(self) -> None:
        keep_from = max(0, self._window_start(self._done)[0])
        if keep_from > self._held_start:
            self._held = self._held[keep_from - self._held_start :].copy()
            self._held_start = keep_from
