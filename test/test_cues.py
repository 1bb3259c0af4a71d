"""Cues in the speaker's voice, and what the listener makes of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timar_ros.dialogues.behaviour import move
from timar_ros.dialogues.dialogue import (
    CUE_APART_S,
    CUE_PAUSE_S,
    CUE_SPEECH_S,
    TAKEN_S,
    Dialogue,
    Party,
    Phrase,
    add_responses,
    find_cues,
)
from timar_ros.dialogues.sentences import BACKCHANNEL, STATEMENT
from timar_ros.dialogues.traits import draw_traits
from timar_ros.dialogues.voices import Phoneme, Speech, Voice
from timar_ros.motion.track import MotionTrack
from timar_ros.replay.behaviour_metrics import nod_onsets

LISTENER, SPEAKER = 0, 1


def said(party: int, start: float, end: float, act: str = STATEMENT, turn: int = 0) -> Phrase:
    """One long vowel from `start` to `end` (s)."""
    seconds = end - start
    samples = np.zeros(round(seconds * 16000), np.float32)
    effort = np.zeros(round(seconds * 100) + 1)
    return Phrase(party, act, "ah", start, Speech(samples, (Phoneme("aa", 0.0, seconds),), effort_db=effort), turn)


def conversation(*phrases: Phrase, seconds: float = 20.0, liveliness: float = 0.5) -> Dialogue:
    person = Party(
        Voice("slt", 170.0, 20.0, 1.0, 1.0, -25.0, 3.0), draw_traits(np.random.default_rng(0), liveliness=liveliness)
    )
    return Dialogue((person, person), list(phrases), seconds=seconds)


def test_the_end_of_a_clause_before_a_pause_is_a_cue():
    dialogue = conversation(said(SPEAKER, 1.0, 3.0), said(SPEAKER, 3.5, 6.0), said(SPEAKER, 8.0, 9.0))
    assert find_cues(dialogue, LISTENER).tolist() == [3.0, 6.0, 9.0]
    assert find_cues(dialogue, SPEAKER).tolist() == []


def test_short_speech_short_pauses_and_what_follows_too_soon_are_none():
    assert find_cues(conversation(said(SPEAKER, 1.0, 1.0 + CUE_SPEECH_S - 0.05)), LISTENER).size == 0
    run_on = conversation(said(SPEAKER, 1.0, 3.0), said(SPEAKER, 3.0 + CUE_PAUSE_S - 0.05, 6.0))
    assert find_cues(run_on, LISTENER).tolist() == [6.0]
    soon = conversation(said(SPEAKER, 1.0, 3.0), said(SPEAKER, 3.5, 3.0 + CUE_APART_S - 0.1))
    assert find_cues(soon, LISTENER).tolist() == [3.0]


def test_no_cue_while_the_listener_speaks_or_is_about_to():
    talking = conversation(said(SPEAKER, 1.0, 3.0), said(LISTENER, 2.5, 5.0))
    assert find_cues(talking, LISTENER).size == 0
    about_to = conversation(said(SPEAKER, 1.0, 3.0), said(LISTENER, 3.0 + TAKEN_S - 0.05, 5.0))
    assert find_cues(about_to, LISTENER).size == 0
    later = conversation(said(SPEAKER, 1.0, 3.0), said(LISTENER, 3.0 + TAKEN_S + 0.05, 5.0))
    assert find_cues(later, LISTENER).tolist() == [3.0]


def test_a_backchannel_does_not_take_the_floor():
    dialogue = conversation(said(SPEAKER, 1.0, 3.0), said(LISTENER, 3.1, 3.4, BACKCHANNEL))
    assert find_cues(dialogue, LISTENER).tolist() == [3.0]


spoken = st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.05, 4.0)), max_size=12)


@settings(max_examples=40, deadline=None)
@given(own=spoken, partner=spoken, seed=st.integers(0, 2**32 - 1))
def test_answers_follow_cues_in_any_conversation(own, partner, seed):
    phrases = []
    for party, lengths in ((LISTENER, own), (SPEAKER, partner)):
        time = 0.0
        for gap, length in lengths:
            phrases.append(said(party, time + gap, time + gap + length))
            time += gap + length
    dialogue = conversation(*phrases, seconds=90.0)
    cues = find_cues(dialogue, LISTENER)
    assert np.all(np.diff(cues) >= CUE_APART_S)
    add_responses(dialogue, LISTENER, np.random.default_rng(seed), aloud=False)
    assert len(dialogue.responses) <= len(cues)
    for response in dialogue.responses:
        assert response.cue in cues
        assert 0.35 <= response.time - response.cue <= 0.75


@pytest.mark.parametrize("liveliness", [0.0, 0.5, 1.0])
def test_a_listeners_nods_can_be_told_from_its_idle_movement(liveliness):
    """Two minutes of listening: nods are found where they were answered, and hardly any elsewhere."""
    clauses = [said(SPEAKER, t, t + 3.2) for t in np.arange(1.0, 115.0, 4.0)]
    dialogue = conversation(*clauses, seconds=120.0, liveliness=liveliness)
    add_responses(dialogue, LISTENER, np.random.default_rng(3), aloud=False)
    times = np.array([r.time for r in dialogue.responses if r.kind == "nod"])
    assert len(times) > 18
    found = nod_onsets(MotionTrack(move(dialogue, LISTENER, np.random.default_rng(4)))) / 25
    near = np.abs(found[:, None] - times).min(axis=1) < 1.0
    assert near.mean() > 0.8
    hit = np.abs(times[:, None] - found).min(axis=1) < 1.0
    assert hit.mean() > 0.6
