"""Silero's model as a stateful callable: the same judgement however the samples are cut."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from timar_ros.errors import TimarError
from timar_ros.stream import voice_activity
from timar_ros.stream.voice_activity import CHUNK_SAMPLES, SileroVoiceActivity

VOICE = Path(__file__).parent / "data" / "dialogues" / "dialogue_0_partner.ogg"


@pytest.fixture(scope="module")
def voice():
    samples, rate = soundfile.read(VOICE, dtype="float32")
    assert rate == 16_000
    return samples[: 10 * rate]


@pytest.fixture(scope="module")
def judged(voice):
    return SileroVoiceActivity()(voice)


def test_every_512_samples_are_judged_once(voice, judged):
    ends = [end for end, _ in judged]
    assert ends == list(range(CHUNK_SAMPLES, len(voice) + 1, CHUNK_SAMPLES))
    assert all(0.0 <= probability <= 1.0 for _, probability in judged)


def test_speech_is_likely_and_silence_is_not(judged):
    probabilities = np.array([probability for _, probability in judged])
    silence = [p for _, p in SileroVoiceActivity()(np.zeros(16_000, np.float32))]
    assert probabilities.max() > 0.95
    assert max(silence) < 0.1


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 3 * 16_000), max_size=12))
def test_cutting_changes_nothing(voice, judged, cuts):
    activity = SileroVoiceActivity()
    samples = voice[: 3 * 16_000]
    pieces = np.split(samples, sorted(cuts))
    got = [chunk for piece in pieces for chunk in activity(piece)]
    assert got == judged[: len(got)]
    assert len(got) == len(samples) // CHUNK_SAMPLES


def test_reset_forgets_all(voice, judged):
    activity = SileroVoiceActivity()
    activity(voice[5_000:9_999])
    activity.reset_states()
    assert activity(voice) == judged


def test_two_streams_share_weights_and_no_state(voice, judged):
    one, other = SileroVoiceActivity(), SileroVoiceActivity()
    got = []
    for start in range(0, len(voice), 640):
        got += one(voice[start : start + 640])
        other(-voice[start : start + 640][::-1])
    assert got == judged


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_count_as_silence(voice, bad):
    broken, silenced = voice[:16_000].copy(), voice[:16_000].copy()
    broken[3_000:3_700], silenced[3_000:3_700] = bad, 0.0
    assert SileroVoiceActivity()(broken) == SileroVoiceActivity()(silenced)


def test_two_channels_are_refused(voice):
    with pytest.raises(ValueError, match="mono"):
        SileroVoiceActivity()(np.zeros((512, 2), np.float32))


def test_a_missing_wheel_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TimarError, match="pip install --no-deps silero-vad"):
        voice_activity.silero_model_path()


def test_a_broken_model_file_says_what_to_do(tmp_path, monkeypatch):
    path = tmp_path / "silero_vad.onnx"
    path.write_bytes(b"half a download")
    monkeypatch.setattr(voice_activity, "silero_model_path", lambda: path)
    with pytest.raises(TimarError, match="cannot be read"):
        SileroVoiceActivity()


def test_no_torch_is_imported():
    program = (
        "import sys; from timar_ros.stream.turns import TurnSegmenter; TurnSegmenter(); "
        "assert not {'torch', 'torchaudio', 'silero_vad'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
