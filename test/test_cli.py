"""`timar`: what ends a command, and what it leaves behind then."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile
from conftest import nodes_with

from timar_ros.cli import COMMANDS, main

DIALOGUES = Path(__file__).parent / "data" / "dialogues"


def voices(folder: Path, seconds: float) -> list[str]:
    """--self and --partner: the beginning of a dialogue."""
    given = []
    for party in ("self", "partner"):
        samples, rate = soundfile.read(DIALOGUES / f"dialogue_1_{party}.ogg")
        soundfile.write(folder / f"{party}.wav", samples[: round(seconds * rate)], rate)
        given += [f"--{party}", str(folder / f"{party}.wav")]
    return given


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_tells_what_it_takes(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0 and COMMANDS[command][1] in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--out", "FILE"],
        ["bench", "--out", "FILE/bench.json"],
        ["evaluate", "--self", "WAV", "--partner", "WAV", "--json", "FILE/a.json"],
        ["evaluate", "--self", "WAV", "--partner", "WAV", "--out", "FILE"],
        ["evaluate", "--self", "WAV", "--partner", "WAV", "--video", "FILE/a.mp4"],
        ["generate", "--hours", "0.01", "--out", "FILE/data"],
        ["hearing", "--self", "WAV", "--partner", "WAV", "--seeds", "1", "--json", "FILE/a.json"],
        ["train", "--data", ".", "--out", "FILE"],
    ],
    ids=lambda arguments: " ".join(arguments[:1] + arguments[-2:]),
)
def test_a_place_that_cannot_be_written_is_told_in_a_sentence(tmp_path, capsys, arguments):
    (tmp_path / "file").write_text("a file, where a folder should be")
    places = {"FILE": str(tmp_path / "file"), "CHECKPOINT": str(tmp_path / "file"), "WAV": str(tmp_path / "self.wav")}
    voices(tmp_path, 1.2)
    given = [places.get(word, word.replace("FILE/", f"{tmp_path}/file/")) for word in arguments]
    assert main(given) == 1
    told = capsys.readouterr().err
    assert told.count(f"timar {arguments[0]}: ") == 1 and "Traceback" not in told


def test_without_ros_a_command_says_how_to_get_it():
    script = "import sys; sys.modules['rclpy'] = None; from timar_ros.cli import main; sys.exit(main(['record']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "timar record: the Python package rclpy is not installed here; source ROS" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda number: number.name)
def test_a_demo_that_is_ended_leaves_no_node_behind(tmp_path, real_time, number):
    """Of SIGKILL it learns nothing itself: its nodes do, though SIGINT is ignored by what a script starts with &."""
    pytest.importorskip("rclpy")
    command = [sys.executable, "-m", "timar_ros.cli", "demo", *voices(tmp_path, 10.0), "--out", str(tmp_path / "out")]
    started = {"env": os.environ | {"TMPDIR": str(tmp_path)}, "preexec_fn": ignore_interrupts}
    with subprocess.Popen(command, **started, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as demo:
        try:
            log = tmp_path / "out" / "logs" / "recorder.log"
            wait_until(lambda: log.exists() and "recording /joint_states" in log.read_text(), 60)
            assert len(nodes_with("TMPDIR", str(tmp_path))) >= 4
        finally:
            demo.send_signal(number)
        told = demo.communicate(timeout=60)[1].decode()
    assert "Traceback" not in told
    assert demo.returncode == (-number if number == signal.SIGKILL else 128 + number)
    wait_until(lambda: not nodes_with("TMPDIR", str(tmp_path)), 30)
    assert (tmp_path / "out" / "bag" / "metadata.yaml").exists(), "the recorder finished its bag"


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which tests under nohup ignore


def wait_until(holds, seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, "not in time"
        time.sleep(0.05)
