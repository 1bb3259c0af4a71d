"""One party's packets -> its samples on the timeline at 16 kHz: where each belongs, and silence where none came.

**Placing a packet.** Within one stream, packets are contiguous samples unless the evidence says
otherwise. A stamped packet is believed to leave a gap (or to lie in one, or to be a double) when
its stamp differs from the contiguous place by more than 0.6 of the shortest packet seen lately (1
to 30 ms). An unstamped one counts as captured one duration before it arrived, which is known only
to ±60 ms: it is contiguous within 100 ms, and what was lost shows in the mean of many. Smaller
differences are jitter and clock drift: their mean is followed slowly, by leaving out or repeating
single samples where the sound is quietest. Stamps that a device counts by its own clock show no
drift; there the shortest delay in delivery shows it.

**Resampling** to 16 kHz happens here, so a gap is filled with silence before the filter and no
sample moves.

Stamps that leap, or lie more than a second off the time of arrival, are not believed: that stream
is anchored anew by its time of arrival.
"""

from __future__ import annotations

from bisect import insort
from collections import deque

import numpy as np

from timar_ros.errors import TimarError
from timar_ros.rates import FRAME_SAMPLES, SAMPLE_RATE
from timar_ros.stream.audio_messages import AudioChunk
from timar_ros.stream.resampling import StreamResampler
from timar_ros.stream.stamp_clock import Deviation, StampClock

SAMPLE_NS = 62_500
_MS = 1_000_000
_SECOND = 1_000_000_000

_UNSTAMPED_TOLERANCE_NS = 100 * _MS
_STAMP_JUMP_NS = _SECOND
"""A delivery delay that differs by more than this from the usual one is a wrong stamp."""
_USUAL_DELAY_BOUND_NS = 60 * _MS
"""Delivery delay that frames wait for; a stream with more of it is anchored by arrival instead."""
_DORMANT_FRAMES = 3
_ALL_LATE_NS = _SECOND
"""Audio that came wholly too late for this long: the stamps lie behind, anchor anew."""
_SLIP_SPACING = 320
"""Samples between two single-sample corrections: at most 3125 ppm."""
_KEPT_S = 3
_MAX_BUFFERED = 60 * SAMPLE_RATE
_EVENT_SHOWN_NS = 10 * _SECOND


class VoiceTimeline:
    """One party's stream on the timeline.

    Positions in the stream are counted in input samples from `_origin_ns`. Samples go through the
    resampler in order; `_pushed` is how far it is fed, with audio or with the silence that stands
    in.
    """

    def __init__(self) -> None:
        self.timeline_ns = 0  # ROS time of the timeline's sample 0
        self.covered = 0  # timeline samples that are ready
        self.awaited = True
        self._silent_frames = 0
        self._output: deque[np.ndarray] = deque()
        self._output_start = 0  # timeline position of the first buffered sample
        self._heard: deque[tuple[int, int]] = deque()  # timeline stretches of real audio

        self._resampler: StreamResampler | None = None
        self._origin_ns = 0
        self._pushed = 0
        self._track = 0  # where the next packet lies if it is contiguous
        self._pending: list[tuple[int, np.ndarray]] = []
        self._received = _Intervals()

        self._stamp_offset_ns = 0
        self._deviation = Deviation(2 * _SECOND)
        self._stamp_clock = StampClock()
        self._suspect: tuple[int, int] | None = None  # delay of a packet with an incredible stamp
        self._late_run_ns = 0
        self._stamped: bool | None = None
        self._recent_ns: deque[int] = deque(maxlen=64)  # packet durations
        self._recent_content: deque[bytes] = deque(maxlen=4)
        self._delay_ns: float | None = None
        self._delays_seen = 1
        self._jitter_ns = 0.0
        self._slip = 0  # samples to repeat (> 0) or leave out (< 0), spread thinly
        self._since_slip = 0

        self._slipped = 0
        self._emitted = 0
        self._count = dict.fromkeys(("packets", "duplicated", "late", "reordered", "rate_changes", "re_anchored"), 0)
        self._lost_s = self._late_s = self._filled_s = 0.0
        self._invalid = 0
        self._last_seen_ns: int | None = None
        self._event: tuple[int, str] | None = None

    # --- packets in

    def take(self, chunk: AudioChunk, arrival_ns: int) -> bool:
        """Count a packet; whether it holds anything to place."""
        self._count["packets"] += 1
        self._invalid += chunk.invalid_samples
        self._last_seen_ns = arrival_ns
        if self._output_start + _MAX_BUFFERED < self.covered:
            raise TimarError(
                "A minute of audio waits and nobody takes the frames; expected a call of poll after each packet."
            )
        return len(chunk.samples) > 0

    def first_stamp_ns(self, chunk: AudioChunk, arrival_ns: int, other: VoiceTimeline) -> int:
        """Where the timeline starts if this is its first packet."""
        self._see_stamp_kind(chunk)
        self._believe_first(chunk, arrival_ns, other)
        return self._capture_ns(chunk, arrival_ns)

    def place(self, chunk: AudioChunk, arrival_ns: int, other: VoiceTimeline) -> None:
        """Put a packet where it belongs."""
        self._see_stamp_kind(chunk)
        duration = chunk.duration_ns
        if self._delay_ns is None:
            self._believe_first(chunk, arrival_ns, other)
        elif not self._credible(chunk, arrival_ns):
            return
        elif self._late_run_ns >= _ALL_LATE_NS:
            delay_ms = self._delay_ns / _MS
            self._delay_ns = 0.0
            self._late_run_ns = 0
            told = f"all of it came {delay_ms:.0f} ms after its stamps; anchored by arrival instead"
            self._re_anchor(chunk, arrival_ns, told)
            self._track = self._pushed
        self._recent_ns.append(duration)
        if self._stamped:
            delay = self._delivery_delay(chunk, arrival_ns)
            self._stamp_offset_ns += self._stamp_clock.correction_ns(arrival_ns, delay, duration, self._jitter_ns)
        capture = self._capture_ns(chunk, arrival_ns)
        begins = self._resampler is None
        if begins or self._resampler.rate_in != chunk.rate:
            self._begin_segment(chunk.rate, capture, arrival_ns)
        deviation = capture - self._time_of(self._track)
        start = self._position(chunk, deviation)
        if start is None:
            self._count["duplicated"] += 1
            return
        step = self._follow_clock(chunk, arrival_ns, deviation) if start == self._track else 0
        waits = self.awaited and not step and (self._stamped or not begins)
        self._store(chunk.samples, start + step)
        if not waits and self._pending:
            # Back after a pause, lost unseen some packets ago, or the first that came of packets placed by their
            # order: nothing that could fill the gap is on its way.
            self._push_silence(self._pending[0][0])
        self._drain()

    def _see_stamp_kind(self, chunk: AudioChunk) -> None:
        stamped = chunk.stamp_ns is not None
        if stamped != self._stamped:
            self._stamped = stamped
            self._deviation = Deviation(2 * _SECOND if stamped else 10 * _SECOND)

    def _capture_ns(self, chunk: AudioChunk, arrival_ns: int) -> int:
        if chunk.stamp_ns is None:
            return arrival_ns - chunk.duration_ns
        return chunk.stamp_ns + self._stamp_offset_ns

    def _delivery_delay(self, chunk: AudioChunk, arrival_ns: int) -> int:
        return arrival_ns - self._capture_ns(chunk, arrival_ns) - chunk.duration_ns

    def _believe_first(self, chunk: AudioChunk, arrival_ns: int, other: VoiceTimeline) -> None:
        """Take a stream's first stamp, or, where it is far off the time of arrival, make up for
        that."""
        delay = self._delivery_delay(chunk, arrival_ns)
        if abs(delay) > _STAMP_JUMP_NS:
            both = other._stamp_offset_ns
            # Two voices recorded together are off by the same: their relation is to stay.
            shared = both and abs(delay - both) < _STAMP_JUMP_NS // 2
            self._stamp_offset_ns += both if shared else delay
            self._count["re_anchored"] += 1
            side = "behind" if delay > 0 else "ahead of"
            self._tell(
                arrival_ns,
                f"its stamps lie {abs(delay) / _SECOND:.1f} s {side} this machine's clock; "
                "counted from arrival instead; synchronise the clocks (chrony)",
            )
            delay = self._delivery_delay(chunk, arrival_ns)
        self._delay_ns = float(delay)

    def _credible(self, chunk: AudioChunk, arrival_ns: int) -> bool:
        """Whether a stamp fits the time of arrival. A leap is believed once a second packet
        confirms it."""
        delay = self._delivery_delay(chunk, arrival_ns)
        beyond = delay - self._delay_ns
        if abs(beyond) <= _STAMP_JUMP_NS:
            self._suspect = None
            self._delays_seen += 1
            gain = max(0.02, 1 / self._delays_seen)
            self._delay_ns += gain * beyond
            self._jitter_ns += gain * (abs(beyond) - self._jitter_ns)
            return True
        if self._suspect is None or abs(delay - self._suspect[0]) > 200 * _MS:
            self._suspect = (delay, chunk.duration_ns)
            self._count["late"] += 1
            self._late_s += chunk.duration_ns / _SECOND
            return False
        dropped_ns = self._suspect[1]
        self._suspect = None
        self._re_anchor(
            chunk,
            arrival_ns,
            f"its stamps leapt by {-beyond / _SECOND:+.1f} s; anchored anew",
            dropped_ns,
        )
        return True

    def _re_anchor(self, chunk: AudioChunk, arrival_ns: int, told: str, dropped_ns: int = 0) -> None:
        """Count this packet as captured with the usual delay before its arrival.

        Where that is about the next place in the stream (after `dropped_ns`), take just that place.
        """
        if self._stamped:
            beyond = self._delivery_delay(chunk, arrival_ns) - self._delay_ns
            self._stamp_offset_ns += round(beyond)
            if self._resampler is not None:
                expected = self._time_of(self._track) + dropped_ns
                deviation = self._capture_ns(chunk, arrival_ns) - expected
                if abs(deviation) <= _UNSTAMPED_TOLERANCE_NS:
                    self._stamp_offset_ns -= deviation
        self._deviation.restart()
        self._stamp_clock.restart()
        self._count["re_anchored"] += 1
        self._tell(arrival_ns, told)

    def _begin_segment(self, rate: int, capture_ns: int, arrival_ns: int) -> None:
        """Start with a new sample rate; what is held of the old one goes first."""
        if self._resampler is not None:
            old = self._resampler.rate_in
            end_ns = self._time_of(self._track)
            while self._pending:
                self._push_silence(self._pending[0][0])
                self._drain()
            self._emit(self._resampler.flush())
            self._count["rate_changes"] += 1
            self._tell(arrival_ns, f"its sample rate changed from {old} to {rate} Hz")
            tolerance = self._tolerance_ns()
            capture_ns = end_ns if abs(capture_ns - end_ns) <= tolerance else capture_ns
        self._resampler = StreamResampler(rate)
        self._origin_ns = capture_ns
        self._track = 0
        self._pending = []
        self._received = _Intervals()
        ready_ns = self.timeline_ns + self.covered * SAMPLE_NS
        self._pushed = _round_div((ready_ns - capture_ns) * rate, _SECOND)

    def _time_of(self, position: int) -> int:
        return self._origin_ns + _round_div(position * _SECOND, self._resampler.rate_in)

    def _tolerance_ns(self) -> int:
        if not self._stamped:
            return _UNSTAMPED_TOLERANCE_NS
        return max(_MS, min(30 * _MS, min(self._recent_ns) * 6 // 10))

    def _position(self, chunk: AudioChunk, deviation_ns: int) -> int | None:
        """The packet's first position in the stream; None for a double."""
        rate = chunk.rate
        if abs(deviation_ns) <= self._tolerance_ns():
            return None if not self._stamped and self._is_double(chunk, deviation_ns) else self._track
        start = self._track + _round_div(deviation_ns * rate, _SECOND)
        if not self._received.missing_in(start, start + len(chunk.samples)):
            return None
        if start < self._track:
            self._count["reordered"] += 1
        return start

    def _is_double(self, chunk: AudioChunk, deviation_ns: int) -> bool:
        """An unstamped double can only be told by what it holds, and by coming too soon."""
        content = chunk.samples.tobytes()
        seen = content in self._recent_content
        self._recent_content.append(content)
        return seen and deviation_ns < -chunk.duration_ns // 2 and bool(chunk.samples.any())

    def _follow_clock(self, chunk: AudioChunk, arrival_ns: int, deviation_ns: int) -> int:
        """Learn from a contiguous packet's time how far the placement is off.

        Drift is corrected thinly from here on; returns the samples to move on by at once, where
        audio was lost (> 0) or is too much (< 0), mostly 0.
        """
        duration = chunk.duration_ns
        self._deviation.add(arrival_ns, duration, deviation_ns)
        step_ns = round(self._deviation.step_ns())
        if step_ns:
            self._deviation.moved(step_ns)
        mean, deadband = self._deviation.mean, _MS if self._stamped else 3 * _MS
        self._slip = round(mean / SAMPLE_NS) if abs(mean) > deadband else 0
        return _round_div(step_ns * chunk.rate, _SECOND)

    def _store(self, samples: np.ndarray, start: int) -> None:
        """Keep what is new of a packet and not yet given up for silence."""
        rate = self._resampler.rate_in
        end = start + len(samples)
        if start > self._track and self.awaited:
            self._lost_s += (start - self._track) / rate
        elif end <= self._track:
            self._lost_s = max(0.0, self._lost_s - len(samples) / rate)
        kept = 0
        for a, b in self._received.missing_in(start, end):
            a = max(a, self._pushed)
            if a < b:
                part = (a, samples[a - start : b - start])
                insort(self._pending, part, key=lambda each: each[0])
                kept += b - a
        self._late_s += max(0, min(self._pushed, end) - start) / rate
        if kept:
            self._late_run_ns = 0
            self._silent_frames, self.awaited = 0, True
        else:
            self._count["late"] += 1
            self._late_run_ns += len(samples) * _SECOND // rate
        self._received.add(start, end)
        self._received.forget_before(self._pushed - _KEPT_S * rate)
        self._track = max(self._track, end)

    # --- towards the timeline

    def _drain(self) -> None:
        """Feed the resampler with all that is contiguous."""
        while self._pending and self._pending[0][0] <= self._pushed:
            start, samples = self._pending.pop(0)
            samples = samples[self._pushed - start :]
            if len(samples):
                begin = self._timeline_of(self._pushed)
                self._pushed += len(samples)
                self._mark_heard(begin, self._timeline_of(self._pushed))
                self._emit(self._resampler.push(samples), slip=True)

    def _timeline_of(self, position: int) -> int:
        return _round_div(self._time_of(position) - self.timeline_ns, SAMPLE_NS)

    def _mark_heard(self, begin: int, end: int) -> None:
        if self._heard and self._heard[-1][1] >= begin:
            begin, _ = self._heard.pop()
        self._heard.append((begin, end))

    def _push_silence(self, until: int) -> None:
        count = until - self._pushed
        if count > 0:
            self._pushed = until
            self._filled_s += count / self._resampler.rate_in
            self._emit(self._resampler.push(np.zeros(count, np.float32)))

    def _emit(self, samples: np.ndarray, slip: bool = False) -> None:
        self._since_slip += len(samples)
        self._emitted += len(samples)
        count = min(abs(self._slip), self._since_slip // _SLIP_SPACING, len(samples) // 4)
        if slip and count:
            one = 1 if self._slip > 0 else -1
            parts = np.array_split(samples, count)
            samples = np.concatenate([_slip_one(part, one) for part in parts])
            self._origin_ns += one * count * SAMPLE_NS
            self._deviation.moved(one * count * SAMPLE_NS)
            self._slip -= one * count
            self._slipped += one * count
            self._since_slip = 0
        if len(samples):
            self._output.append(samples)
            self.covered += len(samples)

    def frame(self, start: int) -> tuple[np.ndarray, bool]:
        """Give out the frame at this timeline position; silence fills what is missing."""
        end = start + FRAME_SAMPLES
        if self.covered < end:
            self._fill(end)
        parts, needed = [], FRAME_SAMPLES
        while needed:
            part = self._output.popleft()
            if len(part) > needed:
                self._output.appendleft(part[needed:])
                part = part[:needed]
            parts.append(part)
            needed -= len(part)
        self._output_start = end
        while self._heard and self._heard[0][1] <= start:
            self._heard.popleft()
        heard = bool(self._heard) and self._heard[0][0] < end
        self._silent_frames = 0 if heard else self._silent_frames + 1
        self.awaited = self._silent_frames < _DORMANT_FRAMES
        return np.concatenate(parts), heard

    def _fill(self, end: int) -> None:
        if self._resampler is None:
            missing = end - self.covered
            self._filled_s += missing / SAMPLE_RATE
            self._output.append(np.zeros(missing, np.float32))
            self.covered = end
            return
        rate = self._resampler.rate_in
        while self.covered < end:
            wanted = self._pushed + max(rate // 1000, (end - self.covered) * rate // SAMPLE_RATE)
            if self._pending:
                wanted = min(wanted, self._pending[0][0])
            self._push_silence(wanted)
            self._drain()

    def shift_clock(self, leap_ns: int, now_ns: int) -> None:
        """The clock leapt: all that was placed moves with it."""
        self.timeline_ns += leap_ns
        self._origin_ns += leap_ns
        if self._last_seen_ns is not None:
            self._last_seen_ns += leap_ns
        self._deviation.restart()
        self._stamp_clock.restart()
        self._suspect = None
        self._tell(now_ns, f"the clock leapt by {leap_ns / _SECOND:+.1f} s")

    def usual_delay_ns(self) -> int:
        """When after a sample's capture its packet usually is here: delivery delay and a packet's
        duration."""
        delay = min(max(self._delay_ns or 0.0, 0.0), _USUAL_DELAY_BOUND_NS)
        return round(delay) + min(max(self._recent_ns, default=0), 500 * _MS)

    # --- telling

    def _tell(self, at_ns: int, sentence: str) -> None:
        self._event = (at_ns, sentence)

    def health(self, now_ns: int) -> dict:
        heard_at = self._last_seen_ns
        told = ""
        if self._event is not None and now_ns - self._event[0] < _EVENT_SHOWN_NS:
            told = self._event[1]
        if heard_at is None:
            ok, message = False, "no audio yet"
        elif now_ns - heard_at > _SECOND:
            ok, message = False, f"no audio for {(now_ns - heard_at) / _SECOND:.1f} s"
        elif self._late_run_ns > _ALL_LATE_NS // 2:
            ok, message = False, "all its audio comes too late; raise max_wait_ms"
        else:
            ok, message = not told, told or "audio arrives"
        return {
            "ok": ok,
            "message": message,
            **self._count,
            "lost_ms": self._lost_s * 1000,
            "late_ms": self._late_s * 1000,
            "silence_filled_ms": self._filled_s * 1000,
            "invalid_samples": self._invalid,
            "rate": self._resampler.rate_in if self._resampler else 0,
            "drift_ppm": -self._slipped / max(1, self._emitted) * 1e6,
            "jitter_ms": self._jitter_ns / _MS,
            "delay_ms": (self._delay_ns or 0.0) / _MS,
            "last_seen_ns": heard_at,
        }


def _slip_one(samples: np.ndarray, slip: int) -> np.ndarray:
    """Repeat (1) or leave out (-1) one sample where two neighbours differ least."""
    at = int(np.argmin(np.abs(np.diff(samples)))) + 1
    return np.insert(samples, at, samples[at]) if slip > 0 else np.delete(samples, at)


def _round_div(numerator: int, denominator: int) -> int:
    """Integer division, rounded to the nearest (exact, unlike float seconds since 1970)."""
    return (numerator + denominator // 2) // denominator


class _Intervals:
    """Stretches of a stream that were received: sorted, disjoint [start, end) in samples."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int]] = []

    def missing_in(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of [start, end) that are not held."""
        parts = []
        for a, b in self._spans:
            if b <= start or a >= end:
                continue
            if a > start:
                parts.append((start, a))
            start = max(start, b)
        if start < end:
            parts.append((start, end))
        return parts

    def add(self, start: int, end: int) -> None:
        touched = [span for span in self._spans if span[0] <= end and span[1] >= start]
        rest = [span for span in self._spans if span[0] > end or span[1] < start]
        merged = (min([start, *(a for a, _ in touched)]), max([end, *(b for _, b in touched)]))
        insort(rest, merged)
        self._spans = rest

    def forget_before(self, position: int) -> None:
        if self._spans and self._spans[0][1] < position:
            self._spans = [span for span in self._spans if span[1] >= position]
