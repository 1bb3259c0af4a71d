"""Evidence of speech: the near voice stands out of its background."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from timar_ros.learn.speech_evidence_training import (
    VARIANTS,
    features_and_truth,
    heard,
    load_dialogues,
    main,
    prepare,
    train,
)
from timar_ros.learn.turn_evaluation import babble
from timar_ros.stream.speech_evidence import FEATURES, SURE_DELAY_CHUNKS, EvidenceNetwork, SpeechEvidence
from timar_ros.stream.voice_activity import SileroVoiceActivity

DIALOGUES = Path(__file__).parent / "data" / "dialogues"


def voice(number, party):
    samples, _ = soundfile.read(DIALOGUES / f"dialogue_{number}_{party}.ogg", dtype="float32")
    return samples, json.loads((DIALOGUES / f"dialogue_{number}.json").read_text())["speech"][party]


def log_odds(own, partner):
    """[parties, chunks, 2]: of speech now and then, as heard by a new SpeechEvidence."""
    return np.stack([values for _, values in SpeechEvidence()(own, partner)], axis=1)


@pytest.fixture(scope="module")
def voices():
    return [voice(0, party)[0][: 6 * 16_000] for party in ("self", "partner")]


def test_speech_and_silence_are_told_apart():
    parties = [voice(0, party) for party in ("self", "partner")]
    for evidence, (_, speech) in zip(log_odds(*(own for own, _ in parties))[:, :, 1], parties, strict=True):
        # What is judged with each chunk lies some chunks before it.
        time_s = (np.arange(len(evidence)) - SURE_DELAY_CHUNKS + 0.5) * 0.032
        spoken = np.any([(s < time_s) & (time_s < e) for s, e in speech], axis=0)
        assert np.mean(evidence[spoken] > 0) > 0.97
        assert np.mean(evidence[~spoken] < 0) > 0.97


def test_a_party_that_cannot_be_heard_does_not_matter():
    own, speech = voice(0, "partner")
    evidence, nobody = log_odds(own, np.zeros_like(own))[:, :, 1]
    time_s = (np.arange(len(evidence)) - SURE_DELAY_CHUNKS + 0.5) * 0.032
    spoken = np.any([(s < time_s) & (time_s < e) for s, e in speech], axis=0)
    assert np.mean((evidence > 0) == spoken) > 0.96
    assert nobody.max() < 0.0


def test_babble_is_no_evidence_though_silero_hears_speech():
    crowds = [voice(number, party) for number in range(5) for party in ("self", "partner")]
    crowd, other = (0.03 * babble(crowds, 12 * 16_000, seed) for seed in (0, 1))
    heard_by_silero = [p for _, p in SileroVoiceActivity()(crowd)][-200:]
    evidence = log_odds(crowd, other)[0, -200:, 0]
    assert np.mean(np.array(heard_by_silero) > 0.5) > 0.5
    assert np.mean(evidence > 0.0) < 0.15


def equal(some, others):
    return len(some) == len(others) and all(
        one[0] == other[0] and np.array_equal(one[1], other[1]) for one, other in zip(some, others, strict=True)
    )


@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, 6 * 16_000), max_size=10))
def test_cutting_changes_nothing(voices, cuts):
    evidence = SpeechEvidence()
    pieces = zip(*(np.split(samples, sorted(cuts)) for samples in voices), strict=True)
    assert equal([e for own, partner in pieces for e in evidence(own, partner)], SpeechEvidence()(*voices))


def test_reset_forgets_all(voices):
    evidence = SpeechEvidence()
    first = evidence(*voices)
    evidence.reset()
    assert equal(evidence(*voices), first)


def test_exchanged_parties_give_exchanged_evidence(voices):
    own, partner = voices
    assert np.array_equal(log_odds(partner, own), log_odds(own, partner)[::-1])


def test_loudness_hardly_matters(voices):
    own, partner = voices
    loud, quiet = (log_odds(gain * own, gain * partner)[:, :, 1] for gain in (1.0, 0.1))
    assert np.mean((loud > 0) == (quiet > 0)) > 0.97


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two short dialogues as the generator lays them out."""
    folder = tmp_path_factory.mktemp("dialogues")
    for number in (0, 1):
        for place, party in enumerate(("self", "partner"), start=1):
            own, speech = voice(number, party)
            name = folder / f"dialogue_{number}_speaker{place}"
            soundfile.write(f"{name}.wav", own[: 20 * 16_000], 16_000)
            np.savez(f"{name}.npz", speech=np.array([s for s in speech if s[1] < 20.0]))
    return folder


@pytest.fixture(scope="module")
def dialogues(folder):
    return load_dialogues(folder)


def test_training_gives_weights_that_run_as_trained(dialogues):
    examples = features_and_truth(dialogues, [0, 1], ["music"])
    features, truth = examples[0]
    assert features.shape == (*truth.shape, FEATURES)
    network = EvidenceNetwork(train(examples, steps=8))
    given = features.astype(np.float32)
    evidence = np.stack([network(*given[:, chunk]) for chunk in range(truth.shape[1])], axis=1)
    assert evidence.shape == (*truth.shape, 2)
    then, spoken = evidence[:, SURE_DELAY_CHUNKS:, 1], truth[:, :-SURE_DELAY_CHUNKS] > 0.5
    assert then[spoken].mean() > then[~spoken].mean()


def test_a_wider_network_goes_on_from_what_a_narrower_one_knows(dialogues):
    examples = features_and_truth(dialogues, [0, 1], ["music"])
    narrow = train(examples, steps=8, units=(8, 12, 8))
    wide = train(examples, steps=2, units=(16, 16, 24), start=narrow)
    assert wide["both_state_weight"].shape == (24, 72)
    given = examples[0][0][:, :100].astype(np.float32)
    before, after = (
        np.stack([network(*given[:, chunk]) for chunk in range(100)])
        for network in (EvidenceNetwork(narrow), EvidenceNetwork(wide))
    )
    # Two steps at a low rate hardly change it; an untrained network's log odds would be other ones.
    untrained = EvidenceNetwork(train(examples, steps=2, seed=1, units=(16, 16, 24)))
    other = np.stack([untrained(*given[:, chunk]) for chunk in range(100)])
    assert np.abs(after - before).mean() < 0.3 * np.abs(other - before).mean()


def test_the_mean_of_before_and_after_can_be_written(folder, tmp_path, monkeypatch):
    small = ["--steps", "1", "--units", "4", "4", "4"]

    def trained(name, *options):
        arguments = ["train", str(folder), str(tmp_path / "features"), "--out", str(tmp_path / name), *small, *options]
        monkeypatch.setattr("sys.argv", arguments)
        main()
        with np.load(tmp_path / name) as file:
            return dict(file)

    start = trained("start.npz")
    go_on = ["--start", str(tmp_path / "start.npz"), "--dropout", "0", "0", "--learning-rate", "0.01"]
    after, mean = trained("after.npz", *go_on), trained("mean.npz", *go_on, "--keep", "0.25")
    assert not all(np.array_equal(start[name], after[name]) for name in start)
    for name in start:
        assert mean[name] == pytest.approx(0.25 * start[name] + 0.75 * after[name], abs=1e-6)


def test_features_once_computed_are_used_again(dialogues, tmp_path):
    once = prepare(dialogues, 1, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = prepare(dialogues, 1, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    assert len(once) == len(dialogues) * len(VARIANTS)
    assert all(np.array_equal(a, b) for x, y in zip(once, again, strict=True) for a, b in zip(x, y, strict=True))


def test_what_is_heard_is_the_same_for_the_same_seed(dialogues):
    once, again = (heard(dialogues, 0, 0, "babble", seed=3) for _ in range(2))
    other = heard(dialogues, 0, 0, "babble", seed=4)
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)
