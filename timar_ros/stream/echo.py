"""Takes the own voice out of the partner's channel, frame by frame, with no delay added.

A robot that hears its own loudspeaker takes that for the partner. Three parts, all driven by the two voices' samples
alone, so that a replay gives the same bits:

- `DelayTracker`: how much later than its stamp the own voice comes back, by the generalised cross-correlation with
  phase transform (Knapp & Carter 1976) of the last second.
- `EchoFilter`: a partitioned-block Kalman filter in the frequency domain (Enzner & Vary 2006; Kuech, Mabande & Enzner
  2014) behind a loudspeaker that bends the loud. It learns both while both parties speak, and leaves the partner's
  voice untouched.
- `EchoCanceller`: lines the reference up, hears the last half second again once it knows how, and puts the background's
  noise in the place of what can only be echo: all of it while the filter is known to be wrong (at the start, after the
  delay or the room changed), and else what the filter lately left of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import scipy.fft
from scipy.linalg import solve_toeplitz
from scipy.signal import lfilter
from scipy.signal.windows import tukey

from timar_ros.rates import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE

LONGEST_DELAY_S = 1.0
"""Beyond this an echo is not looked for: a speaker node's delay, its device and the room."""
_BLOCK = 320
_SILENCE = 1e-9
"""Mean square below which a voice is not there (-90 dB re full scale)."""


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
        if min(np.square(v).mean() for v in (self._own, self._partner)) < _SILENCE:
            return None
        spectrum = (
            scipy.fft.rfft(self._taper * self._partner, self._size) * scipy.fft.rfft(self._own, self._size).conj()
        )
        spectrum = np.where(self._band, spectrum / (np.abs(spectrum) + 1e-12), 0.0)
        # The own window begins `reach` before the partner's: a lag of l lies at l - reach.
        correlation = np.roll(scipy.fft.irfft(spectrum, self._size), self._reach)[: self._reach]
        peak = int(np.argmax(correlation))
        return peak if correlation[peak] > self.SURE * correlation.std() else None


class EchoFilter:
    """Learns the way from a reference to the microphone, block by block of 20 ms.

    The loudspeaker's part of it is a polynomial without memory (Stenger & Kellermann 2000), for one
    that is driven hard bends the loud: a linear filter alone leaves -14 to -16 dB of what tanh makes of a voice.

    Args:
        partitions: blocks of 20 ms that the response may last.
    """

    KEEP = 0.99994
    """How much of the response stays the same from block to block. With less, the filter learns the partner's voice."""
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
        bins = _BLOCK + 1
        self._response = np.zeros((partitions, bins), np.complex64)
        decay = (10.0 ** (-self.PRIOR_DECAY_DB / 10 * np.arange(partitions))).astype(np.float32)
        self._variance = np.repeat(decay[:, None], bins, axis=1)
        self._disturbance = np.full(bins, 1e-8, np.float32)
        self._bends = np.zeros(self.BENDS, np.float32)
        self._products = np.zeros((1 + self.BENDS, 2 + self.BENDS))
        self._powers = np.zeros((1 + self.BENDS, partitions, bins), np.complex64)
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
        blocks = microphone[: len(microphone) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
        self._disturbance = np.square(np.abs(scipy.fft.rfft(blocks, 2 * _BLOCK))).mean(axis=0).astype(np.float32) + 1e-8
        coupling = float(np.square(microphone).mean() / (np.square(reference).mean() + _SILENCE))
        self._variance *= min(1.0, self.PRIOR_MARGIN * coupling / float(self._variance[:, 0].sum()))

    @property
    def samples(self) -> int:
        """Reference samples before a block that may echo in it, and of which `line_up` is to be told."""
        return (self._response.shape[0] + 1) * _BLOCK

    def line_up(self, reference: np.ndarray) -> None:
        """The reference [`samples`] until where the next block begins."""
        windows = np.lib.stride_tricks.sliding_window_view(reference, 2 * _BLOCK)[::_BLOCK][::-1]
        self._powers = self._spectra(windows)

    def __call__(self, microphone: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """The echo in the next block of the microphone [320], learning from it.

        Args:
            reference: [640], its last 320 samples at the microphone's time.
        """
        far = self._hear(reference)
        parts = scipy.fft.irfft((self._powers * self._response).sum(axis=1), axis=1)[:, _BLOCK:]
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
            step[:, _BLOCK:] = 0.0
            self._response = self._response + scipy.fft.rfft(step, axis=1)
            self._variance *= 1.0 - 0.5 * np.minimum(self._variance * power * sureness, 2.0)
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
        return scipy.fft.irfft((far * self._response).sum(axis=0))[_BLOCK:]

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
        return max(float(self._correlation[0]), _SILENCE)

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
            correlation = np.correlate(samples, samples, "full")[_BLOCK - 1 : _BLOCK + self.ORDER] / _BLOCK
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


class EchoCanceller:
    """Frames of both voices -> the partner's without the own voice in it.

    Args:
        awaited: True where the own voice is known to be heard by the partner's microphone: what comes while it speaks
            is held back until the way is known. False: sound passes as it is until the own voice is found in it.

    Attributes:
        active: whether the canceller works on what passes.
    """

    MARGIN = _BLOCK
    """How far into the filter's response the direct sound is placed: the tracker may be late by as much."""
    WRONG = (0.35, 0.7)
    """By how much the microphone's part along the filter's estimate (1: right, 0: wrong) may be lower or higher,
    beyond its error: another delay makes it lower, only a louder loudspeaker higher, the partner by chance either."""
    RIGHT = 0.3
    NEW = 100
    """Blocks of echo before which it is taken for ignorance if the microphone holds more along the estimate."""
    FITTING = 5
    """Blocks in a row that a filter which was wrong must fit to be right again."""
    DOUBTED = 50
    """Blocks of echo in a row in which a filter was wrong that has to learn anew, as when the robot was moved."""
    GONE = 0.3
    """What a block holds of its echo, along the estimate, when that comes at another time by now."""
    CLEAR = 4.0
    """Times the background: an echo so loud is missed when it is not there."""
    LONG_MEMORY = 0.96
    AGAIN = 25
    """Blocks that are heard again once it is known how late the echo is; also how often the filter remembers."""
    ALIKE = 0.1
    """By how much better, in correlation, the echo as expected must fit at another delay than the tracker's."""
    JUDGED = 30
    """A filter that is so right over 500 ms, after so many blocks of echo, is no longer new."""
    MEMORY = 0.81
    """Of powers, from block to block: 100 ms."""
    INDEPENDENT = 100.0
    """Independent values in the speech of that time, by which the error of a mean product falls."""
    SOFT = 2.0
    """Times the background: what is softer while the own voice sounds is not worth the risk."""
    LEARNED = 0.5
    """What the filter leaves of an echo once it is of use, as a part of the echo."""
    LEAK_QUANTILE = 0.15
    """What is left of the echo, as a part of it, is above this quantile where the partner speaks as well."""
    LEAKS = 200
    """So many were measured lately, every 40 ms of echo."""
    LEAK_MARGIN = 1.8
    """Times the leak: what is softer is taken for what the filter left of the echo."""
    LEAK_RANGE = (0.015, 0.8)
    """In which that part of the echo lies."""
    LEAK_NEW = 8.0
    """Over the blocks of echo learned from: what a filter that is new is taken to leave at least, as a part of it."""
    LOUD = 4.0
    """Times the loudest echo to expect: what is louder is the partner, whatever the filter does."""
    COUPLING_MEMORY = 0.99
    PATIENCE_S = 3.0
    """Own speech in which an echo that is there is surely found."""
    AUDIBLE = 0.5
    """Echo below this part of the background does not matter."""
    TAIL_S = 0.15
    """How long after the own voice its echo may last."""

    def __init__(self, awaited: bool) -> None:
        self.active = awaited
        self._tracker = DelayTracker()
        self._filter = EchoFilter()
        self._background = Background()
        self._shift = 0  # samples by which the reference is set back
        self._lag: int | None = None  # that the shift was made for
        self._own = np.zeros(round((LONGEST_DELAY_S + 0.4) * SAMPLE_RATE) + self.AGAIN * _BLOCK, np.float32)
        self._heard = np.zeros(self.AGAIN * _BLOCK, np.float32)
        # <echo, microphone>, <echo, echo>, <rest, rest>, <microphone, microphone>, forgetting
        self._along = self._of = self._left = self._whole = 0.0
        self._echo_energy = self._own_energy = 0.0  # of what the filter was right about, forgetting
        self._own_powers: deque[float] = deque([0.0], maxlen=round(LONGEST_DELAY_S / FRAME_S))
        self._trusted = self._proven = False
        self._long_along = self._long_of = 0.0
        self._leaks: deque[float] = deque(maxlen=self.LEAKS)
        self._leak = self.LEAK_RANGE[1]  # what the filter may have left, as a part of the echo
        self._judged = self._trusted_blocks = self._fitting = self._doubted = 0  # blocks
        self._spoken_s = 0.0  # by the own voice so far
        self._since_own_s = np.inf
        self._before = self._after = 0.0  # mean squares where the echo prevails
        self.held_back = False
        """Whether noise stood in for any of the last frame."""

    @property
    def delay_ms(self) -> float | None:
        """From the own voice's stamp to its sound in the partner's channel; None until it was found."""
        return None if self._lag is None else self._lag * 1000 / SAMPLE_RATE

    @property
    def suppression_db(self) -> float | None:
        """By how much the echo was lowered, where it prevails; None before it was heard."""
        if self._before <= 0.0:
            return None
        return 10 * float(np.log10(self._before / max(self._after, 1e-16)))

    def __call__(self, own: np.ndarray, partner: np.ndarray) -> np.ndarray:
        """The partner's frame without the own voice; float32 [640] each, 16 kHz mono."""
        self._tracker(own, partner)
        self._own = np.concatenate([self._own[FRAME_SAMPLES:], own])
        self._follow_delay()
        self._heard = np.concatenate([self._heard[FRAME_SAMPLES:], partner])
        self._count_own_speech(own)
        if not self.active:
            return partner
        self.held_back = False
        blocks = [self._block(partner[at : at + _BLOCK], at + _BLOCK) for at in range(0, FRAME_SAMPLES, _BLOCK)]
        return np.concatenate(blocks).astype(np.float32)

    def _follow_delay(self) -> None:
        lag = self._tracker.lag
        if lag is None or lag == self._lag:
            return
        self.active = True
        if self._lag is None:
            self._shift = max(0, lag - self.MARGIN)
            begin = len(self._own) - FRAME_SAMPLES - len(self._heard) - self._shift
            self._filter.expect(self._heard, self._own[begin : begin + len(self._heard)])
        elif abs(lag - self._lag) > DelayTracker.AGREE:
            # The room is the same, only later or sooner: what was learned of it stays.
            self._filter.recall()
            self._shift = max(0, self._shift + lag - self._lag)
            self._shift = max(0, self._shift + self._lateness())
        else:
            return  # the filter follows so little by itself
        self._lag = lag
        self._listen_again()

    def _again(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(microphone, reference) of the blocks heard last, before the present frame, with the filter lined up."""
        first = len(self._own) - FRAME_SAMPLES - len(self._heard)
        self._filter.line_up(self._reference(first, self._filter.samples))
        for at in range(0, len(self._heard), _BLOCK):
            yield self._heard[at : at + _BLOCK], self._reference(first + at + _BLOCK)

    def _lateness(self) -> int:
        """By how many samples what was heard last is later than the filter expects it."""
        reach = DelayTracker.AGREE
        expected = np.concatenate([self._filter.predict(reference) for _, reference in self._again()])
        expected = expected[reach:-reach]
        fit = np.correlate(self._heard, expected, "valid")
        latest = int(np.argmax(fit))
        alike = fit / (np.sqrt(np.square(self._heard).sum() * np.square(expected).sum()) + _SILENCE)
        return latest - reach if alike[latest] > alike[reach] + self.ALIKE else 0

    def _listen_again(self) -> None:
        """Learn and judge from what was heard last, now that it is lined up."""
        self._along = self._of = self._left = self._whole = 0.0
        self._long_along = self._long_of = 0.0
        self._judged = 0
        for microphone, reference in self._again():
            echo = self._filter(microphone, reference)
            self._judge(microphone, reference, echo, microphone - echo)

    def _reference(self, end: int, samples: int = 2 * _BLOCK) -> np.ndarray:
        end -= self._shift
        return self._own[end - samples : end]

    def _count_own_speech(self, own: np.ndarray) -> None:
        self._own_powers.append(float(np.square(own).mean()))
        speaks = self._own_powers[-1] > 1e-6
        self._spoken_s += FRAME_S * speaks
        self._since_own_s = 0.0 if speaks else self._since_own_s + FRAME_S

    def _block(self, microphone: np.ndarray, end: int) -> np.ndarray:
        rest, gone = microphone, False
        if self._lag is not None:
            reference = self._reference(len(self._own) - FRAME_SAMPLES + end)
            echo = self._filter(microphone, reference)
            rest = microphone - echo
            self._judge(microphone, reference, echo, rest)
            gone = self._is_gone(microphone, echo)
        self._background.learn(rest if self._trusted else microphone)
        if self._is_rest_of_echo() or ((gone or not self._trusted) and self._may_be_echo(microphone)):
            self.held_back = True
            return self._background.noise(len(rest))
        return rest if self._left <= self._whole else microphone  # what makes it louder is no echo

    def _judge(self, microphone: np.ndarray, reference: np.ndarray, echo: np.ndarray, rest: np.ndarray) -> None:
        power = float(np.square(echo).mean())
        self._along = self.MEMORY * self._along + float(echo @ microphone)
        self._of = self.MEMORY * self._of + float(echo @ echo)
        self._left = self.MEMORY * self._left + float(rest @ rest)
        self._whole = self.MEMORY * self._whole + float(microphone @ microphone)
        if power > self.AUDIBLE * self._background.power:
            self._long_along = self.LONG_MEMORY * self._long_along + float(echo @ microphone)
            self._long_of = self.LONG_MEMORY * self._long_of + float(echo @ echo)
            error = 2.0 * np.sqrt(self._left / self._of / self.INDEPENDENT)
            deviation = self._along / self._of - 1.0
            wrong = self.WRONG[deviation > 0.0 and self._trusted_blocks > self.NEW]
            if self._proven:
                fits = abs(deviation) < wrong + (error if self._trusted else 0.0)
                self._fitting = self._fitting + 1 if fits else 0
                if self._trusted and not fits:
                    self._tracker.forget()
                self._trusted = fits and (self._trusted or self._fitting > self.FITTING)
                self._doubted = 0 if self._trusted else self._doubted + 1
                if self._doubted == self.DOUBTED:
                    self._doubted = 0
                    self._filter.doubt()
            else:
                # The first time the echo must be seen to go, or the partner's voice be all that hides it.
                self._judged += 1
                right = self._judged > self.JUDGED and abs(self._long_along / self._long_of - 1.0) < self.RIGHT
                alone = abs(deviation) < wrong and self._left < self.LEARNED * self._of
                self._proven = self._trusted = alone or right
        heard = float(np.square(microphone).mean())
        if self._trusted and power > self.AUDIBLE * self._background.power:
            self._trusted_blocks += 1
            if self._trusted_blocks % 2 == 0:
                self._leaks.append(self._left / self._of)
                leak = sorted(self._leaks)[int(self.LEAK_QUANTILE * len(self._leaks))]
                least = max(self.LEAK_RANGE[0], self.LEAK_NEW / self._trusted_blocks)
                self._leak = min(max(self.LEAK_MARGIN * leak, least), self.LEAK_RANGE[1])
            if self._trusted_blocks % self.AGAIN == 0:
                self._filter.remember()
            self._echo_energy = self.COUPLING_MEMORY * self._echo_energy + power
            self._own_energy = self.COUPLING_MEMORY * self._own_energy + float(np.square(reference[-_BLOCK:]).mean())
        if power > 0.5 * heard:
            self._before += 0.02 * (heard - self._before)
            self._after += 0.02 * (min(heard, float(np.square(rest).mean())) - self._after)

    def _is_rest_of_echo(self) -> bool:
        background = self._background.power * _BLOCK / (1.0 - self.MEMORY)
        audible = self._of > self.AUDIBLE * background
        return self._trusted and audible and self._left < max(self._leak * self._of, self.SOFT * background)

    def _is_gone(self, microphone: np.ndarray, echo: np.ndarray) -> bool:
        """Whether a block holds next to nothing of an echo that it ought to hold, as when the delay just changed."""
        expected = float(echo @ echo)
        return float(echo @ microphone) < self.GONE * expected > self.CLEAR * self._background.power * _BLOCK

    def _may_be_echo(self, microphone: np.ndarray) -> bool:
        """While the filter is wrong: all that comes while the own voice sounds in the room, unless it is too loud."""
        if self._lag is None and self._spoken_s > self.PATIENCE_S:
            return False  # there is no echo here
        delay_s = LONGEST_DELAY_S / 2 if self._lag is None else self._lag / SAMPLE_RATE
        if self._since_own_s > delay_s + self.TAIL_S:
            return False
        if self._own_energy <= 0.0:
            return True
        recent = list(self._own_powers)[-1 - round((delay_s + self.TAIL_S) / FRAME_S) :]
        loudest = self._echo_energy / self._own_energy * max(recent)
        return float(np.square(microphone).mean()) < self.LOUD * loudest
