"""Takes the own voice out of the partner's channel, frame by frame, with no delay added.

A robot that hears its own loudspeaker takes that for the partner. What is done about it is driven by the two voices'
samples alone, so that a replay gives the same bits. `DelayTracker` (echo_delay.py) tells how late the own voice comes
back, `EchoFilter` (echo_filter.py) learns what became of it on the way and leaves the partner's voice untouched,
`Background` (background.py) knows what the channel sounds like when nobody speaks. `EchoCanceller` lines the reference
up, hears the last half second again once it knows how, and puts the background's noise in the place of what can only be
echo: all of it while the filter is known to be wrong (at the start, after the delay or the room changed), and else what
the filter lately left of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from timar_ros.rates import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE
from timar_ros.stream.background import Background
from timar_ros.stream.echo_delay import LONGEST_DELAY_S, DelayTracker
from timar_ros.stream.echo_filter import BLOCK, SILENCE, EchoFilter


class EchoCanceller:
    """Frames of both voices -> the partner's without the own voice in it.

    Args:
        awaited: True where the own voice is known to be heard by the partner's microphone: what comes while it speaks
            is held back until the way is known. False: sound passes as it is until the own voice is found in it.

    Attributes:
        active: whether the canceller works on what passes.
    """

    MARGIN = BLOCK
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
        self._own = np.zeros(round((LONGEST_DELAY_S + 0.4) * SAMPLE_RATE) + self.AGAIN * BLOCK, np.float32)
        self._heard = np.zeros(self.AGAIN * BLOCK, np.float32)
        self._along = self._of = self._left = 0.0  # <echo, microphone>, <echo, echo>, <rest, rest>, forgetting
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
        self._spoken_s += FRAME_S * self._note_own_speech(own)
        if not self.active:
            return partner
        blocks = [self._block(partner[at : at + BLOCK], at + BLOCK) for at in range(0, FRAME_SAMPLES, BLOCK)]
        return np.concatenate(blocks).astype(np.float32)

    def pass_by(self, own: np.ndarray) -> None:
        """A frame in which the microphone is not heard: nothing is learned from the silence that stands in."""
        self._own = np.concatenate([self._own[FRAME_SAMPLES:], own])
        self._heard = np.concatenate([self._heard[FRAME_SAMPLES:], np.zeros(FRAME_SAMPLES, np.float32)])
        self._note_own_speech(own)

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
        for at in range(0, len(self._heard), BLOCK):
            yield self._heard[at : at + BLOCK], self._reference(first + at + BLOCK)

    def _lateness(self) -> int:
        """By how many samples what was heard last is later than the filter expects it."""
        reach = DelayTracker.AGREE
        expected = np.concatenate([self._filter.predict(reference) for _, reference in self._again()])
        expected = expected[reach:-reach]
        fit = np.correlate(self._heard, expected, "valid")
        latest = int(np.argmax(fit))
        alike = fit / (np.sqrt(np.square(self._heard).sum() * np.square(expected).sum()) + SILENCE)
        return latest - reach if alike[latest] > alike[reach] + self.ALIKE else 0

    def _listen_again(self) -> None:
        """Learn and judge from what was heard last, now that it is lined up."""
        self._along = self._of = self._left = 0.0
        self._long_along = self._long_of = 0.0
        self._judged = 0
        for microphone, reference in self._again():
            echo = self._filter(microphone, reference)
            self._judge(microphone, reference, echo, microphone - echo)

    def _reference(self, end: int, samples: int = 2 * BLOCK) -> np.ndarray:
        end -= self._shift
        return self._own[end - samples : end]

    def _note_own_speech(self, own: np.ndarray) -> bool:
        self._own_powers.append(float(np.square(own).mean()))
        speaks = self._own_powers[-1] > 1e-6
        self._since_own_s = 0.0 if speaks else self._since_own_s + FRAME_S
        return speaks

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
            return self._background.noise(len(rest))
        # The rest is louder than what came if twice the part along the estimate is less than that: then it is no echo.
        return rest if 2.0 * self._along >= self._of else microphone

    def _judge(self, microphone: np.ndarray, reference: np.ndarray, echo: np.ndarray, rest: np.ndarray) -> None:
        power = float(np.square(echo).mean())
        self._along = self.MEMORY * self._along + float(echo @ microphone)
        self._of = self.MEMORY * self._of + float(echo @ echo)
        self._left = self.MEMORY * self._left + float(rest @ rest)
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
            self._own_energy = self.COUPLING_MEMORY * self._own_energy + float(np.square(reference[-BLOCK:]).mean())
        if power > 0.5 * heard:
            self._before += 0.02 * (heard - self._before)
            self._after += 0.02 * (min(heard, float(np.square(rest).mean())) - self._after)

    def _is_rest_of_echo(self) -> bool:
        background = self._background.power * BLOCK / (1.0 - self.MEMORY)
        audible = self._of > self.AUDIBLE * background
        return self._trusted and audible and self._left < max(self._leak * self._of, self.SOFT * background)

    def _is_gone(self, microphone: np.ndarray, echo: np.ndarray) -> bool:
        """Whether a block holds next to nothing of an echo that it ought to hold, as when the delay just changed."""
        expected = float(echo @ echo)
        return float(echo @ microphone) < self.GONE * expected > self.CLEAR * self._background.power * BLOCK

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
