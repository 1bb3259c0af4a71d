"""`timar evaluate`: policies on recorded conversations, or finished motion against true motion, in figures.

timar evaluate BAG                                       the bag's own policy again: the same motion to the last bit
timar evaluate BAGS --policy a b --perturb noise10dB --out DIR     a comparison with report.html
timar evaluate --self a.wav --partner b.wav [--truth t.npz]
timar evaluate --predicted a.npz --truth b.npz [--other c.npz]
timar evaluate --goals DIALOGUES --self a.wav --partner b.wav --truth t.npz     a policy and its rivals, with verdicts
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from timar_ros import parallel
from timar_ros.errors import TimarError
from timar_ros.model.precision import PRECISIONS
from timar_ros.motion.track import GROUPS, load_motion
from timar_ros.replay.bag import TOPIC_PATTERNS
from timar_ros.replay.behaviour_metrics import behaviour_metrics
from timar_ros.replay.clips import ClipSource, find_clips, one_party_of
from timar_ros.replay.comparison import Comparison, as_json, compare, notes_of, number, table
from timar_ros.replay.goals import GENERATED, REAL, SEEDS, goals_table, kinds_of, plan, verdicts
from timar_ros.replay.perturbations import PERTURBATIONS, perturbation
from timar_ros.replay.published_metrics import PUBLISHED, published_metrics
from timar_ros.replay.rivals import RIVALS
from timar_ros.replay.trial import Settings, Trial, Variant, plain, variants_of
from timar_ros.robot.profile import RobotProfile

DRAWN_CLIPS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(
        f"{title}:\n" + "\n".join(f"  {name:13} {what}" for name, what in known.items())
        for title, known in (("perturbations", PERTURBATIONS), ("rivals", RIVALS))
    )
    inputs = parser.add_argument_group("what to evaluate")
    inputs.add_argument(
        "clips", nargs="*", type=Path,
        help="bags, stereo sound files (left: self), folders of them, folders of DualTalk's layout",
    )  # fmt: skip
    inputs.add_argument("--self", dest="own", type=Path, metavar="SOUND", help="voice that the head speaks with")
    inputs.add_argument("--partner", type=Path, metavar="SOUND", help="voice of the person in front of the head")
    inputs.add_argument("--truth", type=Path, metavar="NPZ", help="what the person of the own voice really did")
    inputs.add_argument("--other", type=Path, metavar="NPZ", help="what the partner really did")
    inputs.add_argument("--predicted", type=Path, metavar="NPZ", help="finished motion to be scored against --truth")
    inputs.add_argument(
        "--topic", action="append", default=[], metavar="ROLE=TOPIC",
        help="a bag's topic under another name: self_audio=/robot/voice (also partner_audio, head_pose, ...)",
    )  # fmt: skip
    how = parser.add_argument_group("what to compare")
    how.add_argument(
        "--policy", nargs="+",
        help="names under models/ or folders; live: the motion recorded in the bag; or one of the rivals below",
    )  # fmt: skip
    how.add_argument(
        "--goals", action="store_true",
        help="each policy beside all rivals, with a verdict on each goal: generated dialogues and real conversations",
    )  # fmt: skip
    how.add_argument("--seed", nargs="+", type=int, help="seeds; their figures are averaged")
    how.add_argument("--perturb", nargs="+", default=[], metavar="NAME", help="also under these perturbations")
    how.add_argument(
        "--look-ahead", nargs="+", type=int, default=[None], metavar="FRAMES",
        help="by how many frames of 40 ms the own voice is known before it is heard; as live, else 0",
    )  # fmt: skip
    how.add_argument(
        "--draws", type=int, metavar="N", help="also the mean of N draws of each policy; 0: one draw at temperature 0"
    )
    how.add_argument(
        "--see-partner", action="store_true",
        help="let policies see the face of --other, or of a data set's partner, too; else they only hear",
    )  # fmt: skip
    how.add_argument("--one-party", action="store_true", help="of each generated dialogue one party, for speed")
    how.add_argument("--hop-frames", type=int, help="frames of 40 ms that the policy advances by")
    how.add_argument("--turns", choices=("floor", "fixed"), help="turns of the conversation, or the published second")
    how.add_argument("--temperature", type=float, help="factor on the policy's noise, 0 for none")
    how.add_argument("--precision", choices=PRECISIONS, help="of the policy's computation; as live, else float32")
    how.add_argument("--device", choices=("auto", "cuda", "cpu"), default="cpu", help="where policies run")
    how.add_argument("--robot", default="generic", help="profile whose limits are looked at; none: leave that out")
    results = parser.add_argument_group("results")
    results.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    results.add_argument("--out", type=Path, metavar="DIR", help="write report.html, metrics.json and the motion here")
    results.add_argument("--video", type=Path, metavar="MP4", help="write the heads side by side here")
    results.add_argument("--video-seconds", type=float, default=12.0, help="of each video; 0: none in the report")
    parallel.add_arguments(results)


def run(args: argparse.Namespace) -> int:
    if args.predicted is not None:
        return _score_finished(args)
    sources = _sources(args)
    if args.one_party:
        sources = one_party_of(sources)
    _check(args)
    _make_room(args)
    if args.goals:
        return _judge(args, sources)
    comparison, interrupted = _compare(sources, _variants(args), _settings(args), args)
    _show(comparison, sources, args)
    if interrupted:
        return 130
    return 1 if comparison.failures else 0


def _make_room(args: argparse.Namespace) -> None:
    """The folders of the results, before hours are spent on these; OSError where one cannot be written in."""
    if args.out is not None:
        (args.out / "motion").mkdir(parents=True, exist_ok=True)
    for file in (args.json, args.video):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            there = file.exists()
            file.open("a").close()
            if not there:
                file.unlink()


def _settings(args: argparse.Namespace) -> Settings:
    return Settings(
        args.hop_frames,
        args.turns,
        args.temperature,
        args.precision,
        args.device,
        None if args.robot == "none" else args.robot,
    )


def _compare(
    sources: Sequence[ClipSource], variants: Sequence[Variant], settings: Settings, args: argparse.Namespace
) -> tuple[Comparison, bool]:
    """The comparison, and whether Ctrl-C ended it; then it holds what was done by then."""
    kept = Comparison(variants, wanted=len(sources) * len(variants))
    bar = tqdm(total=kept.wanted, unit="trial", disable=None if kept.wanted > 1 else True)

    def keep(comparison: Comparison) -> None:
        nonlocal kept
        kept = comparison
        bar.update()
        if args.out is not None:
            _save_motion(args.out / "motion", comparison.trials[-1])

    processes = 1 if kept.wanted == 1 and args.cluster is None else args.jobs
    try:
        with bar, parallel.backend(args.cluster):
            compare(sources, variants, settings, processes, keep)
    except KeyboardInterrupt:
        print(f"\ninterrupted after {len(kept.trials)} of {kept.wanted} trials; these are kept", file=sys.stderr)
        return kept, True
    return kept, False


def _judge(args: argparse.Namespace, sources: Sequence[ClipSource]) -> int:
    """`--goals`: each policy beside its rivals, on generated dialogues and on real conversations."""
    policies, seeds = args.policy or ["default"], args.seed or list(SEEDS)
    settings = replace(_settings(args), robot=None)
    comparisons: dict[str, Comparison] = {}
    interrupted = False
    for where, found in kinds_of(sources).items():
        if not interrupted:
            comparisons[where], interrupted = _compare(found, plan(where, policies, seeds, args.draws), settings, args)
    for note in dict.fromkeys(note for each in comparisons.values() for note in notes_of(each.trials)):
        print(f"note: {note}")
    entries = verdicts(comparisons, policies)
    print(goals_table(entries))
    for where, each in comparisons.items():
        clips = {trial.clip for trial in each.trials}
        print(
            f"{where}: {len(clips)} conversation{'s' * (len(clips) != 1)}, seeds {', '.join(map(str, seeds))}, "
            f"{each.wall_s:.0f} s on {each.processes} core{'s' * (each.processes != 1)}"
        )
    figures = {"goals": plain(entries)} | {where: as_json(each) for where, each in comparisons.items()}
    _write_figures(figures, args)
    if args.out is not None:
        for where, each in comparisons.items():
            _write_report(each, sources, args.out / f"report_{where}.html", args, drawn=1)
    if args.video is not None:
        _write_video(comparisons[REAL if REAL in comparisons else GENERATED], sources, args)
    if interrupted:
        return 130
    return 1 if any(each.failures for each in comparisons.values()) else 0


def _score_finished(args: argparse.Namespace) -> int:
    if args.truth is None or args.clips or args.own:
        raise TimarError("--predicted needs --truth and no sound: --predicted a.npz --truth b.npz [--other c.npz]")
    predicted, truth = load_motion(args.predicted), load_motion(args.truth)
    other = load_motion(args.other) if args.other else None
    lengths = {len(track) for track in (predicted, truth, other) if track is not None}
    if len(lengths) > 1:
        print(f"the motions have {', '.join(map(str, sorted(lengths)))} frames; the first {min(lengths)} are compared")
    cut = truth.cut(min(lengths))
    figures: dict[str, Any] = published_metrics(predicted, truth, other)
    figures |= behaviour_metrics(predicted.cut(min(lengths)), truth=cut)
    figures["truth"] = behaviour_metrics(cut)
    figures["frames"] = min(lengths)
    for metric in PUBLISHED:
        print(f"{metric:10}" + "".join(f"{group:>6} {number(figures[metric][group]):<10}" for group in GROUPS))
    _write_json(args.json, plain(figures))
    return 0


def _sources(args: argparse.Namespace) -> list[ClipSource]:
    topics = dict(_topic(text) for text in args.topic)
    sources = [source for path in args.clips for source in find_clips(path, topics)]
    if (args.own is None) != (args.partner is None):
        raise TimarError("--self and --partner go together: a conversation has two voices")
    if args.own is not None:
        sources.append(ClipSource(args.own.stem, args.own, args.partner, args.truth, args.other))
    if not sources:
        raise TimarError("nothing to evaluate; give a bag or a folder, or --self a.wav --partner b.wav")
    if args.own is None and (args.truth is not None or args.other is not None):
        if len(sources) != 1:
            raise TimarError(f"--truth and --other are of one conversation, and there are {len(sources)}")
        sources = [replace(sources[0], truth=args.truth or sources[0].truth, other=args.other or sources[0].other)]
    if args.see_partner:
        if all(source.other is None and not source.is_bag for source in sources):
            raise TimarError("--see-partner: it is not known what the partner did; give --other, or DualTalk's layout")
        sources = [replace(source, partner_seen=True) for source in sources]
    names = [source.name for source in sources]
    return [
        replace(source, name=f"{source.name} ({names[:k].count(source.name) + 1})")
        if names.count(source.name) > 1
        else source
        for k, source in enumerate(sources)
    ]


def _topic(text: str) -> tuple[str, str]:
    role, equals, topic = text.partition("=")
    if not equals or role not in TOPIC_PATTERNS:
        raise TimarError(f"--topic is {text!r}; expected ROLE=/TOPIC with a role of {', '.join(TOPIC_PATTERNS)}")
    return role, topic


def _variants(args: argparse.Namespace) -> list[Variant]:
    for name in args.perturb:
        perturbation(name)
    policies, seeds = args.policy or [None], args.seed or [None]
    return variants_of(policies, seeds, args.perturb, args.look_ahead, args.draws)


def _check(args: argparse.Namespace) -> None:
    if args.hop_frames is not None and not 1 <= args.hop_frames <= 25:
        raise TimarError(f"--hop-frames is {args.hop_frames}; 1 to 25 is allowed")
    if args.temperature is not None and not 0 <= args.temperature <= 4:
        raise TimarError(f"--temperature is {args.temperature}; 0 to 4 is allowed")
    for name, value, most in (("--draws", args.draws, 1000), *(("--look-ahead", n, 25) for n in args.look_ahead)):
        if value is not None and not 0 <= value <= most:
            raise TimarError(f"{name} is {value}; 0 to {most} is allowed")
    if args.video is not None and args.video_seconds <= 0:
        raise TimarError(f"--video-seconds is {args.video_seconds:g}; a --video needs more than 0")
    for seed in args.seed or []:
        if seed < 0:
            raise TimarError(f"--seed is {seed}; 0 and more is allowed")
    if args.robot != "none":
        RobotProfile.load(args.robot)  # refuses here what would fail every trial
    by_label: dict[str, str] = {}
    for policy in args.policy or []:
        other = by_label.setdefault(Variant(policy).label, policy)
        if other != policy:
            raise TimarError(
                f"--policy: {other} and {policy} would both be called {Variant(policy).label!r}; give one of them by a "
                "link or a copy of another name"
            )
    parallel.check(args)


def _save_motion(folder: Path, trial: Trial) -> None:
    if trial.motion is None:
        return
    safe = "".join(
        c if c.isalnum() or c in "-_." else "_" for c in f"{trial.clip}--{trial.variant.label}--{trial.seed}"
    )
    np.savez_compressed(folder / f"{safe}.npz", motion=trial.motion.values)


def _show(comparison: Comparison, sources: Sequence[ClipSource], args: argparse.Namespace) -> None:
    for note in notes_of(comparison.trials):
        print(f"note: {note}")
    if not comparison.summaries():
        if comparison.failures:
            raise TimarError("there is no result; the reasons are above")
        return
    print(table(comparison))
    speed = comparison.times_realtime
    print(
        f"\n{comparison.seconds:.0f} s of conversation in {comparison.wall_s:.1f} s: {number(speed)} times real time "
        f"on {comparison.processes} core{'s' * (comparison.processes != 1)}"
    )
    figures = as_json(comparison)
    _write_figures(figures, args)
    if args.out is not None:
        _write_report(comparison, sources, args.out / "report.html", args)
    if args.video is not None:
        _write_video(comparison, sources, args)


def _write_report(
    comparison: Comparison,
    sources: Sequence[ClipSource],
    path: Path,
    args: argparse.Namespace,
    drawn: int = DRAWN_CLIPS,
) -> None:
    from timar_ros.replay.comparison_report import write_comparison

    clips = [source.read() for source in _done(comparison, sources)[:drawn]]
    command = shlex.join(["timar", *sys.argv[1:]])
    print(f"look at {write_comparison(comparison, clips, path, args.video_seconds, command)}")


def _write_video(comparison: Comparison, sources: Sequence[ClipSource], args: argparse.Namespace) -> None:
    from timar_ros.replay.comparison_report import write_heads

    args.video.parent.mkdir(parents=True, exist_ok=True)
    done = _done(comparison, sources)
    if not done:
        print(f"no trial was completed, so there is no {args.video}", file=sys.stderr)
        return
    print(f"look at {write_heads(comparison, done[0].read(), args.video, args.video_seconds)}")


def _done(comparison: Comparison, sources: Sequence[ClipSource]) -> list[ClipSource]:
    done = {trial.clip for trial in comparison.trials if trial.error is None}
    return [source for source in sources if source.name in done]


def _write_figures(figures: Any, args: argparse.Namespace) -> None:
    _write_json(None if args.out is None else args.out / "metrics.json", figures)
    _write_json(args.json, figures)


def _write_json(path: Path | None, figures: Any) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n", encoding="utf-8")
