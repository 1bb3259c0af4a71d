"""Rivals of a policy: motion that hears nothing, or loudness alone, or that made the data."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from synthetic_bag import Invented, write_bag

from timar_ros.channels import CHANNELS
from timar_ros.dialogues.generate import generate
from timar_ros.errors import TimarError
from timar_ros.replay.clips import ClipSource, find_clips
from timar_ros.replay.rivals import MODELLED, RIVALS, SEEDED, rival_motion, true_people

JAW = CHANNELS.index("jawOpen")
SECONDS = 30


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> tuple[ClipSource, ...]:
    """Two conversations with true motion: sway of the head, and a jaw that is exactly a line over loudness."""
    folder = tmp_path_factory.mktemp("people")
    rng = np.random.default_rng(0)
    sources = []
    for k, hertz in enumerate((0.5, 1.5)):
        time = np.arange(25 * SECONDS) / 25
        loudness = rng.uniform(0.01, 0.3, len(time))
        voice = np.repeat(loudness, 640) * np.sign(np.sin(2 * np.pi * 100 * np.arange(len(time) * 640) / 16_000))
        motion = np.zeros((len(time), len(CHANNELS)))
        motion[:, 1] = 0.1 * (k + 1) + np.radians(5.0) * np.sin(2 * np.pi * hertz * time)
        motion[:, 2] = 2.0 * (motion[:, 1] - motion[:, 1].mean())
        motion[:, JAW] = 0.9 + 0.1 * np.log(loudness**2 + 1e-7)
        own = folder / f"{k}.wav"
        soundfile.write(own, voice, 16_000, "FLOAT")
        np.savez(folder / f"{k}.npz", motion=motion)
        sources.append(ClipSource(str(k), own, own, folder / f"{k}.npz"))
    return tuple(sources)


def drawn(name: str, sources: tuple[ClipSource, ...], which: int = 0, seed: int = 0) -> np.ndarray:
    clip = sources[which].read()
    return rival_motion(name, clip, clip.frames, seed, sources).values


@pytest.mark.parametrize("name", [name for name in RIVALS if name not in MODELLED])
def test_rivals_are_the_same_for_the_same_seed(people, name):
    assert np.array_equal(drawn(name, people), drawn(name, people))
    assert np.array_equal(drawn(name, people, seed=0), drawn(name, people, seed=1)) == (name not in SEEDED)


def test_still_head_holds_the_mean_of_all_people(people):
    motion = drawn("still", people)
    assert np.ptp(motion, axis=0).max() == 0
    assert motion[0, 1] == pytest.approx(0.15)


def test_noise_has_the_mean_spectrum_of_the_people_and_their_coherence(people):
    each = [drawn("noise", people, seed=seed) for seed in range(8)]
    pitch = [motion[:, 1] - motion[:, 1].mean() for motion in each]
    power = np.mean([np.abs(np.fft.rfft(one)) ** 2 for one in pitch], axis=0)
    hertz = np.fft.rfftfreq(25 * SECONDS, 1 / 25)
    held = {f: power[np.abs(hertz - f) < 0.1].sum() / power.sum() for f in (0.5, 1.5)}
    assert held[0.5] == pytest.approx(0.5, abs=0.01) and held[1.5] == pytest.approx(0.5, abs=0.01)
    assert np.mean([one.std() for one in pitch]) == pytest.approx(np.radians(5.0) / np.sqrt(2), rel=0.05)
    for motion, one in zip(each, pitch, strict=True):
        assert np.allclose(motion[:, 2] - motion[:, 2].mean(), 2.0 * one, atol=1e-5)
        assert motion[:, 3:].min() >= 0.0 and motion[:, 3:].max() <= 1.0


def test_jaw_from_energy_is_the_line_that_fits_all_people_best_and_knows_nothing_to_come(people):
    truth = people[0].read().truth.values[:, JAW]
    assert np.allclose(drawn("energy-jaw", people)[:, JAW], truth.clip(0, 1), atol=1e-3)
    clip = people[0].read()
    cut = rival_motion("energy-jaw", clip, clip.frames[:100], 0, people).values
    assert np.array_equal(cut, drawn("energy-jaw", people)[:100])


def test_people_of_another_kind_of_motion_are_left_out(people, tmp_path):
    np.savez(tmp_path / "flame.npz", motion=np.zeros((25 * SECONDS, 56)))
    flame = ClipSource("flame", people[0].own, people[0].own, tmp_path / "flame.npz")
    assert len(true_people((*people, flame), "arkit").motion) == 2


def test_people_of_a_bag_are_known_by_its_sound(tmp_path):
    bag = write_bag(tmp_path / "bag", Invented(seconds=4.0))
    np.savez(tmp_path / "truth.npz", motion=np.random.default_rng(0).random((100, len(CHANNELS))))
    source = replace(find_clips(bag)[0], truth=tmp_path / "truth.npz")
    for name in ("still", "noise", "energy-jaw"):
        assert len(drawn(name, (source,))) == 100


def test_without_true_motion_there_is_nobody_to_be_like(people):
    clip = ClipSource("x", people[0].own, people[0].own).read()
    with pytest.raises(TimarError, match="no true motion is known"):
        rival_motion("still", clip, clip.frames, 0, people)


@pytest.mark.skipif(None in map(shutil.which, ("flite", "espeak-ng")), reason="flite and espeak-ng make the dialogues")
def test_behaviour_model_moves_the_same_dialogue_anew(tmp_path):
    generate(tmp_path, 12 / 3600, 7, 1, 12.0)
    (second_party,) = tmp_path.glob("*_speaker2.npz")
    with np.load(second_party) as held:
        truth = held["motion"]
        np.savez(second_party, **(dict(held) | {"seconds": 12.0}))
    source = find_clips(tmp_path)[1]
    assert source.is_generated and source.read().made.party == 1
    first, second = drawn("behaviour", (source,)), drawn("behaviour", (source,), seed=1)
    assert first.shape == truth.shape
    assert np.array_equal(first, drawn("behaviour", (source,))) and not np.array_equal(first, second)
    assert not np.array_equal(first, truth)
    # The mouth says the same, the head moves otherwise.
    assert np.corrcoef(first[:, JAW], truth[:, JAW])[0, 1] > 0.9
    assert np.corrcoef(first[:, 2], truth[:, 2])[0, 1] < 0.9
    # Somebody else says the same, and holds the head otherwise each time.
    anew, strangers = ([drawn(name, (source,), seed=seed) for seed in range(6)] for name in MODELLED)
    assert np.corrcoef(strangers[0][:, JAW], truth[:, JAW])[0, 1] > 0.9
    assert np.array_equal(strangers[0], drawn("stranger", (source,)))
    held = [np.std([motion[:, :3].mean(axis=0) for motion in motions], axis=0).sum() for motions in (anew, strangers)]
    assert held[1] > 1.5 * held[0]


@pytest.mark.parametrize("name", MODELLED)
def test_behaviour_model_is_refused_for_conversations_that_it_did_not_make(people, name):
    clip = people[0].read()
    with pytest.raises(TimarError, match=f"'{name}' is known for dialogues of `timar generate` only"):
        rival_motion(name, clip, clip.frames, 0, people)
