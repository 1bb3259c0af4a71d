"""The table of goals: what is run, and what is made of the figures."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from timar_ros.cli import main
from timar_ros.dialogues.generate import generate
from timar_ros.errors import TimarError
from timar_ros.motion.track import MotionTrack
from timar_ros.replay.clips import ClipSource, one_party_of
from timar_ros.replay.comparison import Comparison, nested
from timar_ros.replay.goals import GENERATED, GOALS, REAL, goals_table, kinds_of, plan, verdicts
from timar_ros.replay.pooled import pooled_cues, pooled_motion
from timar_ros.replay.published_metrics import frechet_distance
from timar_ros.replay.rivals import RIVALS
from timar_ros.replay.trial import Trial, Variant, variants_of


def trial(variant: Variant, clip: str = "x", **figures: float) -> Trial:
    return Trial(clip, variant, variant.policy, variant.seed or 0, 10.0, 1.0, nested(figures), truth={"a": 1.0})


def test_every_policy_is_run_with_all_seeds_swapped_and_as_a_mean_and_rivals_only_as_they_are():
    variants = variants_of(["mine", "still", "noise"], [0, 1], ["swap-partner"], draws=0)
    assert [v for v in variants if v.policy == "mine"] == [
        Variant("mine", 0), Variant("mine", 0, draws=0), Variant("mine", 1),
        Variant("mine", 0, "swap-partner"), Variant("mine", 1, "swap-partner"),
    ]  # fmt: skip
    assert [v for v in variants if v.policy == "still"] == [Variant("still")]
    assert [v for v in variants if v.policy == "noise"] == [Variant("noise", 0), Variant("noise", 1)]


def test_only_who_hears_the_own_voice_hears_it_earlier():
    variants = variants_of(["mine", "energy-jaw", "still", "live"], [0], (), [0, 3])
    assert [(v.policy, v.lookahead_frames) for v in variants] == [
        ("mine", 0), ("mine", 3), ("energy-jaw", 0), ("energy-jaw", 3), ("still", 0), ("live", 0),
    ]  # fmt: skip


def test_who_hears_no_voice_is_there_although_voices_are_heard_earlier():
    variants = variants_of(["mine", "still", "noise", "live"], [0], (), [3])
    assert [(v.policy, v.lookahead_frames) for v in variants] == [
        ("mine", 3), ("still", None), ("noise", None), ("live", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "label"),
    [("default", "default"), ("runs/a/policy", "a"), ("runs/b/policy/", "b"), ("policy", "policy"), (None, "policy")],
)
def test_policies_are_told_apart_by_their_runs(policy, label):
    assert Variant(policy).label == label
    assert Variant(policy, 1, None, 3, 16).label == f"{label}, 120 ms ahead, mean of 16"


def test_real_conversations_have_no_swapped_partner_and_no_behaviour_model():
    variants = plan(REAL, ["default"], [0, 1, 2])
    assert {v.policy for v in variants} == {"default", "still", "noise", "energy-jaw"}
    assert not any(v.perturbation for v in variants)
    assert {v.draws for v in variants} == {None, 16}


def test_generated_and_real_conversations_are_told_apart(tmp_path):
    made = tmp_path / "made.npz"
    np.savez(made, motion=np.zeros((50, 55)), seed=[900, 3], cue_sources=[1.0])
    np.savez(tmp_path / "real.npz", motion=np.zeros((50, 55)))
    sources = [ClipSource(str(k), Path("a.wav"), Path("b.wav"), made) for k in range(6)]
    real = ClipSource("real", Path("a.wav"), Path("b.wav"), tmp_path / "real.npz")
    kinds = kinds_of([*sources, real])
    assert kinds == {GENERATED: sources, REAL: [real]}
    kinds = kinds_of(one_party_of([*sources, real]))
    assert [source.name for source in kinds[GENERATED]] == ["0", "3", "4"]  # of three dialogues one party, by turns
    assert kinds[REAL] == [real]
    with pytest.raises(TimarError, match="the goals need the true motion"):
        kinds_of([ClipSource("x", Path("a.wav"), Path("b.wav"))])


@pytest.mark.skipif(None in map(shutil.which, ("flite", "espeak-ng")), reason="flite and espeak-ng make the dialogues")
def test_one_command_sets_a_policy_beside_its_rivals(tmp_path, capsys):
    """A generated dialogue and a recording: each rival, each goal, a report for each kind, the heads in a video."""
    generate(tmp_path / "unseen", 12 / 3600, 3, 1, 12.0)
    real = tmp_path / "recording"
    real.mkdir()
    for party in ("self", "partner"):
        samples, rate = soundfile.read(Path(__file__).parent / "data" / "dialogues" / f"dialogue_1_{party}.ogg")
        soundfile.write(real / f"{party}.wav", samples[: 4 * rate], rate)
    walk = np.cumsum(np.random.default_rng(0).normal(0, 0.01, size=(100, 56)), axis=0).astype(np.float32)
    np.savez(real / "self_motion.npz", exp=walk[:, :50], pose=walk[:, 50:])
    out = tmp_path / "out"
    given = ["evaluate", "--goals", tmp_path / "unseen", real, "--seed", 0, "--draws", 0, "--hop-frames", 5]
    given += ["--jobs", 1, "--out", out, "--video-seconds", 0.2, "--video", tmp_path / "heads.mp4"]
    assert main([str(each) for each in given]) == 0
    printed = capsys.readouterr().out
    figures = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert len(figures["goals"]) == len(GOALS)
    for goal in figures["goals"]:
        assert goal["label"] in printed and set(goal["policies"]) == {"default"}
        assert set(goal["rivals"]) == set(RIVALS)
    by_label = {goal["label"]: goal for goal in figures["goals"] if goal["where"] == GENERATED}
    assert by_label["FD pose, all frames"]["policies"]["default"]["met"] in (True, False)
    assert by_label["FD pose, all frames"]["rivals"]["noise"] < by_label["FD pose, all frames"]["rivals"]["still"]
    assert by_label["mean: jawOpen with the truth, correlation"]["policies"]["default"]["value"] > 0.3
    assert figures["real"]["lips"]["against"] == "truth"
    assert (out / "report_generated.html").exists() and (out / "report_real.html").exists()
    assert (tmp_path / "heads.mp4").stat().st_size > 1000


def judged(where: str, figures: dict[tuple, dict[str, float]]) -> dict[str, dict]:
    """The verdicts by label, from one figure a variant."""
    trials = [trial(Variant(*key), **each) for key, each in figures.items()]
    comparison = Comparison([each.variant for each in trials], trials)
    return {entry["label"]: entry for entry in verdicts({where: comparison}, ["mine"])}


def test_a_goal_of_means_is_not_judged_by_single_draws_where_there_are_no_means():
    """As where a run was interrupted early."""
    entries = judged(REAL, {("mine", 0): {"lips.correlation": 0.99}})
    assert entries["mean: jaw with the true jaw, correlation"]["policies"]["mine"] == {"value": None, "met": None}


@pytest.mark.parametrize(("value", "met"), [(0.59, False), (0.61, True)])
def test_a_goal_is_met_by_the_mean_of_draws_not_by_single_ones(value, met):
    entries = judged(
        REAL, {("mine", 0): {"lips.correlation": 0.99}, ("mine", 0, None, None, 16): {"lips.correlation": value}}
    )
    goal = entries["mean: jaw with the true jaw, correlation"]["policies"]["mine"]
    assert goal == {"value": value, "met": met}
    assert entries["… of single draws"]["policies"]["mine"]["met"] is None


def test_distances_are_held_against_the_rivals_and_unknown_without_them():
    mine, still, jaw = {"fd.jaw": 1.0}, {"fd.jaw": 3.0}, {"fd.jaw": 0.5}
    label = "FD jaw, by dialogue"
    alone = judged(GENERATED, {("mine", 0): mine, ("still",): still})[label]
    assert alone["policies"]["mine"]["met"] is None
    beside = judged(GENERATED, {("mine", 0): mine, ("still",): still, ("energy-jaw",): jaw})[label]
    assert beside["policies"]["mine"]["met"] is False and beside["rivals"]["energy-jaw"] == 0.5


def test_answers_are_held_against_those_to_another_partner():
    def entries(own: float, swapped: float) -> dict:
        given = {("mine", 0): own, ("mine", 0, "swap-partner"): swapped}
        trials = [
            trial(Variant(*key), clip, **{"cues.offered": 10, "cues.answers": 10, "cues.on_cue": hits})
            for key, hits in given.items()
            for clip in "xy"
        ]
        comparison = Comparison([each.variant for each in trials], trials)
        found = verdicts({GENERATED: comparison}, ["mine"])
        return {entry["label"]: entry["policies"]["mine"] for entry in found}

    assert entries(6, 2)["listener responses on cues, F1"] == {"value": 0.6, "met": True}
    assert entries(6, 2)["… over that with swapped partners"] == {"value": pytest.approx(3.0), "met": True}
    assert entries(4, 3)["listener responses on cues, F1"]["met"] is False
    assert entries(4, 3)["… over that with swapped partners"]["met"] is False


@pytest.mark.parametrize(("smile", "met"), [(0.05, False), (0.06, True), (0.11, True), (0.13, False)])
def test_a_face_is_to_smile_as_much_as_the_people_do(smile, met):
    mine = trial(Variant("mine", 0), **{"expression.smile_mean": smile})
    comparison = Comparison([mine.variant], [replace(mine, truth={"expression": {"smile_mean": 0.08}})])
    entries = {entry["label"]: entry for entry in verdicts({GENERATED: comparison}, ["mine"])}
    assert entries["smile, mean"]["policies"]["mine"] == {"value": smile, "met": met}
    assert entries["raising of brows, sd"]["policies"]["mine"]["met"] is None


def test_table_is_markdown_with_a_mark_at_each_verdict():
    comparison = Comparison([Variant("mine", 0)], [trial(Variant("mine", 0), **{"jerk.ratio": 1.5, "frozen.count": 2})])
    lines = goals_table(verdicts({REAL: comparison}, ["mine"])).splitlines()
    assert len({line.count("|") for line in lines}) == 1 and set(lines[1]) == {"|", "-"}
    row = {cells[1].strip(): cells for cells in (line.split("|") for line in lines)}
    assert row["jerk over the true person's"][3].strip() == "1.5 ✓"
    assert row["frozen stretches"][3].strip() == "2 ✗"


def test_every_goal_is_of_a_figure_that_the_docs_define():
    text = (Path(__file__).resolve().parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    for goal in GOALS:
        assert f"`{goal.path.split('.')[0]}" in text, goal.path


def test_pooled_distance_is_of_all_frames_together():
    rng = np.random.default_rng(1)
    drawn, true, other = ([MotionTrack(rng.normal(k, 0.1, (60, 55))) for k in range(2)] for _ in range(3))
    figures = pooled_motion(drawn, true, other)
    joined = [np.concatenate([track.group("jaw") for track in tracks]) for tracks in (drawn, true)]
    assert figures["fd"]["jaw"] == pytest.approx(frechet_distance(*joined))
    assert figures["paired_fd"]["jaw"] is not None and "sid" not in figures
    assert pooled_motion(drawn, true, [None, None])["paired_fd"]["jaw"] is None


def test_mouths_that_are_all_late_are_moved_alike():
    rng = np.random.default_rng(2)
    true = [MotionTrack(np.abs(rng.normal(0.3, 0.2, (80, 55)))) for _ in range(3)]
    late = [MotionTrack(np.roll(track.values, 2, axis=0)) for track in true]
    lips = pooled_motion(late, true, [None] * 3)["lips"]
    assert lips["offset_ms"] == 80
    assert lips["correlation"] == pytest.approx(1.0) and lips["shapes_at_offset"] == pytest.approx(1.0)
    # Each by another offset: no single one fits all.
    apart = [MotionTrack(np.roll(track.values, by, axis=0)) for track, by in zip(true, (-3, 0, 3), strict=True)]
    assert pooled_motion(apart, true, [None] * 3)["lips"]["correlation"] < 0.6


def test_a_goal_that_rests_on_a_person_who_does_not_move_is_not_judged():
    label = "mouth moves while the partner speaks, over own speech"
    figures = {("mine", 0): {"mouth_while_listening": 0.3}}
    assert judged(REAL, figures)[label]["policies"]["mine"]["met"] is None


def test_pooled_counts_are_added_before_they_are_divided():
    counts = [{"offered": 1, "answers": 1, "on_cue": 1}, {"offered": 9, "answers": 3, "on_cue": 1}]
    assert pooled_cues(counts) == {"precision": 0.5, "recall": 0.2, "f1": pytest.approx(2 / 7)}
