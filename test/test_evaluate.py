"""`timar evaluate` as a person uses it: figures, files, a report, and sentences for what cannot be done."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from synthetic_bag import Invented, write_bag

from timar_ros.channels import CHANNELS
from timar_ros.cli import main
from timar_ros.model.checkpoint import load_policy
from timar_ros.motion.track import load_motion
from timar_ros.replay import comparison
from timar_ros.replay.clips import ClipSource
from timar_ros.replay.comparison import Comparison, as_json, best, flat, nested
from timar_ros.replay.hearing import DISTANCES
from timar_ros.replay.offline import hear, move
from timar_ros.replay.published_metrics import published_metrics
from timar_ros.replay.trial import Settings, Trial, Variant, run_trial
from timar_ros.sound_files import read_voice
from timar_ros.stream.steppers import make_stepper

DIALOGUES = Path(__file__).parent / "data" / "dialogues"
SECONDS = 4


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def timar(*arguments: object) -> Done:
    """The command, run in this process: importing torch anew would take most of the time."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["evaluate", *map(str, arguments)])
    return Done(code, out.getvalue(), err.getvalue())


def strict(path: Path) -> dict:
    """JSON as it is defined: without NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {path}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """A folder with six seconds of two voices, and FLAME motion of the one in self.wav."""
    folder = tmp_path_factory.mktemp("pair")
    for party in ("self", "partner"):
        samples, rate = soundfile.read(DIALOGUES / f"dialogue_1_{party}.ogg")
        soundfile.write(folder / f"{party}.wav", samples[: SECONDS * rate], rate)
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(0, 0.01, size=(25 * SECONDS, 56)), axis=0).astype(np.float32)
    np.savez(folder / "truth.npz", exp=walk[:, :50], pose=walk[:, 50:])
    np.savez(folder / "predicted.npz", exp=walk[:, :50] + 0.1, pose=walk[::-1, 50:])
    np.savez(folder / "other.npz", exp=walk[::-1, :50], pose=walk[:, 50:] ** 2)
    return folder


@pytest.fixture(scope="module")
def scored(pair):
    """What a pair of sound files with true motion gives: the figures, and what was printed."""
    voices = ("--self", pair / "self.wav", "--partner", pair / "partner.wav")
    done = timar(*voices, "--truth", pair / "truth.npz", "--json", pair / "out.json", "--jobs", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    return strict(pair / "out.json"), done.stdout


def test_sound_files_with_true_motion_give_every_figure(scored):
    figures, printed = scored
    assert figures["fd"]["pose"] > 0 and figures["mse"]["pose"] > 0
    assert figures["paired_fd"]["pose"] is None and figures["fd"]["exp"] is None
    assert -1 <= figures["lips"]["correlation"] <= 1 and abs(figures["lips"]["offset_ms"]) <= 320
    assert set(figures["nods_per_minute"]) >= {"partner", "self", "nobody"}
    for part in ("head", "mouth"):
        assert set(figures["movement"][part]) == {"partner", "self", "both", "nobody"}
    assert figures["head"]["sd_deg"] > 0 and figures["head"]["speed_p95_deg_s"] > 0
    assert figures["jerk"]["ratio"] > 0
    assert 0 < figures["limits"]["jerk"] <= 1.001
    assert figures["truth"]["head"]["sd_deg"] > 0
    assert "FD pose" in printed and "true person" in printed and "times real time" in printed


def test_finished_motion_is_scored_by_all_published_metrics(pair, tmp_path):
    files = [pair / f"{name}.npz" for name in ("predicted", "truth", "other")]
    given = ("--predicted", files[0], "--truth", files[1], "--other", files[2])
    done = timar(*given, "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = strict(tmp_path / "out.json")
    expected = published_metrics(*(load_motion(file) for file in files))
    for metric in ("fd", "paired_fd", "mse", "sid", "rpcc"):
        assert figures[metric] == expected[metric]
        assert set(figures[metric]) == {"exp", "jaw", "pose"}
        assert all(value is not None for value in figures[metric].values())


def test_a_policy_sees_the_partner_only_where_it_is_let(scored, pair, tmp_path):
    voices = ("--self", pair / "self.wav", "--partner", pair / "partner.wav", "--truth", pair / "truth.npz")
    heads = [scored[0]["head"]]
    for seen in ((), ("--see-partner",)):
        given = (*voices, "--other", pair / "other.npz", *seen, "--json", tmp_path / "out.json", "--jobs", 1)
        assert timar(*given).returncode == 0
        figures = strict(tmp_path / "out.json")
        assert figures["paired_fd"]["pose"] is not None
        heads.append(figures["head"])
    assert heads[0] == heads[1] != heads[2]
    refused = timar(*voices, "--see-partner")
    assert refused.returncode == 1 and "--see-partner: it is not known what the partner did" in refused.stderr


def test_hearing_is_told_of_any_two_voices(pair, tmp_path, capsys):
    voices = ["--self", str(pair / "self.wav"), "--partner", str(pair / "partner.wav")]
    assert main(["hearing", *voices, "--seeds", "1", "--json", str(tmp_path / "new" / "out.json")]) == 0
    figures = strict(tmp_path / "new" / "out.json")
    assert json.loads(capsys.readouterr().out) == figures
    assert set(figures["head_while_only_the_partner_speaks"]["pose_deg"]) == set(DISTANCES)
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16_000)
    for changed, sentence in (
        (["--threads", "0"], "at least 1"),
        (["--other", str(tmp_path / "short.wav")], "at least 1 s"),
    ):
        assert main(["hearing", *voices, "--seeds", "1", *changed]) == 1
        assert sentence in capsys.readouterr().err


@pytest.fixture(scope="module")
def compared(pair, tmp_path_factory):
    """Two conversations, a policy as it is and with another's partner, in two processes, with a report."""
    folder = tmp_path_factory.mktemp("compared")
    write_bag(folder / "bag", Invented(seconds=3.0))
    done = timar(
        folder / "bag", pair, "--policy", "default", "--seed", 1, "--perturb", "swap-partner",
        "--out", folder / "out", "--jobs", 2, "--video-seconds", 0.5,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out", done.stdout


def test_comparison_has_a_column_for_each_variant_and_intervals_over_clips(compared):
    out, printed = compared
    figures = strict(out / "metrics.json")
    labels = ["default", "default, swap-partner"]
    assert [variant["label"] for variant in figures["variants"]] == labels
    assert len(figures["clips"]) == figures["run"]["trials_wanted"] == 4
    low, high = figures["intervals"]["head"]["sd_deg"]
    each = [trial["metrics"]["head"]["sd_deg"] for trial in figures["clips"] if trial["label"] == "default"]
    assert min(each) <= low <= figures["head"]["sd_deg"] <= high <= max(each)
    assert figures["head"]["sd_deg"] == pytest.approx(np.mean(each))
    assert "default, swap-partner" in printed
    assert len(list((out / "motion").glob("*.npz"))) == 4


def test_report_holds_table_drawings_and_videos_and_needs_nothing_else(compared):
    page = (compared[0] / "report.html").read_text(encoding="utf-8")
    assert "default, swap-partner" in page and "<b>" not in page.split("<table")[0]
    assert page.count('src="data:video/mp4;base64,') == 2  # one for each conversation
    assert page.count('class="plots"') == 2 and ">mouth<" in page
    assert "http" not in page.replace("http://www.w3.org", "") and "url(" not in page
    assert "there is no trace in it" in page


def test_report_works_in_a_browser(compared, tmp_path):
    """Its script runs and draws the time axes."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    page = compared[0] / "report.html"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=60)
    axes = done.stdout.split('class="axis"')[1:]
    assert len(axes) == 2 and all("0 s</span>" in axis[:400] for axis in axes)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((), "nothing to evaluate; give a bag or a folder"),
        (("nowhere",), "there is nothing at nowhere"),
        (("--self", "a.wav"), "--self and --partner go together"),
        (("--predicted", "a.npz"), "--predicted needs --truth"),
        (("both.wav", "--policy", "nobody"), "no policy folder at"),
        (("both.wav", "--policy", "live"), "holds no recorded motion"),
        (("both.wav", "--perturb", "fog"), "'fog' is no perturbation; known are noiseXdB"),
        (("both.wav", "--topic", "mic=/a"), "--topic is 'mic=/a'; expected ROLE=/TOPIC"),
        (("both.wav", "--cluster", "slurm"), "expected dask or ray"),
        (("both.wav", "--cluster", "dask", "--jobs", "1"), "leave out --jobs or --cluster"),
        (("both.wav", "--policy", "runs/a/policy", "old/runs/a/policy"), "would both be called 'a'; give one of them"),
        (("both.wav", "--hop-frames", "99"), "--hop-frames is 99; 1 to 25 is allowed"),
        (("both.wav", "--look-ahead", "99"), "--look-ahead is 99; 0 to 25 is allowed"),
        (("both.wav", "--look-ahead", "9"), "runs ahead by 9 frames; policy default knows 0 to"),
        (("both.wav", "--seed", "0", "-1"), "--seed is -1; 0 and more is allowed"),
        (("both.wav", "--robot", "nobody"), "There is no robot profile named 'nobody'"),
        (("both.wav", "--video", "a.mp4", "--video-seconds", "0"), "a --video needs more than 0"),
        (("both.wav", "--policy", "still"), "no true motion is known here"),
        (("both.wav", "--goals"), "the goals need the true motion"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_with_a_sentence(tmp_path, monkeypatch, given, sentence):
    monkeypatch.chdir(tmp_path)
    soundfile.write("both.wav", np.zeros((2 * 16_000, 2)), 16_000)
    done = timar(*given)
    assert done.returncode == 1
    assert sentence in done.stderr + done.stdout and "Traceback" not in done.stderr


def test_where_there_is_no_result_there_is_no_file(tmp_path):
    soundfile.write(tmp_path / "both.wav", np.zeros((2 * 16_000, 2)), 16_000)
    assert timar(tmp_path / "both.wav", "--policy", "nobody", "--json", tmp_path / "out.json").returncode == 1
    assert not (tmp_path / "out.json").exists()


def test_a_seed_means_other_noise_in_each_generated_dialogue_and_that_of_a_live_head_elsewhere(pair, tmp_path):
    policy, heard = load_policy("default"), hear(*(read_voice(pair / f"{party}.wav") for party in ("self", "partner")))

    def drawn(number: int | None) -> np.ndarray:
        made = {} if number is None else {"seed": [900, number], "cue_sources": [1.0]}
        truth = tmp_path / f"{number}.npz"
        np.savez(truth, motion=np.zeros((25 * SECONDS, 55)), channels=CHANNELS, **made)
        source = ClipSource("it", pair / "self.wav", pair / "partner.wav", truth)
        return run_trial(source, Variant("default", seed=3), Settings(robot=None)).motion.values

    live = move(make_stepper(policy, "cpu", 3, 1.0, "float32", 2, 0), heard)
    assert np.array_equal(drawn(None), live)
    assert np.array_equal(drawn(4), drawn(4))
    assert not np.allclose(drawn(4)[:, :3], drawn(5)[:, :3])


def test_one_conversation_that_fails_does_not_take_the_others_along(tmp_path):
    write_bag(tmp_path / "good", Invented(seconds=2.0))
    write_bag(tmp_path / "silent", Invented(seconds=2.0), without=("/microphone/audio", "/partner/audio"))
    done = timar(tmp_path, "--json", tmp_path / "out.json", "--jobs", 1)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "no sound of either voice" in done.stdout and "head" in strict(tmp_path / "out.json")


def test_interrupted_run_keeps_what_is_done(pair, tmp_path):
    folders = tmp_path / "pairs"
    for number in range(60):
        (folders / f"{number:02}").mkdir(parents=True)
        for party in ("self", "partner"):
            (folders / f"{number:02}" / f"{party}.wav").symlink_to(pair / f"{party}.wav")
    command = [sys.executable, "-m", "timar_ros.cli", "evaluate", str(folders), "--out", str(tmp_path / "out")]
    command += ["--jobs", "2", "--video-seconds", "0"]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # Tests that were started in the background inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        limit = time.monotonic() + 60
        while not list((tmp_path / "out" / "motion").glob("*.npz")):
            assert running.poll() is None and time.monotonic() < limit, "no trial was done in time"
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        printed, _ = running.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)  # and its workers
    assert running.returncode == 130, printed
    assert "interrupted after" in printed and "Traceback" not in printed
    done = strict(tmp_path / "out" / "metrics.json")["run"]
    assert 1 <= done["trials"] < done["trials_wanted"] == 60
    assert "the run was interrupted" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


# --- what the figures of many trials become ------------------------------------------------------


def trial(clip: str, policy: str, seed: int, **figures: float) -> Trial:
    return Trial(clip, Variant(policy, seed), policy, seed, 10.0, 1.0, nested(figures))


def test_seeds_are_averaged_within_a_clip_before_clips_are():
    variants = [Variant("a", 0), Variant("a", 1)]
    trials = [trial("x", "a", 0, **{"fd.pose": 1.0}), trial("x", "a", 1, **{"fd.pose": 3.0})]
    trials += [trial("y", "a", 0, **{"fd.pose": 10.0})]
    (summary,) = Comparison(variants, trials).summaries()
    assert summary.means["fd.pose"] == 6.0 and summary.intervals["fd.pose"] == (2.0, 10.0)


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(200):
        clips = [{"a": value} for value in rng.normal(5.0, 2.0, size=30)]
        low, high = comparison._intervals(clips)["a"]
        covered += low <= 5.0 <= high
    assert 0.88 <= covered / 200 <= 0.98


@pytest.mark.parametrize(
    ("path", "values", "truth", "winners"),
    [
        ("fd.pose", (1.0, 2.0), {}, {0}),
        ("sid.pose", (1.0, 2.0), {}, {1}),
        ("lips.offset_ms", (-40, 80), {}, {0}),
        ("head.sd_deg", (1.0, 5.0), {"head.sd_deg": 4.0}, {1}),
        ("head.sd_deg", (1.0, 5.0), {}, set()),
        ("fd.pose", (2.0, 2.0), {}, set()),
    ],
)
def test_best_is_told_only_where_better_can_be_told(path, values, truth, winners):
    trials = [trial("x", name, 0, **{path: value}) for name, value in zip("ab", values, strict=True)]
    summaries = Comparison([Variant("a", 0), Variant("b", 0)], trials).summaries()
    row = next(row for row in comparison.ROWS if row.path == path)
    assert best(row, summaries, truth) == winners


def test_figures_that_are_not_finite_become_null():
    done = Comparison([Variant("a", 0)], [trial("x", "a", 0, **{"fd.pose": float("nan"), "mse.pose": np.float32(2)})])
    text = json.dumps(as_json(done), allow_nan=False)
    assert json.loads(text)["fd"]["pose"] is None and json.loads(text)["mse"]["pose"] == 2.0


def test_nested_is_the_inverse_of_flat():
    figures = {"a": {"b": 1, "c": {"d": None}}, "e": 2.5}
    assert nested(flat(figures)) == figures


def test_every_row_of_the_table_is_defined_in_the_docs():
    text = (Path(__file__).resolve().parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    for row in comparison.ROWS:
        assert f"`{row.path.split('.')[0]}" in text, row.path


def test_clip_source_can_be_sent_to_another_process():
    import pickle

    source = ClipSource("x", Path("a.wav"), Path("b.wav"))
    assert pickle.loads(pickle.dumps(source)) == source
