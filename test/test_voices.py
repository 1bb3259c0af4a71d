"""The synthesisers that speak dialogues: what they say lies where they say it does."""

import importlib.util
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timar_ros.dialogues import espeak, espeak_speaker, piper_speech
from timar_ros.dialogues.visemes import shape_of
from timar_ros.dialogues.voices import (
    ENGINES,
    ESPEAK,
    FLITE,
    FLITE_VOICES,
    PAUSE,
    PIPER,
    Voice,
    draw_voice,
    synthesise,
)
from timar_ros.errors import TimarError
from timar_ros.rates import SAMPLE_RATE

needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed: sudo apt install flite")
needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
needs_piper = pytest.mark.skipif(importlib.util.find_spec("piper") is None, reason="piper-tts is not installed")

SPEAKERS = [
    pytest.param("slt", marks=needs_flite),
    pytest.param("gmw/en-US+f2", marks=needs_espeak),
    pytest.param("gmw/en-GB-scotland+m3", marks=needs_espeak),
    pytest.param("joe", marks=needs_piper),
]
UNKNOWN = shape_of("no such phoneme")


def voice(name: str, speed: float = 1.0, stretch: float = 1.0) -> Voice:
    pitch, spread = (FLITE_VOICES | espeak.VOICES | piper_speech.VOICES)[name]
    return Voice(name, pitch, spread, stretch, speed, -25.0, 3.0)


def level_db(samples: np.ndarray, start: float, end: float) -> float:
    part = samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    return 10 * np.log10(np.square(part).mean() + 1e-10)


@pytest.mark.parametrize("name", SPEAKERS)
def test_phonemes_lie_where_they_sound(name):
    speech = synthesise(voice(name, speed=1.1), "Bob saw a bee, and Pam sat.")
    assert speech.phonemes[0].name == "b"
    assert speech.phonemes[-1].name in ("t", "dx")
    ends = [p.end for p in speech.phonemes]
    assert [p.start for p in speech.phonemes[1:]] == pytest.approx(ends[:-1])
    assert ends[-1] <= speech.seconds
    pauses = [p for p in speech.phonemes if p.name == PAUSE]
    assert len(pauses) == 1
    quiet = level_db(speech.samples, pauses[0].start + 0.03, pauses[0].end - 0.03)
    vowels = [p for p in speech.phonemes if p.name in ("aa", "ao", "iy", "ae")]
    assert len(vowels) >= 4
    assert min(level_db(speech.samples, p.start + 0.02, p.end - 0.02) for p in vowels) > quiet + 25
    # A hiss is an s: most of its sound lies above 3 kHz, and less of a vowel's.
    hiss = next(p for p in speech.phonemes if p.name == "s")
    assert bright(speech.samples, hiss) > 3 * max(bright(speech.samples, p) for p in vowels)


def bright(samples: np.ndarray, phoneme) -> float:
    """Share of a phoneme's sound above 3 kHz."""
    part = samples[round(phoneme.start * SAMPLE_RATE) : round(phoneme.end * SAMPLE_RATE)]
    power = np.abs(np.fft.rfft(part * np.hanning(len(part)))) ** 2
    return power[np.fft.rfftfreq(len(part), 1 / SAMPLE_RATE) > 3000].sum() / power.sum()


@pytest.mark.parametrize("name", SPEAKERS)
def test_a_voice_says_the_same_again_whatever_was_said_between(name):
    first = synthesise(voice(name), "yes, of course")
    synthesise(voice(name, speed=0.9), "I was very tired.")
    again = synthesise(voice(name), "yes, of course")
    assert np.array_equal(first.samples, again.samples)
    assert first.phonemes == again.phonemes


@pytest.mark.parametrize("name", SPEAKERS)
def test_what_has_no_spelling_is_said_by_its_phonemes(name):
    assert [p.name for p in synthesise(voice(name), "[m hh m]").phonemes] == ["m", "hh", "m"]


@pytest.mark.parametrize("name", SPEAKERS)
def test_a_stretched_sentence_takes_longer(name):
    slow = synthesise(voice(name, stretch=1.4), "my brother went to the market").seconds
    assert slow > 1.25 * synthesise(voice(name, stretch=1.0), "my brother went to the market").seconds


@needs_espeak
def test_pitch_is_what_was_asked_for():
    from timar_ros.dialogues.voices import find_accents

    low = voice("gmw/en-US+f2")
    high = Voice(low.name, 1.3 * low.pitch_hz, *list(vars(low).values())[2:])
    median = [
        np.median([hertz for _, hertz in find_accents(synthesise(v, "my brother and I went to Vienna")).pitch])
        for v in (low, high)
    ]
    assert median[1] / median[0] == pytest.approx(1.3, abs=0.12)


@needs_espeak
def test_every_sound_of_espeak_is_one_that_the_lips_know():
    text = (
        "The quick brown fox jumps over the lazy dog. Which azure vision, judge? Oh boy, how fair, poor and near the "
        "tourist's fire is. Thanks for the button, little singer; she owns your yellow church."
    )
    for name in ("gmw/en-US+m1", "gmw/en+f1", "gmw/en-GB-scotland+m1"):
        _, _, ends = espeak.speak(name, text, 1.0, 1.0, 1.0)
        assert len(ends) > 100
        heard = Counter(phoneme for phoneme, _ in ends)
        assert {"th", "dh", "sh", "ch", "jh", "zh", "ng", "y", "w", "p", "b", "m", "f", "v", "oy"} <= set(heard)
        assert heard["ax"] < 0.12 * len(ends)  # also what an unknown sound becomes


@needs_espeak
def test_a_voice_that_espeak_lacks_is_named():
    with pytest.raises(TimarError, match="no voice 'gmw/en-nowhere'.*espeak-ng --voices"):
        espeak.speak("gmw/en-nowhere", "yes", 1.0, 1.0, 1.0)


def test_a_machine_without_espeak_is_told_what_to_install():
    """The script in a process whose loader finds no such library."""
    script = Path(espeak_speaker.__file__).read_text().replace("espeak-ng.so.1", "espeak-is-not-here.so.1")
    script = script.replace('find_library("espeak-ng")', 'find_library("espeak-is-not-here")')
    done = subprocess.run([sys.executable, "-c", script, "gmw/en", "170", "50", "50", "yes"], capture_output=True)
    assert done.returncode == 1
    assert b"sudo apt install espeak-ng" in done.stderr
    assert b"--voices flite" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("piper") is not None, reason="piper is installed")
def test_a_machine_without_piper_is_told_what_to_install():
    with pytest.raises(TimarError, match="pip install"):
        piper_speech.require_piper()


@needs_flite
@needs_espeak
@settings(max_examples=15, deadline=None)
@given(
    text=st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=40),
    name=st.sampled_from(["kal16", "gmw/en+f1"]),
)
def test_any_text_is_spoken_or_refused_with_a_sentence(text, name):
    try:
        speech = synthesise(voice(name), text)
    except TimarError as error:
        assert "expected" in str(error) or "try" in str(error)
        return
    assert np.isfinite(speech.samples).all()
    ends = [p.end for p in speech.phonemes]
    assert ends == sorted(ends)
    assert 0 < ends[-1] <= speech.seconds + 1e-6


@given(
    heard=st.lists(
        st.tuples(st.sampled_from(["t", "O@", "_", "_:", "", "xyz", "aI"]), st.integers(0, 9000)), max_size=30
    ),
    more=st.integers(1, 5000),
)
def test_phoneme_ends_rise_to_the_end_of_the_sound(heard, more):
    marks = [mark for mark, _ in heard]
    starts = sorted(start for _, start in heard)
    samples = (starts[-1] if starts else 0) + more
    ends = [end for _, end in espeak._ends(list(zip(marks, starts, strict=True)), samples, 22050)]
    assert ends == sorted(ends)
    assert not ends or ends[-1] == pytest.approx(samples / 22050)


def test_most_voices_are_of_recorded_people_and_no_two_alike():
    rng = np.random.default_rng(0)
    names = []
    for _ in range(400):
        first = draw_voice(rng)
        second = draw_voice(rng, other=first)
        assert first.name != second.name
        names += [first.name, second.name]
    flite = np.mean([name in FLITE_VOICES for name in names])
    assert 0.5 < flite < 0.7
    assert len(set(names)) == len(FLITE_VOICES) + len(espeak.VOICES)


@pytest.mark.parametrize("engines", [(FLITE,), (ESPEAK,), (FLITE, PIPER), ENGINES])
def test_voices_are_drawn_from_the_synthesisers_asked_for(engines):
    tables = {FLITE: FLITE_VOICES, ESPEAK: espeak.VOICES, PIPER: piper_speech.VOICES}
    rng = np.random.default_rng(1)
    drawn = {draw_voice(rng, engines=engines).name for _ in range(300)}
    assert drawn <= {name for engine in engines for name in tables[engine]}
    assert all(drawn & set(tables[engine]) for engine in engines)
