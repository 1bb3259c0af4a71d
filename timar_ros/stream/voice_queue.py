"""A synthesiser's sound, which comes sentence by sentence and faster than it is spoken, on one timeline in real time.

    bursts ─ one rate ─ queue ─ a packet every 10 ms, as a microphone would give them: silence where nothing is queued

Sound is spoken in the order in which it came, and none of it is lost: stamps only say where there is to be a pause.
What is queued is known before it is spoken: `known` tells it to a policy that looks ahead.
"""

from __future__ import annotations

import copy
from collections import deque

import numpy as np

from timar_ros.errors import TimarError
from timar_ros.rates import FRAME_NS, FRAME_SAMPLES, SAMPLE_RATE
from timar_ros.stream.audio_messages import AudioChunk
from timar_ros.stream.resampling import StreamResampler

PACKET_MS = 10
RESERVE_MS = 40
"""Silence before speech that finds the queue empty: a synthesiser that streams is late now and then by so much."""
LONGEST_S = 300.0
LONGEST_PAUSE_NS = 5_000_000_000
"""A stamp further ahead than this is no pause but a wrong stamp."""
UNDERRUN_NS = 500_000_000
"""Speech that comes again within so much of its end was not ended: the synthesiser was too slow."""
TOLERANCE_NS = 30_000_000
OVERTAKEN_MS = 100
"""Sound without a stamp that comes within so much of a flush amid a burst belongs to that burst."""
_LATEST_NS = 500_000_000
"""A stamp from before a flush on sound that comes later than this after it is one of another clock."""
KEPT_MS = 1_500
"""What was given out is remembered for so long, for who asks late: longer than a late hop lasts."""
_FILTER_MS = 20
"""Of sound before and after a stretch that is resampled by itself: more than the filter reaches."""
_MS = 1_000_000
_SECOND = 1_000_000_000
_SHOWN_NS = 10 * _SECOND


class VoiceQueue:
    """Holds what is to be spoken and gives it out in real time. Times are ROS time in ns, and come from outside.

    Args:
        rate: Hz of what is given out; what comes at other rates is resampled.
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._queue: deque[np.ndarray] = deque()
        self._queued = 0  # samples
        self._given: deque[np.ndarray] = deque(maxlen=KEPT_MS // PACKET_MS)
        self._given_to_ns: int | None = None  # end of what was given out
        self._resampler: StreamResampler | None = None
        self._spoken_to_ns: int | None = None  # end of the speech given out last
        self._stamp_end_ns: int | None = None  # where the next stamp would carry on
        self._last: tuple[int, bytes] | None = None
        self._came_ns: int | None = None  # the newest sound
        self._flushed_ns: int | None = None
        self._flushed_burst = False
        counters = ("chunks", "underruns", "overlaps", "back_in_time", "doubles", "flushes", "overtaken")
        self._count = dict.fromkeys(counters, 0)
        self._told: tuple[int, str] | None = None

    @property
    def queued_ns(self) -> int:
        """How long it takes to speak what is queued."""
        return self._queued * _SECOND // self.rate

    def push(self, chunk: AudioChunk, now_ns: int) -> None:
        """Take sound that came now, to be spoken after all that came before. What a flush overtook is dropped.

        Raises:
            TimarError: five minutes are queued already.
        """
        if not len(chunk.samples):
            return
        self._count["chunks"] += 1
        self._came_ns = now_ns
        if self._is_overtaken(chunk, now_ns):
            self._count["overtaken"] += 1
            return
        content = chunk.samples.tobytes()
        if chunk.stamp_ns is not None and self._last == (chunk.stamp_ns, content):
            self._count["doubles"] += 1
            return
        self._last = None if chunk.stamp_ns is None else (chunk.stamp_ns, content)
        if self.queued_ns + chunk.duration_ns > LONGEST_S * _SECOND:
            raise TimarError(
                f"{self.queued_ns / _SECOND:.0f} s of speech are queued; at most {LONGEST_S:.0f} s can be; "
                "wait until some of it was spoken, or call ~/flush"
            )
        pause_ns = self._pause_ns(chunk, now_ns)
        if not self._queued:  # speech that comes now begins now
            self._see_underrun(now_ns)
            pause_ns = RESERVE_MS * _MS
        if pause_ns and self._resampler is not None:
            self._append(self._resampler.flush())  # what it holds of the sound before belongs before the pause
        self._append(np.zeros(pause_ns * self.rate // _SECOND, np.float32))
        self._append(self._resampled(chunk))

    def due(self, now_ns: int) -> list[AudioChunk]:
        """The packets whose last sample is spoken by now, stamped with the time of their first."""
        if self._given_to_ns is None or not -_SECOND < now_ns - self._given_to_ns < 2 * _SECOND:
            self._given_to_ns = now_ns - PACKET_MS * _MS  # the first call, or the clock leapt
            self._given.clear()
        packets = []
        while self._given_to_ns + PACKET_MS * _MS <= now_ns:
            end_ns = self._given_to_ns + PACKET_MS * _MS
            # Where a packet is no whole number of samples, some are one longer than others.
            samples, spoken = self._take(self._samples_by(end_ns) - self._samples_by(self._given_to_ns))
            packets.append(AudioChunk(self._given_to_ns, self.rate, samples))
            self._given.append(samples)
            self._given_to_ns = end_ns
            if spoken:
                self._spoken_to_ns = self._given_to_ns
        return packets

    def known(self, start_ns: int) -> np.ndarray:
        """A frame of 40 ms from a time on as it was, or, as far as is known by now, will be spoken.

        Returns:
            float32 [640] at 16 kHz; silence where nothing is queued for that time.
        """
        if self._given_to_ns is None:
            return np.zeros(FRAME_SAMPLES, np.float32)
        # As FramePairer rounds, so that it is the frame which is paired later, to the bit where no rate changes.
        first = ((start_ns - self._given_to_ns) * self.rate + _SECOND // 2) // _SECOND
        if self.rate == SAMPLE_RATE:
            return self._between(first, FRAME_SAMPLES)
        around = self.rate * _FILTER_MS // 1000
        samples = self._between(first - around, self.rate * FRAME_NS // _SECOND + 2 * around)
        at = round(around * SAMPLE_RATE / self.rate)
        return StreamResampler(self.rate, SAMPLE_RATE).push(samples)[at : at + FRAME_SAMPLES]

    def flush(self, now_ns: int) -> int:
        """Drop all that was not given out yet, and what is on its way; the ns of speech that were dropped."""
        dropped_ns = self.queued_ns
        self._flushed_ns = now_ns
        self._flushed_burst = self._came_ns is not None and now_ns - self._came_ns < OVERTAKEN_MS * _MS
        self._count["flushes"] += 1
        self._queue.clear()
        self._queued = 0
        self._resampler = self._stamp_end_ns = self._spoken_to_ns = None
        return dropped_ns

    def health(self, now_ns: int) -> tuple[bool, str, dict[str, int]]:
        """Whether to warn, a sentence, and counters."""
        told = self._told[1] if self._told and now_ns - self._told[0] < _SHOWN_NS else ""
        said = f"{self.queued_ns / _SECOND:.1f} s are queued" if self._queued else "nothing is queued"
        return bool(told), told or said, {"queued_ms": self.queued_ns // _MS, **self._count}

    def _is_overtaken(self, chunk: AudioChunk, now_ns: int) -> bool:
        """Whether it was on its way when a flush came."""
        if self._flushed_ns is None or not 0 <= now_ns - self._flushed_ns < _LATEST_NS:
            return False
        if chunk.stamp_ns is None:
            return self._flushed_burst and now_ns - self._flushed_ns < OVERTAKEN_MS * _MS
        return chunk.stamp_ns < self._flushed_ns

    def _see_underrun(self, now_ns: int) -> None:
        if self._spoken_to_ns is not None and now_ns - self._spoken_to_ns < UNDERRUN_NS:
            late_ms = (now_ns - self._spoken_to_ns) // _MS + RESERVE_MS
            self._tell("underruns", now_ns, f"the synthesiser was too slow: {late_ms} ms of silence amid its speech")

    def _pause_ns(self, chunk: AudioChunk, now_ns: int) -> int:
        """The silence that a chunk's stamp asks for before it: never longer than the stamp lies ahead of now."""
        stamp_ns, expected_ns = chunk.stamp_ns, self._stamp_end_ns
        if stamp_ns is None:
            return 0
        self._stamp_end_ns = stamp_ns + chunk.duration_ns
        if expected_ns is None:
            return 0
        ahead_ns = stamp_ns - expected_ns
        pause_ns = min(ahead_ns, stamp_ns - now_ns)
        if TOLERANCE_NS < pause_ns <= LONGEST_PAUSE_NS:
            return pause_ns
        if ahead_ns < -TOLERANCE_NS:
            if stamp_ns < expected_ns - chunk.duration_ns - LONGEST_PAUSE_NS:
                self._tell(
                    "back_in_time", now_ns, f"its stamps went back by {-ahead_ns / _SECOND:.1f} s; spoken in turn"
                )
            else:
                # Synthesisers that stamp with the time of sending do so all the time: no complaint.
                self._count["overlaps"] += 1
        return 0

    def _resampled(self, chunk: AudioChunk) -> np.ndarray:
        if self._resampler is None or self._resampler.rate_in != chunk.rate:
            rest = self._resampler.flush() if self._resampler is not None and self._queued else np.zeros(0, np.float32)
            self._resampler = StreamResampler(chunk.rate, self.rate)
            return np.concatenate([rest, self._resampler.push(chunk.samples)])
        return self._resampler.push(chunk.samples)

    def _append(self, samples: np.ndarray) -> None:
        if len(samples):
            self._queue.append(samples)
            self._queued += len(samples)

    def _samples_by(self, time_ns: int) -> int:
        return time_ns * self.rate // _SECOND

    def _take(self, count: int) -> tuple[np.ndarray, bool]:
        """The next samples [count], and whether any of them was queued."""
        parts, needed = [], count
        while needed and self._queue:
            part = self._queue.popleft()
            if len(part) > needed:
                self._queue.appendleft(part[needed:])
                part = part[:needed]
            parts.append(part)
            needed -= len(part)
        if needed and self._resampler is not None and self._resampler.rate_in != self.rate:
            # The queue ran dry: what the filter holds back of the sentence's end is due now.
            rest = self._resampler.flush()
            parts.append(rest[:needed])
            self._queued += len(rest)
            if len(rest) > needed:
                self._queue.append(rest[needed:])
            needed -= len(parts[-1])
            self._resampler = None
        self._queued -= count - needed
        spoken = needed < count
        parts.append(np.zeros(needed, np.float32))
        return np.concatenate(parts), spoken

    def _between(self, first: int, count: int) -> np.ndarray:
        """Samples [count] counted from the end of what was given out; before that lies what was given out."""
        samples = np.zeros(count, np.float32)

        def lay(part: np.ndarray, at: int) -> int:
            """Put what falls into the stretch of a part that begins at `at` into it; the end of the part."""
            low, high = max(at, first), min(at + len(part), first + count)
            if low < high:
                samples[low - first : high - first] = part[low - at : high - at]
            return at + len(part)

        at = -sum(map(len, self._given))
        for part in (*self._given, *self._queue):
            if at >= first + count:
                return samples
            at = lay(part, at)
        if self._resampler is not None and self._resampler.rate_in != self.rate:
            # What the filter holds back of the end. What the copy shares with it is cleared before each use.
            lay(copy.copy(self._resampler).flush(), at)
        return samples

    def _tell(self, what: str, now_ns: int, sentence: str) -> None:
        self._count[what] += 1
        self._told = now_ns, sentence
