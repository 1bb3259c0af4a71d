"""Two voices on one timeline, cut into frames of 40 ms.

**Timeline.** Sample n of the timeline (16 kHz) was captured at `anchor + n * 62.5 µs` in ROS time;
the anchor is the stamp of the first packet of either voice. A frame is 640 samples of both voices.

**Waiting.** A frame is given out as soon as both voices cover it. A voice that is missing is waited
for until `max_wait_ms` after the time when its packet would have come; then silence stands in, and
what comes after that is late. A voice that was missing for three frames is not waited for until it
is back.

When the clock itself leaps, the timeline leaps with it; frame numbers never do. Where a packet of one
voice belongs is told in voice_timeline.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from timar_ros.errors import TimarError
from timar_ros.rates import FRAME_NS, FRAME_SAMPLES
from timar_ros.stream.audio_messages import AudioChunk
from timar_ros.stream.voice_timeline import SAMPLE_NS, VoiceTimeline

SELF = "self"
PARTNER = "partner"

_MS = 1_000_000
_SECOND = 1_000_000_000
_CLOCK_JUMP_NS = 12 * _SECOND
"""Time forward between two calls beyond which the clock leapt: more than the longest message."""
_CLOCK_JUMP_BACK_NS = _SECOND
_EARLY_NS = 60 * _MS
"""How long the first packets are looked at before the timeline is anchored, if they are unstamped."""


@dataclass(frozen=True)
class Frame:
    """40 ms of both voices.

    Attributes:
        index: 0, 1, 2, ... without gaps.
        stamp_ns: capture of the first sample, ROS time in ns.
        own, partner: float32 [640], 16 kHz mono in [-1, 1].
        own_heard, partner_heard: False where silence stands in for the whole frame.
        partner_motion: float32 [55], the partner's seen face, or None.
        own_ahead: float32 [640], what a policy that looks ahead hears in the place of `own` (stream/lookahead.py), or
            None.
    """

    index: int
    stamp_ns: int
    own: np.ndarray
    partner: np.ndarray
    own_heard: bool
    partner_heard: bool
    partner_motion: np.ndarray | None = None
    own_ahead: np.ndarray | None = None


class FramePairer:
    """Pairs two streams of `AudioChunk`s into `Frame`s.

    Times are ROS time in ns and come from outside: the caller passes each packet's time of arrival
        and, to `poll`, the present. Call `poll` after each `push` and at `next_deadline_ns`.

    Args:
        max_wait_ms: how long past its usual time a missing packet is waited for.
    """

    def __init__(self, max_wait_ms: float = 60.0) -> None:
        if not 0 <= max_wait_ms <= 1000:
            raise TimarError(f"max_wait_ms is {max_wait_ms}; expected 0 to 1000; 60 suits most.")
        self._max_wait_ns = round(max_wait_ms * _MS)
        self._anchor_ns: int | None = None
        self._early: list[tuple[str, AudioChunk, int]] = []
        self._released = 0  # frames given out
        self._now_ns: int | None = None
        self._voices = {SELF: VoiceTimeline(), PARTNER: VoiceTimeline()}
        self._clock_jumps = 0

    def push(self, party: str, chunk: AudioChunk, arrival_ns: int) -> None:
        """Take a packet of one party that arrived now.

        Raises:
            TimarError: if its sample rate cannot be taken, or nobody takes frames for a minute.
        """
        if party not in self._voices:
            raise TimarError(f"{party!r} is no party; expected {SELF!r} or {PARTNER!r}.")
        self._see_clock(arrival_ns)
        if self._voices[party].take(chunk, arrival_ns):
            if self._anchor_ns is None and (self._early or chunk.stamp_ns is None):
                self._early.append((party, chunk, arrival_ns))
            else:
                self._place(party, chunk, arrival_ns)

    def _place(self, party: str, chunk: AudioChunk, arrival_ns: int) -> None:
        voice = self._voices[party]
        if self._anchor_ns is None:
            other = self._voices[PARTNER if party == SELF else SELF]
            self._anchor_ns = voice.first_stamp_ns(chunk, arrival_ns, other)
            for each in self._voices.values():
                each.timeline_ns = self._anchor_ns
        other = self._voices[PARTNER if party == SELF else SELF]
        voice.place(chunk, arrival_ns, other)

    def poll(self, now_ns: int) -> list[Frame]:
        """The frames that are complete, or whose wait is over, in order."""
        self._see_clock(now_ns)
        if self._early and now_ns >= self._early[0][2] + _EARLY_NS:
            self._anchor_by_earliest()
        frames = []
        while self._anchor_ns is not None and self._due(now_ns):
            frames.append(self._release())
        return frames

    def next_deadline_ns(self) -> int | None:
        """When `poll` must be called at the latest; None before the first packet."""
        if self._early:
            return self._early[0][2] + _EARLY_NS
        if self._anchor_ns is None:
            return None
        return self._deadline_ns()

    def health(self) -> dict:
        """Counters per party, and of the clock.

        Returns:
            {"self": {...}, "partner": {...}, "frames": int, "clock_jumps": int}; per party: ok,
            message (a sentence for a person), packets, lost_ms, duplicated, late, late_ms,
            reordered, silence_filled_ms, invalid_samples, rate, rate_changes, drift_ppm, jitter_ms,
            delay_ms, re_anchored, last_seen_ns.
        """
        now = self._now_ns or 0
        report: dict = {party: voice.health(now) for party, voice in self._voices.items()}
        return report | {"frames": self._released, "clock_jumps": self._clock_jumps}

    def _see_clock(self, now_ns: int) -> None:
        last = self._now_ns
        if last is not None and not -_CLOCK_JUMP_BACK_NS <= now_ns - last <= _CLOCK_JUMP_NS:
            self._clock_jumps += 1
            leap = now_ns - last
            if self._anchor_ns is not None:
                self._anchor_ns += leap
            self._early = [(party, chunk, arrival_ns + leap) for party, chunk, arrival_ns in self._early]
            for voice in self._voices.values():
                voice.shift_clock(leap, now_ns)
        elif last is not None:
            now_ns = max(now_ns, last)
        self._now_ns = now_ns

    def _anchor_by_earliest(self) -> None:
        """Place the first packets as if each had come with the least delay among its stream's.

        A graph that is starting up delivers its first packets late and in bursts. Arrival can only
        be late, so the least delayed packet tells best when the unstamped ones were captured.
        """
        early, self._early = self._early, []
        captured_ns: dict[str, int] = {}
        for party in self._voices:
            length_ns = 0
            for whose, chunk, arrival_ns in early:
                if whose == party:
                    length_ns += chunk.duration_ns
                    start_ns = arrival_ns - length_ns
                    captured_ns[party] = min(captured_ns.get(party, start_ns), start_ns)
        placed = []
        for party, chunk, arrival_ns in early:
            if chunk.stamp_ns is None:
                captured_ns[party] += chunk.duration_ns
                arrival_ns = captured_ns[party]
            placed.append((arrival_ns, party, chunk))
        for arrival_ns, party, chunk in sorted(placed, key=lambda packet: packet[0]):
            self._place(party, chunk, arrival_ns)

    def _deadline_ns(self) -> int:
        """When the next frame is due, whatever is missing by then."""
        end = (self._released + 1) * FRAME_SAMPLES
        end_ns = self._anchor_ns + end * SAMPLE_NS
        missing = [voice for voice in self._voices.values() if voice.covered < end]
        awaited = [voice for voice in missing if voice.awaited]
        if len(missing) < 2 and not awaited:
            return min(self._now_ns, end_ns)
        allowances = [voice.usual_delay_ns() for voice in awaited or missing]
        return end_ns + max(allowances) + self._max_wait_ns

    def _due(self, now_ns: int) -> bool:
        return self._deadline_ns() <= now_ns

    def _release(self) -> Frame:
        index = self._released
        own, own_heard = self._voices[SELF].frame(index * FRAME_SAMPLES)
        partner, partner_heard = self._voices[PARTNER].frame(index * FRAME_SAMPLES)
        self._released += 1
        return Frame(index, self._anchor_ns + index * FRAME_NS, own, partner, own_heard, partner_heard)
