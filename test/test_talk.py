"""`timar talk`: all that is to be said is heard to its end; what cannot be said is told at once."""

import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.signal
import soxr

pytest.importorskip("rclpy")

from timar_ros import talk
from timar_ros.errors import TimarError
from timar_ros.rates import SAMPLE_RATE
from timar_ros.replay.bag import read_recording
from timar_ros.stream.synthesis import Synthesiser

ENGINE = next((name for name in ("espeak-ng", "flite") if shutil.which(name)), "")
with_a_voice = pytest.mark.skipif(not ENGINE, reason="neither espeak-ng nor flite is installed")


def timar_talk(*arguments: object, typed: str = "", timeout: float = 250) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "timar_ros.cli", "talk", "--port", "0", *map(str, arguments)]
    return subprocess.run(command, input=typed, capture_output=True, text=True, timeout=timeout)


class FakeGraph:
    """Whose synthesiser says sentences so many s after it was made.

    Args:
        said: {s: its length in s}.
        fails_after: s until a node has died.
    """

    def __init__(self, said: dict[float, float], fails_after: float = 1e9) -> None:
        self._began, self._said, self._fails_after = time.monotonic(), said, fails_after

    def log(self, _name: str) -> str:
        since = time.monotonic() - self._began
        return "".join(f"[INFO] said 'It is.': {length:.1f} s\n" for at, length in self._said.items() if at < since)

    def check(self) -> None:
        if time.monotonic() - self._began > self._fails_after:
            raise TimarError("head ended with exit code 1")


@pytest.fixture
def keyboard():
    """What takes the lines, as the synthesiser's process does."""
    return SimpleNamespace(stdin=SimpleNamespace(write=lambda text: None, flush=lambda: None, close=lambda: None))


def test_a_sentence_that_is_made_late_is_waited_for(keyboard, monkeypatch):
    monkeypatch.setattr(talk, "HEARD_OUT_S", 0.1)
    began = time.monotonic()
    talk._say_all(FakeGraph({0.1: 0.2, 1.0: 0.5}), keyboard, ["Hello. It is late."])
    assert time.monotonic() - began == pytest.approx(1.6, abs=0.4)


def test_a_sentence_that_never_comes_is_named(keyboard, monkeypatch):
    monkeypatch.setattr(talk, "SAID_TIMEOUT_S", 0.5)
    with pytest.raises(TimarError, match=r"'Hello\. It is late\.' was not said within"):
        talk._say_all(FakeGraph({0.1: 0.2}), keyboard, ["Hello. It is late."])


def test_a_node_that_dies_is_told_while_nothing_is_typed(keyboard, monkeypatch):
    reads, writes = os.pipe()
    with os.fdopen(reads) as stdin, os.fdopen(writes, "w"):
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(TimarError, match="head ended"):
            talk._take_lines(FakeGraph({}, fails_after=0.3), keyboard)


def test_without_viser_it_talks_without_a_page(monkeypatch):
    started = []
    graph = SimpleNamespace(start=lambda name, *_, **__: started.append(name), wait_for=lambda *_: "")
    monkeypatch.setitem(sys.modules, "viser", None)
    args = SimpleNamespace(policy="default", look_ahead=0, microphone=False, engine="auto", voice="", port=0)
    talk._start(graph, args)
    assert started == ["simulated_head", "speaker", "head", "synthesiser"]


def test_lines_are_taken_as_they_come_the_last_one_without_its_end_too(monkeypatch):
    reads, writes = os.pipe()
    with os.fdopen(reads) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with os.fdopen(writes, "w") as typed:
            typed.write("One.\n\nTwo, grün.\nThree.")
        assert list(talk._typed_lines(lambda: None)) == ["One.", "", "Two, grün.", "Three."]


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
def test_a_voice_that_is_not_there_is_refused_before_anything_starts(tmp_path):
    done = timar_talk("--engine", "espeak-ng", "--voice", "nonsense", "--say", "Hello.", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "espeak-ng could not say" in done.stderr and "try another text or voice" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


@with_a_voice
def test_a_line_without_a_word_is_refused():
    done = timar_talk("--say", "Hello.", "...")
    assert done.returncode == 1 and "there is no word in '...'" in done.stderr


@with_a_voice
@pytest.mark.heavy
@pytest.mark.parametrize(("arguments", "typed"), [(("--say", "Hello. It is late."), ""), ((), "Hello.\nIt is late.\n")])
def test_all_that_is_said_or_piped_in_is_in_the_bag(tmp_path, arguments, typed):
    done = timar_talk(*arguments, "--out", tmp_path, typed=typed)
    assert done.returncode == 0, done.stdout + done.stderr
    recorded = read_recording(tmp_path / "bag").voices["self"].samples
    for sentence in ("Hello.", "It is late."):
        sound = Synthesiser(ENGINE)(sentence)
        said = soxr.resample(sound.samples, sound.rate, SAMPLE_RATE)
        share = scipy.signal.correlate(recorded, said, "valid", "fft").max() / np.square(said).sum()
        assert share > 0.5, sentence  # about 1; less where a busy machine recorded packets late
