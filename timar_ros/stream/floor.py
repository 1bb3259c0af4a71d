"""Who has the floor: one definition for the running conversation and for known speech.

A party's *talk* is its speech with pauses shorter than `JOINED_PAUSE_S` joined. At every instant
the two talks give one of four states: self, partner, both, nobody. A stretch of one state changes
the floor only if it lasts long enough; a shorter one belongs to the floor before it:

- nobody, `NOBODY_S`: a breath (0.3 to 0.4 s) or the usual gap between turns (0.2 s) is no turn;
- both, `BOTH_S`: a backchannel (0.31 to 0.49 s, p25 to p75) under the other's speech takes no
  floor, nor does the usual overlap at a change of turns (0.38 s); a longer overlap is one;
- one party alone, `ALONE_S`: what sticks out of an overlap is no turn, a short answer is.

So after "self, gap of 0.2 s, partner" the floor passes from self to partner where the partner
starts; after "self, both for 0.3 s, partner" where self ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

JOINED_PAUSE_S = 0.24
NOBODY_S = 0.40
BOTH_S = 0.60
ALONE_S = 0.20
NEARLY = 0.8
"""A stretch of so much of the time needed may turn out long enough."""
PAST_S = 2.0
"""How far back a running decision may reach; more than any of the times above needs."""

Run = tuple[float, float, "Floor"]
"""A stretch of one state: start, end, state."""

Switch = tuple[float, bool]
"""Where a party starts or stops to speak: time, whether it speaks from then on."""


class Floor(str, Enum):
    """Who speaks; the values are those of the topic `~/floor`."""

    SELF = "self"
    PARTNER = "partner"
    BOTH = "both"
    NOBODY = "nobody"

    def __str__(self) -> str:
        return self.value


SECONDS_TO_CHANGE = {
    Floor.SELF: ALONE_S,
    Floor.PARTNER: ALONE_S,
    Floor.BOTH: BOTH_S,
    Floor.NOBODY: NOBODY_S,
}
"""How long a state must last to become the floor."""


def state_of(own_speaking: bool, partner_speaking: bool) -> Floor:
    """The state of one instant."""
    if own_speaking:
        return Floor.BOTH if partner_speaking else Floor.SELF
    return Floor.PARTNER if partner_speaking else Floor.NOBODY


def floor_changes(runs: Sequence[Run], floor: Floor, unit_s: float = 1.0) -> list[tuple[float, Floor]]:
    """`(start, floor)` of every change of the floor.

    runs: adjoining `(start, end, state)` in units of `unit_s` seconds, neighbours of different
    states; the last may still go on, and counts as long as it is so far.
    floor: the floor before the first run.
    """
    changes = []
    for start, end, state in runs:
        if state is not floor and (end - start) * unit_s >= SECONDS_TO_CHANGE[state] - 1e-6:
            floor = state
            changes.append((start, state))
    return changes


def joined(intervals: Sequence[Sequence[float]], pause_s: float = JOINED_PAUSE_S) -> list[tuple[float, float]]:
    """Intervals `(start, end)` in s in order of time, with pauses shorter than `pause_s` closed."""
    talk: list[tuple[float, float]] = []
    for start, end in sorted((float(s), float(e)) for s, e in intervals):
        if talk and start - talk[-1][1] < pause_s:
            talk[-1] = (talk[-1][0], max(end, talk[-1][1]))
        else:
            talk.append((start, end))
    return talk


def floor_of_speech(
    own: Sequence[Sequence[float]], partner: Sequence[Sequence[float]], end_s: float
) -> list[tuple[float, Floor]]:
    """`(time in s, floor)` of every change, from known intervals of speech `(start, end)` in s.

    The floor is nobody's before the first change. What lies beyond `end_s` does not count.
    """
    switches = [
        [switch for start, end in joined(speech) for switch in ((start, True), (end, False))]
        for speech in (own, partner)
    ]
    return floor_changes(_runs(switches, 0.0, end_s), Floor.NOBODY)


class PartyState(NamedTuple):
    """What is decided about one party's speech by now. Times are counts of samples."""

    speaking: bool
    since: int
    """Where the present state began, set back to where the change happened."""
    sure_to: int
    """From here on the state is in doubt or not judged yet."""
    doubt: int | None
    """From here on there is a sign of the other state; None: there is none."""


class FloorTracker:
    """The floor, step after step, from decisions that come late and reach back.

    Speaking is decided some time after it changed. So the near past is kept, corrected when a
    decision comes, and judged by `floor_changes`; a stretch counts only as far as both parties'
    states are beyond doubt.
    """

    def __init__(self, rate: int) -> None:
        """rate: of the samples in which times are counted, in Hz."""
        self._rate = rate
        self.reset()

    def reset(self) -> None:
        """Back to nobody's floor, before sample 0."""
        self.floor = Floor.NOBODY
        self.doubts: list[int] = []
        """The samples, in order, where the floor may turn out to have changed."""
        self._start = 0  # nothing before is judged again
        self._switches: list[list[Switch]] = [[(0, False)], [(0, False)]]

    def step(self, now: int, own: PartyState, partner: PartyState) -> list[tuple[int, Floor]]:
        """What both parties do, `now` samples from the start; changes that are sure by that.

        Returns `(sample, floor)` of each, in order.
        """
        expected = []  # should all doubts prove right
        for switches, party in zip(self._switches, (own, partner), strict=True):
            if switches[-1][1] != party.speaking:
                switches.append((max(party.since, switches[-1][0]), party.speaking))
            doubts = [] if party.doubt is None else [(party.doubt, not party.speaking)]
            expected.append(switches + doubts)
        sure_to = min(own.sure_to, partner.sure_to)
        runs = _runs(self._switches, self._start, sure_to)
        changes = floor_changes(runs, self.floor, 1.0 / self._rate)
        if changes:
            self.floor = changes[-1][1]
        self.doubts = self._doubts(_runs(expected, self._start, now))
        self._forget_before(changes[-1][0] if changes else now - round(PAST_S * self._rate))
        return changes

    def _doubts(self, runs: Sequence[Run]) -> list[int]:
        """Where these runs may change the floor: one nearly long enough, and those at the end."""
        floor, doubts, open_doubts = self.floor, [], []
        for start, end, state in runs:
            if state is floor:
                open_doubts = []
                continue
            open_doubts.append(start)
            if (end - start) / self._rate >= NEARLY * SECONDS_TO_CHANGE[state]:
                floor, doubts, open_doubts = state, doubts + open_doubts, []
        return doubts + open_doubts

    def _forget_before(self, sample: int) -> None:
        self._start = max(sample, self._start)
        for switches in self._switches:
            while len(switches) > 1 and switches[1][0] <= self._start:
                del switches[0]


def _runs(switches: Sequence[Sequence[Switch]], start: float, end: float) -> list[Run]:
    """Runs of equal state from `start` to `end`, from where each party starts and stops."""
    times = {start, *(time for party in switches for time, _ in party if start < time < end)}
    runs: list[Run] = []
    for time in sorted(times):
        own, partner = (_speaking_at(time, party) for party in switches)
        state = state_of(own, partner)
        if not runs or runs[-1][2] is not state:
            runs.append((time, end, state))
            if len(runs) > 1:
                runs[-2] = (runs[-2][0], time, runs[-2][2])
    return runs if start < end else []


def _speaking_at(time: float, switches: Sequence[Switch]) -> bool:
    return next((speaking for since, speaking in reversed(switches) if since <= time), False)
