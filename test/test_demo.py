"""`timar demo`: a conversation through the real nodes, each a process of its own; and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import av
import pytest
import soundfile

pytest.importorskip("rclpy")
from timar_ros.replay.bag import read_recording
from timar_ros.robot.profile import RobotProfile

pytestmark = pytest.mark.timeout(600)  # a busy machine may make it say its ten seconds again
DIALOGUES = Path(__file__).parent / "data" / "dialogues"
SECONDS = 10


def timar(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "timar_ros.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=250)


@pytest.fixture(scope="module")
def demo(tmp_path_factory, real_time):
    """Ten seconds of a test dialogue, as stereo 44.1 kHz and as 16 kHz mono files; the folder of the results."""
    folder = tmp_path_factory.mktemp("demo")
    for party in ("self", "partner"):
        samples, rate = soundfile.read(DIALOGUES / f"dialogue_1_{party}.ogg")
        soundfile.write(folder / f"{party}.wav", samples[: SECONDS * rate], rate)
    command = ("demo", "--self", folder / "self.wav", "--partner", folder / "partner.wav", "--out", folder / "out")
    for _ in range(4):
        done = timar(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        if undisturbed(folder / "out"):
            break
    return folder / "out", done.stdout


def undisturbed(out: Path) -> bool:
    """Whether the machine let the graph run: no node started after its time, none was kept from running for long."""
    logs = "".join(log.read_text() for log in (out / "logs").glob("*.log"))
    summary = json.loads((out / "summary.json").read_text())
    latency_ms = summary["latency_ms"]["p99"]  # none where the sound came too irregularly
    return "left out" not in logs and latency_ms is not None and latency_ms < 250


def test_it_leaves_bag_report_video_and_summary_and_prints_a_table(demo):
    out, printed = demo
    assert "median reaction" in printed and "report.html" in printed
    assert (out / "report.html").stat().st_size > 50_000
    with av.open(str(out / "head.mp4")) as video:
        assert SECONDS - 1 < video.duration / 1e6 < SECONDS + 2
    recording = read_recording(out / "bag")
    assert not recording.losses
    assert recording.jaw is not None and recording.played is not None, "lips against sound as heard cannot be told"
    assert "lips late, against the sound heard" in printed


def test_its_summary_holds_what_was_heard_and_done(demo):
    """Counts only: timing goals are for an idle machine."""
    summary = json.loads((demo[0] / "summary.json").read_text())
    assert SECONDS - 0.5 < summary["seconds"] < SECONDS + 2
    assert summary["frames"] == pytest.approx(25 * SECONDS, abs=40)
    assert summary["commands"] + summary["merged_hops"] >= 0.95 * summary["hops"]
    assert summary["blendshape_messages"] >= 0.95 * summary["frames"]
    assert summary["refusals"] == 0 and summary["limit_violations"] == 0
    assert summary["turns"] >= summary["turns_by_floor"] >= 1
    assert 0 < summary["latency_ms"]["p50"] < summary["reaction_ms"]["p50"]
    assert summary["policy"] == "default"


def test_its_bag_evaluated_gives_the_live_motion_to_the_last_bit(demo, tmp_path):
    done = timar("evaluate", demo[0] / "bag", "--json", tmp_path / "figures.json")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    expected = {"largest_difference": 0.0, "exact": True, "differing_decisions": 0, "lookahead_frames": 0}
    assert figures["live"] == expected
    assert figures["system"]["rss_mb"] > 0 and figures["movement"]["mouth"]["self"] > 0


def test_another_seed_of_the_same_bag_moves_otherwise(demo, tmp_path):
    done = timar(
        "evaluate", demo[0] / "bag", "--policy", "live", "default", "--seed", 5, "--json", tmp_path / "it.json"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    recorded, drawn = json.loads((tmp_path / "it.json").read_text())["variants"]
    assert recorded["label"] == "as recorded" and drawn["live"]["largest_difference"] is None
    assert recorded["head"]["sd_deg"] != drawn["head"]["sd_deg"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--self", "here.wav"), "SELF is given without PARTNER; a conversation has two voices"),
        (("--partner", "here.wav"), "PARTNER is given without SELF"),
        (("--self", "here.wav", "--partner", "nowhere.wav"), "there is no file nowhere.wav"),
        (("--self", "here.wav", "--partner", "text.wav"), "text.wav is no sound file that can be read"),
        (("--self", "here.wav", "--partner", "short.wav"), "at least 1 s is needed"),
        (("--robot", "kismet"), "no robot profile named 'kismet'"),
    ],
)
def test_what_cannot_be_played_is_refused_with_a_sentence(tmp_path, monkeypatch, given, sentence):
    monkeypatch.chdir(tmp_path)
    soundfile.write("here.wav", [0.0] * 32000, 16000)
    soundfile.write("short.wav", [0.0] * 100, 16000)
    Path("text.wav").write_text("this is no sound")
    done = timar("demo", *given)
    assert done.returncode == 1
    assert sentence in done.stderr and "Traceback" not in done.stderr


@pytest.mark.heavy
@pytest.mark.parametrize("robot", ["tiago", "nao"])
def test_other_robots_take_part(tmp_path, real_time, robot):
    """One that takes trajectories on a topic of its own, and one that takes something else where it is real."""
    done = timar("demo", "--robot", robot, "--no-video", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["refusals"] == 0 and summary["limit_violations"] == 0
    assert summary["commands"] + summary["merged_hops"] >= 0.95 * summary["hops"]
    assert 100 < summary["motion_delay_ms"] < 300
    joints = read_recording(tmp_path / "bag").joint_states
    assert joints.names == tuple(joint.name for joint in RobotProfile.load(robot).joints)


def test_a_policy_that_is_not_there_ends_the_demo_with_its_reason(tmp_path, real_time):
    done = timar("demo", "--policy", "nobody", "--out", tmp_path)
    assert done.returncode == 1
    assert "no policy folder at" in done.stderr and "Traceback" not in done.stderr
