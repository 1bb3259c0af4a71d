"""Generated dialogues: what they contain, that they repeat, and how near people they are."""

import argparse
import importlib.util
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from timar_ros.channels import CHANNELS
from timar_ros.dialogues import generate, statistics
from timar_ros.dialogues.behaviour import move
from timar_ros.dialogues.demonstration import demonstration
from timar_ros.dialogues.dialogue import Dialogue, Party, Response, draw_dialogue, join_intervals
from timar_ros.dialogues.sentences import BACKCHANNEL, QUESTIONS
from timar_ros.dialogues.traits import draw_traits
from timar_ros.dialogues.visemes import mouth
from timar_ros.dialogues.voices import FLITE_VOICES, Phoneme, Voice, draw_voice, inner_pauses, synthesise, with_pauses
from timar_ros.errors import TimarError

REPOSITORY = Path(__file__).parent.parent
JAW, CLOSE = CHANNELS.index("jawOpen"), CHANNELS.index("mouthClose")
PITCH = CHANNELS.index("headPitch")

needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed: sudo apt install flite")
needs_synthesisers = pytest.mark.skipif(
    shutil.which("flite") is None or shutil.which("espeak-ng") is None,
    reason="not both are installed: sudo apt install flite espeak-ng",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Six minutes of dialogue."""
    out = tmp_path_factory.mktemp("dialogues")
    generate.generate(out, hours=0.1, seed=5, jobs=2)
    return out


@pytest.fixture(scope="module")
def tracks(folder) -> list:
    """(party, its partner) for every party of the six minutes."""
    dialogues = statistics.read_dialogues(folder)
    return [(pair[i], pair[1 - i]) for pair in dialogues for i in (0, 1)]


def traits(liveliness: float):
    return draw_traits(np.random.default_rng(0), liveliness)


def silence(seconds: float, liveliness: float, responses: Sequence[Response] = ()) -> Dialogue:
    """A dialogue in which nobody says anything."""
    person = Party(Voice("slt", 170.0, 20.0, 1.0, 1.0, -25.0, 3.0), traits(liveliness))
    return Dialogue((person, person), responses=list(responses), seconds=seconds)


# --- files -----------------------------------------------------------------------------------


@needs_synthesisers
def test_layout_on_disk(folder):
    names = sorted(p.name for p in folder.iterdir())
    assert len(names) == 6 * 4
    for number in range(6):
        frames = []
        for speaker in ("speaker1", "speaker2"):
            stem = folder / f"{generate.dialogue_name(5, number)}_{speaker}"
            info = soundfile.info(f"{stem}.wav")
            assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
            assert info.frames % 640 == 0
            with np.load(f"{stem}.npz") as data:
                assert data["motion"].dtype == np.float32
                assert data["motion"].shape == (info.frames // 640, 55)
                assert tuple(data["channels"]) == CHANNELS
                assert data["speech"].dtype == np.float64
                assert data["seed"].tolist() == [5, number]
                assert len(data["acts"]) == len(data["act_times"]) == len(data["act_turns"])
                assert len(data["cues"]) == len(data["cue_sources"])
                assert data["seconds"] == 60.0
                assert data["engines"].tolist() == ["flite", "espeak-ng"]
            frames.append(info.frames)
        assert frames[0] == frames[1]
        assert 45 < frames[0] / 16000 < 85


@needs_synthesisers
def test_the_same_seed_gives_the_same_files_however_many_jobs(folder, tmp_path):
    generate.generate(tmp_path, hours=2 / 60, seed=5, jobs=1)
    for path in sorted(tmp_path.iterdir()):
        if path.suffix == ".wav":
            assert path.read_bytes() == (folder / path.name).read_bytes()
        else:
            with np.load(path) as one, np.load(folder / path.name) as other:
                assert all(np.array_equal(one[key], other[key]) for key in one.files)


@needs_synthesisers
@pytest.mark.parametrize("changed", [{"seconds": 30.0}, {"engines": ("flite",)}])
def test_dialogues_made_otherwise_are_not_taken_for_these(folder, changed):
    with pytest.raises(TimarError, match=r"made with --seconds 60 --voices flite espeak-ng; give the same"):
        generate.generate(folder, hours=0.1, seed=5, jobs=1, **changed)


@needs_synthesisers
def test_another_seed_gives_another_dialogue():
    one, _ = generate.make_dialogue(1, 0, 12.0)
    other, _ = generate.make_dialogue(2, 0, 12.0)
    assert [p.text for p in one.phrases] != [p.text for p in other.phrases]


@needs_synthesisers
def test_a_second_run_makes_only_what_is_missing(tmp_path):
    generate.generate(tmp_path, hours=2 * 12 / 3600, seed=3, jobs=1, seconds=12.0)
    gone = tmp_path / f"{generate.dialogue_name(3, 1)}_speaker1.npz"
    kept = tmp_path / f"{generate.dialogue_name(3, 0)}_speaker1.wav"
    gone.unlink()
    before = kept.stat().st_mtime_ns
    assert generate.generate(tmp_path, 2 * 12 / 3600, seed=3, jobs=1, seconds=12.0) == 1
    assert gone.exists()
    assert kept.stat().st_mtime_ns == before


# --- voices ----------------------------------------------------------------------------------


def test_the_parties_have_different_voices():
    rng = np.random.default_rng(0)
    for _ in range(50):
        first = draw_voice(rng)
        assert draw_voice(rng, other=first).name != first.name


@needs_synthesisers
def test_speech_intervals_are_where_the_voice_is(folder):
    for path in sorted(folder.glob("*.npz")):
        samples, _ = soundfile.read(path.with_suffix(".wav"))
        level = (samples.reshape(-1, 160) ** 2).mean(axis=1)  # 10 ms
        time = (np.arange(len(level)) + 0.5) / 100
        with np.load(path) as data:
            speech = data["speech"]
        assert np.all(speech[:, 1] > speech[:, 0])
        assert np.all(speech[1:, 0] - speech[:-1, 1] >= 0.2)
        inside = np.any((time >= speech[:, :1]) & (time <= speech[:, 1:]), axis=0)
        near = np.any((time >= speech[:, :1] - 0.1) & (time <= speech[:, 1:] + 0.1), axis=0)
        # The synthesiser's own breath noise stays 20 dB and more below the speech.
        assert 10 * np.log10(level[inside].mean() / (level[~near].mean() + 1e-12)) > 20
        for start, end in speech:
            within = level[(time >= start) & (time <= end)]
            assert within.max() > 30 * level[~near].mean()


@needs_flite
def test_pauses_can_be_lengthened_and_shortened():
    voice = Voice("slt", 170.0, 20.0, 1.0, 1.0, -25.0, 3.0)
    speech = synthesise(voice, "Well, it was raining, and we stayed at home.")
    assert len(inner_pauses(speech)) == 2
    changed = with_pauses(speech, [0.9, 0.05])
    assert inner_pauses(changed) == pytest.approx([0.9, 0.05], abs=1e-3)
    added = 0.95 - sum(inner_pauses(speech))
    assert changed.seconds == pytest.approx(speech.seconds + added, abs=1e-3)


@needs_flite
def test_phonemes_keep_their_times_when_a_voice_is_played_faster():
    slow = Voice("slt", 170.0, 20.0, 1.0, 0.85, -25.0, 3.0)
    fast = replace(slow, speed=1.2)
    for voice in (slow, fast):
        speech = synthesise(voice, "Bob took a big boat.")
        assert speech.phonemes[-1].end == pytest.approx(speech.seconds - 0.03, abs=0.1)
        # The sound of the stressed vowel of "boat" is where its phoneme is said to be.
        vowel = next(p for p in speech.phonemes if p.name == "ow")
        level = np.array([np.abs(b).mean() for b in np.array_split(speech.samples, 100)])
        middle = round(99 * (vowel.start + vowel.end) / 2 / speech.seconds)
        assert level[middle] > np.median(level)


# --- timing ----------------------------------------------------------------------------------


@needs_synthesisers
def test_timing_is_near_that_of_people(folder):
    figures = statistics.timing(statistics.read_dialogues(folder))
    assert 0.66 < figures["one speaks, share of time"][0] < 0.86
    assert 0.02 < figures["both speak"][0] < 0.11
    assert 0.09 < figures["nobody speaks"][0] < 0.26
    assert 2.5 < figures["backchannels a minute"][0] < 7.5
    assert 0.28 < figures["backchannel length, s"][2] < 0.5
    assert 0.8 < figures["talk spurts, s at p5/25/50/75/95"][2] < 2.0
    assert -0.2 < figures["floor transfer, s"][2] < 0.35


@needs_synthesisers
def test_statements_questions_and_backchannels_have_their_shares(folder):
    shares = statistics.act_shares(statistics.read_dialogues(folder))
    assert 0.6 < shares["statement"] < 0.92
    assert 0.01 < shares[BACKCHANNEL] < 0.06
    assert 0.02 < sum(shares.get(act, 0.0) for act in QUESTIONS) < 0.16


@needs_synthesisers
def test_listeners_answer_most_cues_half_a_second_later(folder):
    offered, answered, minutes = 0, 0, 0.0
    for path in folder.glob("*.npz"):
        with np.load(path) as data:
            assert set(data["cue_sources"]) <= set(data["cues_offered"])
            delay = data["cues"] - data["cue_sources"]
            offered += len(data["cues_offered"])
            answered += len(data["cues"])
            minutes += len(data["motion"]) / 25 / 60
        assert np.all((delay >= 0.35 - 1e-9) & (delay <= 0.75 + 1e-9))
    assert 4 < offered / minutes < 14
    assert 0.7 < answered / offered < 0.98


def test_short_gaps_do_not_part_intervals():
    joined = join_intervals([(0.0, 1.0), (1.15, 2.0), (2.2, 3.0)])
    assert joined.tolist() == [[0.0, 2.0], [2.2, 3.0]]


# --- lips ------------------------------------------------------------------------------------


def phonemes(text: str, seconds: float = 0.12) -> list[Phoneme]:
    """Phonemes of equal length from 0.5 s on."""
    return [Phoneme(name, 0.5 + i * seconds, 0.5 + (i + 1) * seconds) for i, name in enumerate(text.split())]


@pytest.mark.parametrize("closing", ["p", "b", "m"])
def test_bilabials_close_the_lips(closing):
    spoken = phonemes(f"aa {closing} aa")
    lips = mouth(spoken, np.full(200, 6.0), traits(1.0)).channels
    frames = slice(0, 200, 4)
    apart = (lips["jawOpen"] - lips["mouthClose"] + lips["mouthLowerDown"])[frames]
    at = (spoken[1].start + spoken[1].end) / 2 * 25
    assert apart[int(at) - 2 : int(at) + 2].min() < 0.02
    assert apart.max() > 0.4


def test_a_labiodental_draws_in_the_lower_lip():
    lips = mouth(phonemes("aa v aa"), np.zeros(200), traits(0.5)).channels
    assert lips["mouthRollLower"].max() > 0.3


def test_round_vowels_pucker_and_spread_vowels_stretch():
    rounded = mouth(phonemes("uw uw"), np.zeros(200), traits(0.5)).channels
    spread = mouth(phonemes("iy iy"), np.zeros(200), traits(0.5)).channels
    assert rounded["mouthPucker"].max() > 4 * spread["mouthPucker"].max()
    assert spread["mouthStretch"].max() > 4 * rounded["mouthStretch"].max()


def test_the_jaw_opens_with_the_phoneme_and_with_effort():
    def jaw(name: str, effort_db: float) -> float:
        return mouth(phonemes(name), np.full(200, effort_db), traits(0.5)).channels["jawOpen"].max()

    assert jaw("aa", 0.0) > 1.5 * jaw("iy", 0.0)
    assert jaw("aa", 6.0) > 1.25 * jaw("aa", 0.0) > 1.5 * jaw("aa", -6.0)


def test_lips_lead_the_sound_a_little():
    spoken = phonemes("aa", seconds=0.2)
    lips = mouth(spoken, np.zeros(200), traits(0.5)).channels
    lead_s = 0.6 - lips["jawOpen"].argmax() / 100
    assert 0.04 <= lead_s <= 0.14


@needs_synthesisers
def test_the_jaw_follows_the_own_voice_and_not_the_partners(tracks):
    figures = statistics.motion(tracks)
    same, best = figures["jaw to own energy, same instant / best"]
    assert same > 0.55
    assert best > 0.65
    assert figures["jaw to partner's energy"][0] < 0.1


# --- head and face ---------------------------------------------------------------------------


@needs_synthesisers
def test_motion_stays_within_bounds_and_does_not_shake(tracks):
    for track, _ in tracks:
        head, face = np.degrees(track.motion[:, :3]), track.motion[:, 3:]
        assert np.all(np.isfinite(track.motion))
        assert face.min() >= 0.0
        assert face.max() <= 1.0
        assert np.abs(head).max() < 35.0
        speed = np.linalg.norm(np.diff(head, axis=0), axis=1) * 25
        assert np.percentile(speed, 99) < 150.0
        power = np.abs(np.fft.rfft(head - head.mean(axis=0), axis=0)) ** 2
        quick = np.fft.rfftfreq(len(head), 1 / 25) > 6.0
        assert power[quick].sum() < 0.01 * power.sum()


@needs_synthesisers
def test_every_channel_that_speech_and_gaze_use_moves(tracks):
    deviation = np.mean([track.motion.std(axis=0) for track, _ in tracks], axis=0)
    still = {name for name, sd in zip(CHANNELS, deviation, strict=True) if sd < 1e-3}
    assert still <= {"cheekPuff", "jawForward", "tongueOut"}


@needs_synthesisers
def test_a_lively_person_moves_as_the_measured_one_and_a_calm_one_less():
    dialogues = [draw_dialogue(np.random.default_rng(seed), 60.0) for seed in range(2)]
    deviation, speed = {}, {}
    for liveliness in (0.0, 1.0):
        head = []
        for dialogue in dialogues:
            people = [replace(p, traits=replace(p.traits, liveliness=liveliness)) for p in dialogue.parties]
            alike = replace(dialogue, parties=tuple(people))
            head += [np.degrees(move(alike, party, np.random.default_rng(party))[:, :3]) for party in (0, 1)]
        deviation[liveliness] = np.mean([h.std(axis=0) for h in head], axis=0)
        quick = [np.linalg.norm(np.diff(h, axis=0), axis=1) * 25 for h in head]
        speed[liveliness] = np.median(np.concatenate(quick))
    # Measured (roll, pitch, yaw): 3.5, 6.3, 6.8 and 1.7, 1.4, 1.5 degrees; 20 and 6 degrees a s.
    assert deviation[1.0] == pytest.approx([3.5, 6.3, 6.8], rel=0.4)
    assert deviation[0.0] == pytest.approx([1.7, 1.4, 1.5], rel=0.4)
    assert speed[1.0] == pytest.approx(20.0, rel=0.4)
    assert speed[0.0] == pytest.approx(6.0, rel=0.4)


@needs_synthesisers
def test_speakers_look_away_at_the_start_of_a_long_turn_and_back_at_its_end(tracks):
    began, ended, speaking, listening = [], [], [], []
    yaw, look_out, look_in, up, down = (
        CHANNELS.index(name)
        for name in (
            "headYaw",
            "eyeLookOutLeft",
            "eyeLookInLeft",
            "eyeLookUpLeft",
            "eyeLookDownLeft",
        )
    )
    for track, partner in tracks:
        motion = track.motion
        across = motion[:, yaw] + np.radians(30) * (motion[:, look_out] - motion[:, look_in])
        along = motion[:, PITCH] + np.radians(30) * (motion[:, down] - motion[:, up])
        looking = np.degrees(np.hypot(across, along)) < 5.0
        turns = track.act_times[track.acts != BACKCHANNEL]
        for start, end in join_intervals(map(tuple, turns), gap_s=1.0):
            if end - start > 3.0:
                began.append(looking[int((start + 0.3) * 25)])
                ended.append(looking[int(end * 25) - 2])
        own, other = (
            np.any(
                [(np.arange(len(looking)) >= 25 * s) & (np.arange(len(looking)) < 25 * e) for s, e in t.speech],
                axis=0,
            )
            for t in (track, partner)
        )
        speaking.append(looking[own].mean())
        listening.append(looking[other & ~own].mean())
    assert np.mean(began) < 0.45
    assert np.mean(ended) > 0.85
    assert 0.3 < np.mean(speaking) < 0.6
    assert 0.65 < np.mean(listening) < 0.9


def test_a_listener_nods_down_where_it_answers_a_cue():
    responses = [Response(0, cue=t - 0.5, time=t, kind="nod") for t in np.arange(3.0, 55.0, 4.0)]
    moved = move(silence(60.0, 0.5, responses), 0, np.random.default_rng(1))
    still = move(silence(60.0, 0.5), 0, np.random.default_rng(1))
    dip = np.degrees(moved[:, PITCH] - still[:, PITCH])
    for response in responses:
        first = int(response.time * 25)
        assert 2.0 < dip[first : first + 20].max() < 11.0


def test_people_blink_about_twenty_times_a_minute():
    rates = []
    for seed in range(6):
        motion = move(silence(60.0, 0.5), 0, np.random.default_rng(seed))
        shut = motion[:, CHANNELS.index("eyeBlinkLeft")] > 0.6
        rates.append(np.count_nonzero(np.diff(shut.astype(int)) == 1))
    assert 14 < np.mean(rates) < 29


def test_a_silent_mouth_hardly_moves():
    motion = move(silence(30.0, 1.0), 0, np.random.default_rng(2))
    assert motion[:, JAW].max() < 0.25
    assert motion[:, CLOSE].max() < 0.05


# --- the command -----------------------------------------------------------------------------


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    return generate.run(parser.parse_args(words))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--hours", "0"), "--hours 0"),
        (("--hours", "-1"), "--hours -1"),
        (("--hours", "nan"), "--hours nan"),
        (("--hours", "1e9"), "0.001 to 1000 h"),
        (("--seconds", "1"), "10 to 600 s"),
        (("--jobs", "0"), "--jobs 0"),
        (("--seed", "-3"), "--seed -3"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(tmp_path, words, said):
    with pytest.raises(TimarError, match=said):
        command("--out", str(tmp_path / "new"), *words)
    assert not (tmp_path / "new").exists()


def test_a_file_is_no_place_for_dialogues(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(TimarError, match="is a file; expected a folder"):
        command("--out", str(tmp_path / "taken"))


def test_a_missing_flite_is_named_with_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TimarError, match="apt install flite"):
        command("--out", str(tmp_path / "new"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--voices", "piper"), "--voices flite piper"),
        (("--cluster", "slurm"), "expected dask or ray"),
    ],
)
def test_what_cannot_go_together_is_refused(tmp_path, words, said):
    with pytest.raises(TimarError, match=said):
        command("--out", str(tmp_path / "new"), *words)
    assert not (tmp_path / "new").exists()


@needs_synthesisers
@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_a_cluster_that_is_not_installed_is_named_with_how_to_install_it(tmp_path, backend):
    if importlib.util.find_spec(backend):
        pytest.skip(f"{backend} is installed")
    with pytest.raises(TimarError, match=f"pip install '?{backend}"):
        command("--out", str(tmp_path / "new"), "--hours", "0.01", "--cluster", backend)


@needs_flite
def test_flite_alone_will_do(tmp_path):
    assert (
        command("--out", str(tmp_path), "--hours", "0.003", "--seconds", "12", "--jobs", "1", "--voices", "flite") == 0
    )
    for path in tmp_path.glob("*.npz"):
        with np.load(path) as data:
            assert json.loads(str(data["party"]))["voice"]["name"] in FLITE_VOICES
            assert data["engines"].tolist() == ["flite"]


def test_statistics_of_an_empty_folder_say_what_to_do(tmp_path):
    with pytest.raises(TimarError, match="timar generate --out"):
        command("--statistics", str(tmp_path))


@needs_synthesisers
def test_statistics_stand_beside_measured_figures(folder, capsys):
    assert command("--statistics", str(folder)) == 0
    printed = capsys.readouterr().out
    assert "measured from people" in printed
    assert "floor transfer, s" in printed
    assert "backchannels a minute" in printed


# --- the demonstration -----------------------------------------------------------------------


@needs_flite
def test_the_demonstration_has_backchannels_an_overlap_and_a_pause():
    dialogue = demonstration()
    assert 40.0 <= dialogue.seconds <= 60.0
    assert sum(phrase.act == BACKCHANNEL for phrase in dialogue.phrases) >= 3
    grid = np.zeros((2, round(dialogue.seconds * 100)), bool)
    for party in (0, 1):
        for start, end in dialogue.speech_intervals(party):
            grid[party, round(start * 100) : round(end * 100)] = True
    both, nobody = grid.all(axis=0), ~grid.any(axis=0)
    assert both.sum() >= 30
    runs = np.split(nobody, np.flatnonzero(np.diff(nobody.astype(int))) + 1)
    assert max(len(run) for run in runs[1:-1] if run[0]) >= 60


def test_the_shipped_demonstration_is_small_and_whole():
    paths = [REPOSITORY / "demo" / f"{who}.ogg" for who in ("self", "partner")]
    assert sum(os.path.getsize(path) for path in paths) < 700_000
    sounds = [soundfile.read(path, dtype="float32") for path in paths]
    assert [rate for _, rate in sounds] == [16000, 16000]
    assert len(sounds[0][0]) == len(sounds[1][0])
    assert 40.0 <= len(sounds[0][0]) / 16000 <= 60.0
    assert all(np.abs(samples).max() > 0.1 for samples, _ in sounds)


@needs_flite
def test_compressed_voices_are_not_shifted(tmp_path):
    dialogue, _ = generate.make_dialogue(9, 0, 12.0)
    generate.write_compressed(tmp_path, "x", dialogue)
    for party, who in enumerate(("self", "partner")):
        voice = dialogue.audio(party)
        decoded, rate = soundfile.read(tmp_path / f"x_{who}.ogg", dtype="float32")
        assert (rate, len(decoded)) == (16000, len(voice))
        size = 2 * len(voice)
        product = np.fft.rfft(decoded, size) * np.conj(np.fft.rfft(voice, size))
        assert np.argmax(np.fft.irfft(product, size)) == 0
