"""Turns: the floor with hysteresis, boundaries set back, and no turn longer than a second."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from timar_ros.errors import TimarError
from timar_ros.learn.turn_evaluation import (
    TurnScores,
    babble,
    decision_delays,
    evaluate_turns,
    match_boundaries,
    music,
    speech_level,
    with_noise,
)
from timar_ros.rates import FRAME_SAMPLES
from timar_ros.stream.floor import Floor, FloorTracker, PartyState, floor_of_speech, joined
from timar_ros.stream.turns import TurnSegmenter

DIALOGUES = Path(__file__).parent / "data" / "dialogues"
MORE_DIALOGUES = DIALOGUES.with_name("turns")
PARTIES = ("self", "partner")
SILENCE = np.zeros(FRAME_SAMPLES, np.float32)


# What a turn is: the floor of known speech.


def test_a_breath_is_no_boundary():
    changes = floor_of_speech([(1.0, 2.0), (2.35, 4.0)], [], 6.0)
    assert changes == [(1.0, Floor.SELF), (4.0, Floor.NOBODY)]


def test_the_floor_passes_where_the_next_party_starts_after_a_usual_gap():
    changes = floor_of_speech([(1.0, 2.0)], [(2.2, 4.0)], 6.0)
    assert changes == [(1.0, Floor.SELF), (2.2, Floor.PARTNER), (4.0, Floor.NOBODY)]


def test_the_floor_passes_where_the_first_party_ends_after_a_usual_overlap():
    changes = floor_of_speech([(1.0, 2.4)], [(2.0, 4.0)], 6.0)
    assert changes == [(1.0, Floor.SELF), (2.4, Floor.PARTNER), (4.0, Floor.NOBODY)]


def test_a_backchannel_under_speech_takes_no_floor():
    changes = floor_of_speech([(1.0, 5.0)], [(2.0, 2.45)], 6.0)
    assert changes == [(1.0, Floor.SELF), (5.0, Floor.NOBODY)]


def test_a_long_overlap_is_everybodys_floor():
    changes = floor_of_speech([(1.0, 3.0)], [(2.0, 4.0)], 6.0)
    assert [floor for _, floor in changes] == ["self", "both", "partner", "nobody"]
    assert [time for time, _ in changes] == [1.0, 2.0, 3.0, 4.0]


def test_a_short_answer_in_silence_takes_the_floor():
    changes = floor_of_speech([(1.0, 2.0)], [(2.6, 2.9)], 6.0)
    assert [floor for _, floor in changes] == ["self", "nobody", "partner", "nobody"]


def test_pauses_shorter_than_the_hysteresis_are_joined():
    assert joined([(2.0, 3.0), (0.0, 1.0), (3.2, 4.0)]) == [(0.0, 1.0), (2.0, 4.0)]


# The running floor.


speech_by_frame = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(1, 30)), min_size=1, max_size=12).map(
    lambda runs: [pair for own, partner, n in runs for pair in [(own, partner)] * n]
)


@settings(max_examples=60, deadline=None)
@given(speech_by_frame, st.integers(0, 12))
def test_decisions_that_come_late_give_the_same_floor(speech, delay):
    """However late speaking is decided, the changes found are those of the known speech."""

    def intervals(party):
        padded = np.pad([pair[party] for pair in speech], 1).astype(int)
        edges = np.flatnonzero(np.diff(padded)) * 0.04
        return list(zip(edges[::2], edges[1::2], strict=True))

    talks = [joined(intervals(party)) for party in (0, 1)]
    end = len(speech) * FRAME_SAMPLES
    tracker = FloorTracker(16_000)
    found = []
    for frame in range(len(speech) + delay):
        judged_to = max(frame + 1 - delay, 0) * FRAME_SAMPLES
        states = []
        for talk in talks:
            edges = [round(time * 16_000) for pair in talk for time in pair]
            before = [edge for edge in edges if edge < judged_to]
            states.append(PartyState(len(before) % 2 == 1, before[-1] if before else 0, judged_to, None))
        found += tracker.step((frame + 1) * FRAME_SAMPLES, *states)
    expected = floor_of_speech(talks[0], talks[1], end / 16_000)
    assert found == [(round(time * 16_000), floor) for time, floor in expected]


def test_the_running_floor_keeps_a_bounded_past():
    tracker = FloorTracker(16_000)
    for number in range(1, 2000):
        now = number * FRAME_SAMPLES
        talking = PartyState(number % 8 < 4, now - now % (4 * FRAME_SAMPLES), now, None)
        tracker.step(now, talking, talking)
    assert len(tracker._switches[0]) < 20


# The running segmenter, on real speech.


@cache
def dialogue(number):
    folder = DIALOGUES if number < 6 else MORE_DIALOGUES
    voices = [soundfile.read(folder / f"dialogue_{number}_{party}.ogg", dtype="float32")[0] for party in PARTIES]
    speech = json.loads((folder / f"dialogue_{number}.json").read_text())["speech"]
    return voices, [speech[party] for party in PARTIES]


def frames_of(own, partner):
    for start in range(0, min(len(own), len(partner)) - FRAME_SAMPLES + 1, FRAME_SAMPLES):
        part = slice(start, start + FRAME_SAMPLES)
        yield own[part], partner[part]


def run(segmenter, own, partner):
    return [segmenter.step(*frame) for frame in frames_of(own, partner)]


snippets = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 30), st.integers(5, 30), st.sampled_from((0, 1))),
    min_size=1,
    max_size=5,
)


@st.composite
def conversations(draw):
    """Two voices of pieces of real speech and silence, up to about 12 s, in any order."""
    sides = []
    for _ in PARTIES:
        pieces = []
        for number, start, tenths, spoken in draw(snippets):
            samples = dialogue(number)[0][start % 2][start * 16_000 :][: tenths * 1600]
            pieces.append(samples if spoken else np.zeros_like(samples))
        sides.append(np.concatenate(pieces))
    return sides


@settings(max_examples=20, deadline=None)
@given(conversations(), st.sampled_from([(25, 2), (25, 1), (24, 4), (10, 3)]))
def test_every_frame_belongs_to_exactly_one_turn_that_is_not_too_long(voices, sizes):
    max_frames, hop_frames = sizes
    segmenter = TurnSegmenter(max_frames=max_frames, hop_frames=hop_frames)
    start = 0  # of the open turn
    for frame, update in enumerate(run(segmenter, *voices)):
        for boundary in update.boundaries:
            assert start < boundary.frame <= frame  # set back, but never to the open turn's start
            length = boundary.frame - start
            assert length <= max_frames
            if boundary.reason == "length":
                assert boundary.frame % hop_frames == 0  # no hop draws in two turns
            start = boundary.frame
        assert frame - start < max_frames  # the open turn too is short enough


@settings(max_examples=8, deadline=None)
@given(conversations())
def test_reset_gives_the_same_turns_again(voices):
    segmenter = TurnSegmenter()
    first = run(segmenter, *voices)
    segmenter.reset()
    assert run(segmenter, *voices) == first
    assert run(TurnSegmenter(), *voices) == first


@settings(max_examples=6, deadline=None)
@given(conversations())
def test_the_parties_are_treated_alike(voices):
    mirrored = {"self": "partner", "partner": "self"}
    for one, other in zip(run(TurnSegmenter(), *voices), run(TurnSegmenter(), *reversed(voices)), strict=True):
        assert one.floor.value == mirrored.get(other.floor.value, other.floor.value)
        assert one.own_speaking == other.partner_speaking
        assert one.own_probability == other.partner_probability
        assert [b.frame for b in one.boundaries] == [b.frame for b in other.boundaries]


def test_silence_is_cut_by_length_only():
    segmenter = TurnSegmenter()
    boundaries = [b for _ in range(100) for b in segmenter.step(SILENCE, SILENCE).boundaries]
    assert [b.frame for b in boundaries] == [24, 48, 72, 96]
    assert {(b.reason, b.floor) for b in boundaries} == {("length", Floor.NOBODY)}


def test_fixed_turns_are_exactly_25_frames_and_the_floor_is_still_told():
    voices, _ = dialogue(0)
    updates = run(TurnSegmenter(mode="fixed"), *(voice[: 30 * 16_000] for voice in voices))
    boundaries = [(frame, b) for frame, u in enumerate(updates) for b in u.boundaries]
    assert [b.frame for _, b in boundaries] == list(range(25, len(updates), 25))
    assert all(frame == b.frame and b.reason == "length" for frame, b in boundaries)
    assert len({update.floor for update in updates}) > 1


def test_a_wrong_mode_is_refused():
    with pytest.raises(TimarError, match="expected 'floor' or 'fixed'"):
        TurnSegmenter(mode="words")
    with pytest.raises(TimarError, match="hop_frames"):
        TurnSegmenter(max_frames=4, hop_frames=5)


def test_a_frame_of_another_length_is_refused():
    with pytest.raises(ValueError, match="640"):
        TurnSegmenter().step(SILENCE[:100], SILENCE)


# The measure itself.


def test_boundaries_are_matched_one_to_one():
    assert match_boundaries([1.0, 2.0], [0.95, 1.05, 2.13]) == [(1.0, 0.95)]
    assert match_boundaries([1.0, 1.1], [0.9, 1.2]) == [(1.0, 0.9), (1.1, 1.2)]


def test_delays_are_counted_to_the_end_of_the_frame_that_decides():
    speaking = np.zeros(100, bool)
    speaking[27:60] = True
    starts, ends = decision_delays(speaking, [(1.0, 2.2)], 4.0)
    assert starts == [pytest.approx(28 * 0.04 - 1.0)]
    assert ends == [pytest.approx(61 * 0.04 - 2.2)]
    assert decision_delays(~speaking, [(1.2, 2.0)], 4.0)[0] == [float("inf")]


def test_noise_is_10_db_below_the_active_level():
    (own, _), (speech, _) = dialogue(0)
    noise = music(len(own), seed=1)
    heard = with_noise(own, speech, noise)
    added = np.sqrt(np.mean(np.square(heard - own, dtype=np.float64)))
    assert 20 * np.log10(speech_level(own, speech) / added) == pytest.approx(10.0, abs=0.1)
    assert np.array_equal(noise, music(len(own), seed=1))


def noises(kind, number):
    """Noise of level 1 for both channels of a dialogue; babble is eight of the other dialogues' voices."""
    voices, _ = dialogue(number)
    for party, voice in enumerate(voices):
        seed = 2 * number + party
        if kind == "music":
            yield music(len(voice), seed)
            continue
        others = [v for n in range(18) if n != number for v in zip(*dialogue(n), strict=True)]
        chosen = np.random.default_rng(seed).permutation(len(others))[:8]
        yield babble([others[i] for i in chosen], len(voice), seed)


def test_turns_of_a_clean_dialogue_are_found_in_time():
    voices, speech = dialogue(0)
    scores = evaluate_turns(*voices, *speech)
    assert scores.f1 >= 0.9 and scores.start_delay_p95_s <= 0.200 and scores.end_delay_p95_s <= 0.350


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("kind", "f1"),
    [("clean", 0.90), ("babble", 0.80), ("music", 0.80)],
)
def test_turns_of_generated_dialogues_are_found(kind, f1, capsys):
    scores = TurnScores()
    for number in range(18):
        voices, speech = dialogue(number)
        if kind != "clean":
            voices = [
                with_noise(voice, talk, noise)
                for voice, talk, noise in zip(voices, speech, noises(kind, number), strict=True)
            ]
        scores += evaluate_turns(*voices, *speech)
    with capsys.disabled():
        print(f"\nfloor boundaries, {kind}: {scores}")
    assert scores.f1 >= f1
    assert scores.start_delay_p95_s <= 0.200
    assert scores.end_delay_p95_s <= 0.350
