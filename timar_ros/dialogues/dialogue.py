"""Dialogues of two parties: who says what, when, and with how much effort.

Timing follows figures measured on telephone dialogues (Switchboard, 56 h): the floor is handed over
with a gap or an overlap drawn from the measured distribution, pauses fall inside turns, and the
listener answers cues in the speaker's voice (a pause after 0.7 s and more of speech) with a nod, a
smile or a backchannel 0.35 to 0.75 s later.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from timar_ros.dialogues.sentences import (
    BACKCHANNEL,
    QUESTIONS,
    Sentence,
    draw_sentence,
    draw_turn,
)
from timar_ros.dialogues.traits import Traits, draw_traits
from timar_ros.dialogues.voices import (
    DEFAULT_ENGINES,
    MARGIN_S,
    PAUSE,
    Accent,
    Phoneme,
    Speech,
    Voice,
    draw_voice,
    find_accents,
    inner_pauses,
    synthesise,
    with_effort,
    with_pauses,
)
from timar_ros.rates import FRAME_SAMPLES, SAMPLE_RATE

SPURT_GAP_S = 0.2  # pauses shorter than this do not end a talk spurt

# Quantiles in s. Floor transfer (start of the next turn minus end of this one), pauses and the
# length of backchannels. Floor transfers and backchannels are as measured, cut at both ends to what
# fits a minute; pauses are those inside a turn, shorter than the measured ones, which also hold the
# partner's turns.
FLOOR_TRANSFER_S = (
    (0.0, 0.05, 0.25, 0.5, 0.75, 0.85, 0.95, 1.0),
    (-4.0, -2.5, -0.38, 0.04, 0.33, 0.6, 1.34, 2.4),
)
PAUSE_S = ((0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0), (0.2, 0.22, 0.28, 0.42, 0.68, 1.4, 2.6))
BACKCHANNEL_S = ((0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0), (0.15, 0.17, 0.31, 0.39, 0.49, 0.66, 0.8))

CUE_SPEECH_S = 0.7
CUE_PAUSE_S = 0.2
CUE_APART_S = 2.0
TAKEN_S = 0.6  # a floor that is taken so soon leaves no time to answer before


@dataclass(frozen=True)
class Party:
    voice: Voice
    traits: Traits


@dataclass(frozen=True)
class Phrase:
    """A sentence placed in the dialogue. All times of `speech` count from `start` (s)."""

    party: int
    act: str
    text: str
    start: float
    speech: Speech
    turn: int

    @property
    def end(self) -> float:
        return self.start + self.speech.seconds

    @property
    def span(self) -> tuple[float, float]:
        """First to last sound, s; `start` and `end` have a little silence more."""
        return self.start + self.speech.phonemes[0].start, self.start + self.speech.phonemes[-1].end

    @property
    def phonemes(self) -> list[Phoneme]:
        return [p.moved(self.start) for p in self.speech.phonemes]

    @property
    def accents(self) -> list[Accent]:
        return [Accent(a.time + self.start, a.prominence) for a in self.speech.accents]


@dataclass(frozen=True)
class Response:
    """What a listener does about a cue in the partner's speech. Times in s."""

    party: int
    cue: float
    time: float
    kind: str  # "nod", "smile" or "backchannel"


@dataclass
class Dialogue:
    parties: tuple[Party, Party]
    phrases: list[Phrase] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)
    seconds: float = 0.0

    def of(self, party: int) -> list[Phrase]:
        return sorted((p for p in self.phrases if p.party == party), key=lambda p: p.start)

    def audio(self, party: int) -> np.ndarray:
        """float32 [seconds * 16000] in (-1, 1): this party's clean voice alone."""
        samples = np.zeros(round(self.seconds * SAMPLE_RATE), np.float32)
        for phrase in self.of(party):
            first = round(phrase.start * SAMPLE_RATE)
            samples[first : first + len(phrase.speech.samples)] += phrase.speech.samples
        # A shout may pass full scale: bend it below, as a microphone's limiter does.
        over = np.abs(samples) > 0.7
        samples[over] = np.sign(samples[over]) * (0.7 + 0.29 * np.tanh((np.abs(samples[over]) - 0.7) / 0.29))
        return samples

    def speech_intervals(self, party: int) -> np.ndarray:
        """float64 [n, 2] s: where this party speaks; pauses of 0.2 s and more part two."""
        spoken = [p for phrase in self.of(party) for p in phrase.phonemes if p.name != PAUSE]
        return join_intervals((p.start, p.end) for p in spoken)


def join_intervals(intervals: Iterable[tuple[float, float]], gap_s: float = SPURT_GAP_S) -> np.ndarray:
    """Joins intervals (in order of time) that are less than `gap_s` apart. float64 [n, 2]."""
    joined: list[list[float]] = []
    for start, end in intervals:
        if joined and start - joined[-1][1] < gap_s:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    return np.array(joined, dtype=np.float64).reshape(-1, 2)


def draw_dialogue(rng: np.random.Generator, seconds: float, engines: tuple[str, ...] = DEFAULT_ENGINES) -> Dialogue:
    """A random dialogue of about `seconds`, spoken by `engines` and timed."""
    first = Party(draw_voice(rng, engines=engines), draw_traits(rng))
    second = Party(draw_voice(rng, other=first.voice, engines=engines), draw_traits(rng))
    dialogue = Dialogue((first, second))
    party, after, turn = int(rng.integers(2)), None, 0
    time = float(rng.uniform(0.2, 1.2))
    while time < seconds - 3.0:
        sentences = draw_turn(after, rng)
        spoken = speak_turn(dialogue, party, sentences, time, turn, rng)
        end = spoken[-1].end
        listener = 1 - party
        if rng.random() < 0.06 and sentences[-1].act not in QUESTIONS:
            following, start = party, end + _quantile(PAUSE_S, rng) + rng.exponential(0.5)
        else:
            offset = _quantile(FLOOR_TRANSFER_S, rng)
            following = listener
            offset = max(offset, -0.7 * (end - spoken[0].start))
            start = max(end + offset - 2 * MARGIN_S, last_end(dialogue, listener) + 0.25)
        party, after, time, turn = following, sentences[-1].act, start, turn + 1
    finish(dialogue, rng.uniform(0.4, 1.2))
    for listener in (0, 1):
        add_responses(dialogue, listener, rng)
    return dialogue


def last_end(dialogue: Dialogue, party: int) -> float:
    return max((p.end for p in dialogue.phrases if p.party == party), default=0.0)


def finish(dialogue: Dialogue, tail_s: float) -> None:
    """Sets the length: the last sound, a tail of silence, and whole frames of 640 samples."""
    end = max(phrase.end for phrase in dialogue.phrases) + tail_s
    dialogue.seconds = int(np.ceil(end * SAMPLE_RATE / FRAME_SAMPLES)) * FRAME_SAMPLES / SAMPLE_RATE


def speak_turn(
    dialogue: Dialogue,
    party: int,
    sentences: list[Sentence],
    time: float,
    turn: int,
    rng: np.random.Generator,
) -> list[Phrase]:
    """Speaks one turn's sentences one after the other from `time` on and adds them."""
    voice = dialogue.parties[party].voice
    busy = last_end(dialogue, 1 - party)
    turn_db = rng.normal(0.0, 0.6 * voice.effort_db)
    spoken = []
    for index, sentence in enumerate(sentences):
        effort = turn_db + rng.normal(0.0, 0.8 * voice.effort_db) + (1.0 if index == 0 else 0.0)
        if time < busy:  # who talks against the other raises the voice
            effort += 3.0
        speech = speak_sentence(voice, sentence.text, effort, rng)
        phrase = Phrase(party, sentence.act, sentence.text, time, speech, turn)
        spoken.append(phrase)
        # Some sentences part with a pause, some run on.
        time = phrase.end + (_quantile(PAUSE_S, rng) - 2 * MARGIN_S if rng.random() < 0.55 else 0.04)
    dialogue.phrases += spoken
    return spoken


def speak_sentence(voice: Voice, text: str, effort_db: float, rng: np.random.Generator) -> Speech:
    """One sentence with drawn tempo, inner pauses and effort around `effort_db`."""
    speech = synthesise(voice, text, stretch=float(np.exp(rng.normal(0.0, 0.08))))
    pauses = [_quantile(PAUSE_S, rng) if rng.random() < 0.5 else rng.uniform(0.05, 0.18) for _ in inner_pauses(speech)]
    return with_effort(find_accents(with_pauses(speech, pauses)), voice, effort_db, rng)


def find_cues(dialogue: Dialogue, listener: int) -> np.ndarray:
    """Cues that the partner's voice offers to `listener`: times in s, float64 [n], rising.

    A cue is the end of the partner's sound where a pause of `CUE_PAUSE_S` follows `CUE_SPEECH_S` and more of speech
    (Ward & Tsukahara 2000 ask for the latter too; of their cues the pause is the one that any microphone can tell),
    at least `CUE_APART_S` after the cue before it, and where the listener neither speaks nor takes the floor within
    `TAKEN_S`.
    """
    partner = dialogue.speech_intervals(1 - listener)
    own = [p.span for p in dialogue.of(listener) if p.act != BACKCHANNEL]
    cues: list[float] = []
    following = [*partner[1:, 0], np.inf]
    for (start, end), again in zip(partner, following, strict=False):
        heard = end - start >= CUE_SPEECH_S and again - end >= CUE_PAUSE_S
        apart = not cues or end - cues[-1] >= CUE_APART_S
        if heard and apart and not any(begin < end + TAKEN_S and end - 0.2 < stop for begin, stop in own):
            cues.append(float(end))
    return np.array(cues, dtype=np.float64)


def add_responses(dialogue: Dialogue, listener: int, rng: np.random.Generator, aloud: bool = True) -> None:
    """The listener answers most of the cues in the partner's voice once all turns are placed.

    With the voice only if `aloud`, and only where that ends well before its own next turn.
    """
    party = dialogue.parties[listener]
    own = sorted(p.span for p in dialogue.of(listener))
    free = 0.0
    for cue in find_cues(dialogue, listener):
        delay = float(np.clip(party.traits.response_delay_s + rng.normal(0.0, 0.05), 0.35, 0.75))
        time = cue + delay
        if rng.random() > party.traits.respond:
            continue
        kind = "smile" if rng.random() < 0.05 * party.traits.smiles else "nod"
        last = max((end for start, end in own if start < time), default=0.0)
        until = min((start for start, _ in own if start >= time), default=dialogue.seconds)
        if aloud and rng.random() < party.traits.backchannel and time > max(free, last + 0.3):
            phrase = speak_backchannel(party.voice, listener, time, _turn_at(dialogue, 1 - listener, cue), rng)
            if phrase.end < until - 0.25:
                dialogue.phrases.append(phrase)
                free, kind = phrase.end + 0.3, "backchannel"
        dialogue.responses.append(Response(listener, float(cue), time, kind))


def _turn_at(dialogue: Dialogue, party: int, time: float) -> int:
    """The number of the turn that `party` spoke last before `time` (s)."""
    return max((p for p in dialogue.of(party) if p.start < time), key=lambda p: p.start).turn


def speak_backchannel(
    voice: Voice,
    party: int,
    time: float,
    turn: int,
    rng: np.random.Generator,
    text: str | None = None,
) -> Phrase:
    """A backchannel at `time`, of a length drawn from the measured ones, softer than a turn."""
    sentence = draw_sentence(BACKCHANNEL, rng) if text is None else Sentence(BACKCHANNEL, text)
    speech = synthesise(voice, sentence.text)
    stretch = np.clip(_quantile(BACKCHANNEL_S, rng) / (speech.seconds - 2 * MARGIN_S), 0.6, 1.7)
    speech = find_accents(synthesise(voice, sentence.text, stretch=float(stretch)))
    speech = with_effort(speech, voice, rng.normal(-4.0, 0.7 * voice.effort_db), rng)
    return Phrase(party, BACKCHANNEL, sentence.text, time, speech, turn)


def _quantile(table: tuple[tuple[float, ...], tuple[float, ...]], rng: np.random.Generator) -> float:
    return float(np.interp(rng.random(), *table))
