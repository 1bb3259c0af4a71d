"""Evidence of speech: the near voice stands out of its background."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from timar_ros.errors import TimarError
from timar_ros.learn.speech_evidence_training import (
    VARIANTS,
    examples_of,
    heard,
    load_dialogues,
    main,
    prepare,
    targets_of,
    train,
)
from timar_ros.learn.turn_evaluation import babble, decision_delays
from timar_ros.rates import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE
from timar_ros.stream.speaking import PartySpeaking, SpeakingDetector
from timar_ros.stream.speech_evidence import FEATURES, SURE_DELAY_CHUNKS, EvidenceNetwork, SpeechEvidence
from timar_ros.stream.voice_activity import CHUNK_SAMPLES, SileroVoiceActivity

DIALOGUES = Path(__file__).parent / "data" / "dialogues"


def voice(number, party):
    samples, _ = soundfile.read(DIALOGUES / f"dialogue_{number}_{party}.ogg", dtype="float32")
    return samples, json.loads((DIALOGUES / f"dialogue_{number}.json").read_text())["speech"][party]


def log_odds(own, partner):
    """[parties, chunks, 3]: of speech now and then, and to be told, as heard by a new SpeechEvidence."""
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


def told_in_babble(gap_s: tuple[float, float], known: bool) -> float:
    """Share of the 16 s after a gap in the partner's channel, in which there is nothing but babble."""
    crowds = [voice(number, party) for number in range(5) for party in ("self", "partner")]
    length = 32 * SAMPLE_RATE // FRAME_SAMPLES
    partner = (0.03 * babble(crowds, length * FRAME_SAMPLES, 0)).reshape(-1, FRAME_SAMPLES)
    own = np.resize(voice(2, "self")[0], partner.shape)
    detector, told = SpeakingDetector(), []
    for frame in range(length):
        missing = gap_s[0] <= frame * FRAME_S < gap_s[1]
        detector(
            own[frame], np.zeros(FRAME_SAMPLES, np.float32) if missing else partner[frame], not missing or not known
        )
        told.append(detector.partner.told)
    begin = round(gap_s[1] / FRAME_S)
    return float(np.mean(told[begin : begin + round(16 / FRAME_S)]))


@pytest.mark.parametrize("gap_s", [(0.0, 10.0), (6.0, 16.0)], ids=["comes late", "is muted"])
def test_silence_that_stands_in_is_not_the_background_of_a_channel(gap_s):
    """Else the babble behind a microphone that is heard again stands out as if somebody near spoke."""
    assert told_in_babble(gap_s, known=True) < 0.15
    assert told_in_babble(gap_s, known=False) > 0.3


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
    examples = examples_of(dialogues, [0, 1], ["music"])
    features, speech = examples[0]
    chunks = features.shape[1]
    assert features.shape == (2, chunks, FEATURES)
    network = EvidenceNetwork(train([examples], steps=8))
    given = features.astype(np.float32)
    evidence = np.stack([network(*given[:, chunk]) for chunk in range(chunks)], axis=1)
    assert evidence.shape == (2, chunks, 3)
    wanted = np.stack([targets_of(intervals, chunks)[0] for intervals in speech]) > 0.5
    for judged, true in zip(np.moveaxis(evidence, 2, 0), np.moveaxis(wanted, 2, 0), strict=True):
        assert judged[true].mean() > judged[~true].mean()


def test_training_goes_on_from_weights_of_the_same_size(folder, tmp_path, monkeypatch):
    def trained(name, *options):
        out = tmp_path / name
        options = ["--features", str(tmp_path / "features"), "--steps", "1", "--out", str(out), *options]
        monkeypatch.setattr("sys.argv", ["train", str(folder), *options])
        main()
        with np.load(out) as file:
            return dict(file)

    small, start = ["--units", "4", "5", "6"], tmp_path / "first.npz"
    first, other = trained("first.npz", *small), trained("other.npz", "--units", "4", "5", "7")
    assert first["both_state_weight"].shape == (6, 18)
    assert other["both_state_weight"].shape == (7, 21)
    gone_on = trained("second.npz", *small, "--start", str(start))
    for name, before in first.items():
        assert np.abs(gone_on[name] - before).max() < 0.01  # a step at its low rate
    with pytest.raises(TimarError, match="give --units as those weights were made with"):
        trained("third.npz", "--units", "4", "5", "7", "--start", str(start))


talks = st.lists(st.tuples(st.floats(0.02, 2.0), st.floats(0.3, 3.0)), min_size=1, max_size=6).map(
    lambda steps: [
        (sum(map(sum, steps[:k])) + pause, sum(map(sum, steps[: k + 1]))) for k, (pause, _) in enumerate(steps)
    ]
)


@given(talks)
def test_who_tells_what_is_asked_for_is_in_time(speech):
    """A start within 200 ms and an end within 350 ms, as `turn_evaluation` measures it, told after each frame."""
    chunks = int((speech[-1][1] + 2.0) / 0.032)
    told = targets_of(speech, chunks)[0][:, 2] > 0.5
    frames = chunks * CHUNK_SAMPLES // FRAME_SAMPLES
    newest = (np.arange(frames) + 1) * FRAME_SAMPLES // CHUNK_SAMPLES - 1
    starts, ends = decision_delays((newest >= 0) & told[newest], speech, frames * 0.04 - 1.0)
    assert max(starts) <= 0.2 + 1e-9
    assert not ends or max(ends) <= 0.35 + 1e-9


def test_either_will_do_shortly_after_a_change_and_late_is_worse():
    wanted, weights = targets_of([(1.0, 2.0)], 150)
    ends_s = 0.032 * np.arange(1, 151)
    told, weight = wanted[:, 2], weights[:, 2]
    assert np.array_equal(told > 0.5, (ends_s >= 1.11) & (ends_s < 2.26))
    assert np.array_equal(weight == 0.0, ((ends_s >= 1.0) & (ends_s < 1.11)) | ((ends_s >= 2.0) & (ends_s < 2.26)))
    assert np.all(weight[(ends_s >= 1.11) & (ends_s < 1.4)] > weight[0])
    assert np.all(weight[(ends_s >= 2.26) & (ends_s < 2.5)] > weight[0])


def test_a_late_start_weighs_what_is_asked_for_and_nothing_else_changes():
    (wanted, weights), (same, more) = (targets_of([(1.0, 2.0)], 150, weight) for weight in (4.0, 8.0))
    ends_s = 0.032 * np.arange(1, 151)
    late = np.zeros_like(weights, dtype=bool)
    late[:, 2] = (ends_s >= 1.11) & (ends_s < 1.41)
    assert np.array_equal(wanted, same)
    assert np.array_equal(weights != more, late)
    assert set(weights[late]) == {4.0} and set(more[late]) == {8.0}


def test_a_start_is_told_on_less_than_an_end_but_not_just_after_one():
    party = PartySpeaking()
    told = []
    for number, log_odds in enumerate([-0.4, -0.2, -0.1, *[-0.2] * 8, 0.1, -0.1, 0.1]):
        party.judge((number + 1) * CHUNK_SAMPLES, 0.0, 0.0, log_odds)
        told.append(party.told)
    assert told == [False, True, False, *[False] * 7, True, True, False, True]


def test_features_once_computed_are_used_again(dialogues, tmp_path):
    once = prepare(dialogues, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = prepare(dialogues, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    assert len(once) == len(dialogues) * len(VARIANTS)
    assert all(np.array_equal(one[0], other[0]) for one, other in zip(once, again, strict=True))


def test_what_is_heard_is_the_same_for_the_same_seed(dialogues):
    once, again = (heard(dialogues, 0, 0, "babble", seed=3) for _ in range(2))
    other = heard(dialogues, 0, 0, "babble", seed=4)
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_features_kept_of_other_dialogues_are_not_taken(tmp_path):
    """Folders of one name, or one that was generated anew."""
    rng = np.random.default_rng(0)
    one, other = (
        [tuple((0.1 * rng.standard_normal(32_000), [(0.5, 1.5)]) for _ in range(2)) for _ in range(2)] for _ in range(2)
    )
    first, second, again = (prepare(each, tmp_path) for each in (one, other, one))
    assert not np.array_equal(first[0][0], second[0][0])
    assert np.array_equal(first[0][0], again[0][0])
