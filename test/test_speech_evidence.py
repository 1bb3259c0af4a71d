"""Evidence of speech: the near voice stands out of its background."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from timar_ros.learn.speech_evidence_training import features_and_truth, heard, load_dialogues, train
from timar_ros.learn.turn_evaluation import babble
from timar_ros.stream.speech_evidence import FEATURES, RecurrentNetwork, SpeechEvidence
from timar_ros.stream.voice_activity import SileroVoiceActivity

DIALOGUES = Path(__file__).parent / "data" / "dialogues"


def voice(number, party):
    samples, _ = soundfile.read(DIALOGUES / f"dialogue_{number}_{party}.ogg", dtype="float32")
    return samples, json.loads((DIALOGUES / f"dialogue_{number}.json").read_text())["speech"][party]


@pytest.fixture(scope="module")
def samples():
    return voice(0, "partner")[0][: 6 * 16_000]


def test_speech_and_silence_are_told_apart():
    own, speech = voice(0, "partner")
    evidence = np.array([then for _, _, then in SpeechEvidence()(own)])
    # What is judged with each chunk lies 5 chunks before it.
    time_s = (np.arange(len(evidence)) - 5 + 0.5) * 0.032
    spoken = np.any([(s < time_s) & (time_s < e) for s, e in speech], axis=0)
    assert np.mean(evidence[spoken] > 0) > 0.97
    assert np.mean(evidence[~spoken] < 0) > 0.97


def test_babble_is_no_evidence_though_silero_hears_speech():
    voices = [voice(number, party) for number in range(5) for party in ("self", "partner")]
    crowd = 0.03 * babble(voices, 12 * 16_000, seed=0)
    heard_by_silero = [p for _, p in SileroVoiceActivity()(crowd)][-200:]
    evidence = [now for _, now, _ in SpeechEvidence()(crowd)][-200:]
    assert np.mean(np.array(heard_by_silero) > 0.5) > 0.5
    assert np.mean(np.array(evidence) > 0.0) < 0.15


@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, 6 * 16_000), max_size=10))
def test_cutting_changes_nothing(samples, cuts):
    whole = SpeechEvidence()(samples)
    evidence = SpeechEvidence()
    assert [e for piece in np.split(samples, sorted(cuts)) for e in evidence(piece)] == whole


def test_reset_forgets_all(samples):
    evidence = SpeechEvidence()
    first = evidence(samples)
    evidence.reset()
    assert evidence(samples) == first


def test_loudness_hardly_matters(samples):
    loud = np.array([then for _, _, then in SpeechEvidence()(samples)])
    quiet = np.array([then for _, _, then in SpeechEvidence()(0.1 * samples)])
    assert np.mean((loud > 0) == (quiet > 0)) > 0.97


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory):
    """Two short dialogues as the generator lays them out."""
    folder = tmp_path_factory.mktemp("dialogues")
    for number in (0, 1):
        for place, party in enumerate(("self", "partner"), start=1):
            own, speech = voice(number, party)
            name = folder / f"dialogue_{number}_speaker{place}"
            soundfile.write(f"{name}.wav", own[: 20 * 16_000], 16_000)
            np.savez(f"{name}.npz", speech=np.array([s for s in speech if s[1] < 20.0]))
    return load_dialogues(folder, most=10)


def test_training_gives_weights_that_run_as_trained(dialogues):
    features, truth = features_and_truth(dialogues, (0, 1, "music", 0))
    assert features.shape == (len(truth), FEATURES)
    weights = train([(features, truth)], steps=40)
    network = RecurrentNetwork(weights)
    log_odds = np.stack([network(row) for row in features])
    spoken = np.concatenate([np.zeros(5), truth[:-5]]) > 0.5
    assert log_odds.shape == (len(truth), 2)
    assert log_odds[spoken, 1].mean() > log_odds[~spoken, 1].mean() + 1.0


def test_what_is_heard_is_the_same_for_the_same_seed(dialogues):
    once, again = (heard(dialogues, 0, 0, "babble", seed=3) for _ in range(2))
    other = heard(dialogues, 0, 0, "babble", seed=4)
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)
