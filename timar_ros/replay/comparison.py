"""Many trials, in parallel, and what they say together: means, intervals, who is best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from timar_ros.motion.track import MotionTrack, load_motion
from timar_ros.parallel import in_parallel
from timar_ros.replay.clips import ClipSource
from timar_ros.replay.pooled import pooled_cues, pooled_motion
from timar_ros.replay.trial import LIVE, Settings, Trial, Variant, plain, run_trials

LOW, HIGH, TRUTH, NEAR_ZERO = "low", "high", "truth", "near zero"
RESAMPLES = 2000
LIMITS = ("position", "velocity", "acceleration", "jerk")
_FLOOR_WORDS = {"self": "while self speaks", "partner": "while the partner speaks", "nobody": "while nobody speaks"}
CONFIDENCE = 95


@dataclass(frozen=True)
class Row:
    """One figure of the table: where it is found, what it is called, and which value is the better one."""

    group: str
    path: str
    label: str
    unit: str = ""
    better: str | None = None


def _rows() -> tuple[Row, ...]:
    published, floors = "against the true motion", ("self", "partner", "nobody")
    rows = [
        Row(published, f"{metric}.{group}", f"{name} {group}", "", better)
        for metric, name, better in (
            ("fd", "FD", LOW),
            ("paired_fd", "paired FD", LOW),
            ("mse", "MSE", LOW),
            ("sid", "SID", HIGH),
            ("rpcc", "rPCC", LOW),
        )
        for group in ("exp", "jaw", "pose")
    ]
    rows += [
        Row("lips", "lips.correlation", "correlation", "", HIGH),
        Row("lips", "lips.offset_ms", "late by", "ms", NEAR_ZERO),
        Row("lips", "lips.same_instant", "correlation at the same instant", "", HIGH),
        Row("lips", "lips.shapes", "correlation of the mouth's shapes", "", HIGH),
        Row("lips", "lips.voice_correlation", "correlation with the own voice", "", TRUTH),
        Row("lips", "lips.voice_offset_ms", "late after the own voice by", "ms", TRUTH),
        Row("head", "head.sd_deg", "spread", "°", TRUTH),
        Row("head", "head.speed_p95_deg_s", "speed, p95", "°/s", TRUTH),
        Row("head", "head.acceleration_p95_deg_s2", "acceleration, p95", "°/s²", TRUTH),
        Row("head", "jerk.ratio", "jerk, over the truth's", "×", LOW),
        Row("head", "frozen.seconds", "frozen", "s", LOW),
    ]
    for path, name, unit in (
        ("movement.head", "head moves", "°/s"),
        ("movement.mouth", "mouth moves", "/s"),
        ("nods_per_minute", "nods", "/min"),
    ):
        rows += [Row(name, f"{path}.{floor}", _FLOOR_WORDS[floor], unit, TRUTH) for floor in floors]
    rows += [
        Row("answers", "responses.motion_share", "partner's pauses answered by motion, share", "", TRUTH),
        Row("answers", "responses.motion_delay_ms", "after", "ms", TRUTH),
        Row("answers", "cues.precision", "share of answers that fall on a cue", "", TRUTH),
        Row("answers", "cues.recall", "share of cues that are answered", "", TRUTH),
        Row("answers", "cues.f1", "F1 of both", "", TRUTH),
        Row("answers", "blinks.per_minute", "blinks", "/min", TRUTH),
        Row("answers", "expression.smile_mean", "smile, mean", "", TRUTH),
        Row("answers", "expression.brows_sd", "raising of brows, standard deviation", "", TRUTH),
        Row("answers", "mouth_while_listening", "mouth while the partner speaks, over own speech", "×", TRUTH),
        *(
            Row("all conversations as one", f"pooled.{metric}.{group}", f"{name} {group}", "", LOW)
            for metric, name in (("fd", "FD"), ("paired_fd", "paired FD"), ("rpcc", "rPCC"))
            for group in ("exp", "jaw", "pose")
        ),
        Row("all conversations as one", "pooled.lips.same_instant", "jaw's correlation", "", HIGH),
        Row("all conversations as one", "pooled.lips.shapes", "correlation of the mouth's shapes", "", HIGH),
        Row("all conversations as one", "pooled.cues.f1", "F1 of answers and cues", "", TRUTH),
        *(Row("use of the robot's limits", f"limits.{name}", name, "of 1") for name in LIMITS),
        Row("live", "live.largest_difference", "largest difference from the live motion"),
        Row("live", "system.latency_ms.p50", "latency, p50", "ms"),
        Row("live", "system.latency_ms.p95", "latency, p95", "ms"),
        Row("live", "system.latency_ms.p99", "latency, p99", "ms"),
        Row("live", "system.lips.offset_ms", "lips late against the sound heard by", "ms"),
        Row("live", "system.deadline_miss_percent", "deadline misses", "%"),
        Row("live", "system.voice_missing_ms.self", "gaps in the own voice", "ms"),
        Row("live", "system.voice_missing_ms.partner", "gaps in the partner's voice", "ms"),
    ]
    return tuple(rows)


ROWS = _rows()


@dataclass(frozen=True)
class Summary:
    """One variant over all clips and seeds. `means` and `intervals` are by dotted path; None: not defined."""

    variant: Variant
    label: str
    means: Mapping[str, Any]
    intervals: Mapping[str, tuple[float, float]]
    trials: int
    seconds: float
    wall_s: float

    def value(self, path: str) -> float | None:
        value = self.means.get(path)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass
class Comparison:
    """Trials as they come; everything else is worked out from them, also of an interrupted run.

    Attributes:
        sources: where the true motion is read for the figures over all conversations; empty: without those.
    """

    variants: Sequence[Variant]
    trials: list[Trial] = field(default_factory=list)
    wanted: int = 0
    sources: Sequence[ClipSource] = ()
    wall_s: float = 0.0
    processes: int = 1

    @property
    def failures(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.error is not None]

    @property
    def seconds(self) -> float:
        """Of conversation, over all trials that ran."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def times_realtime(self) -> float | None:
        return self.seconds / self.wall_s if self.wall_s > 0 else None

    def summaries(self) -> list[Summary]:
        """One for each policy and perturbation that has a result, in the order in which they were asked for."""
        return [
            summary
            for key in dict.fromkeys(variant.without_seed for variant in self.variants)
            if (summary := self._summary(key)) is not None
        ]

    def truth(self) -> dict[str, Any]:
        """The true people's figures, averaged over clips, by dotted path."""
        by_clip = {trial.clip: trial.truth for trial in self.trials if trial.truth}
        counts = [truth["cues"] for truth in by_clip.values() if "cues" in truth]
        pooled = {"pooled": {"cues": pooled_cues(counts)}} if len(counts) > 1 else {}
        return _means([flat(truth) for truth in by_clip.values()]) | flat(pooled)

    def _summary(self, key: Variant) -> Summary | None:
        trials = [t for t in self.trials if t.variant.without_seed == key and t.error is None]
        if not trials:
            return None
        trials.sort(key=lambda t: (t.clip, t.seed))  # they came as they were done
        by_clip: dict[str, list[dict[str, Any]]] = {}
        for trial in trials:
            by_clip.setdefault(trial.clip, []).append(flat(trial.metrics))
        clips = [_means(figures) for figures in by_clip.values()]
        label = "as recorded" if key.policy == LIVE else replace(key, policy=key.policy or trials[0].policy).label
        means = _means(clips) | (flat({"pooled": self._pooled(trials)}) if len(clips) > 1 else {})
        return Summary(
            key, label, means, _intervals(clips), len(trials),
            sum(t.seconds for t in trials), sum(t.wall_s for t in trials),
        )  # fmt: skip

    def _pooled(self, trials: Sequence[Trial]) -> dict[str, Any]:
        """Figures over the frames and the counts of all trials together."""
        pooled: dict[str, Any] = {}
        people = {name: self._people[name] for name in self._people if self._people[name][0] is not None}
        known = [trial for trial in trials if trial.clip in people and trial.motion is not None]
        if known:
            truths, others = zip(*(people[trial.clip] for trial in known), strict=True)
            pooled |= pooled_motion([trial.motion for trial in known], truths, others)
        counts = [trial.metrics["cues"] for trial in trials if trial.metrics.get("cues")]
        return pooled | ({"cues": pooled_cues(counts)} if counts else {})

    @cached_property
    def _people(self) -> dict[str, tuple[MotionTrack | None, MotionTrack | None]]:
        """By clip: what both parties really did."""
        return {
            source.name: tuple(load_motion(path) if path else None for path in (source.truth, source.other))
            for source in self.sources
            if any(trial.clip == source.name and trial.error is None for trial in self.trials)
        }


def compare(
    sources: Sequence[ClipSource],
    variants: Sequence[Variant],
    settings: Settings,
    processes: int = -1,
    done: Callable[[Comparison], None] | None = None,
) -> Comparison:
    """Every variant on every clip. `done` is called after each trial; KeyboardInterrupt passes through, and what was
    done is in the comparison that `done` was given.
    """
    import time

    from joblib import effective_n_jobs

    workers = effective_n_jobs(processes)
    comparison = Comparison(variants, wanted=len(sources) * len(variants), sources=sources, processes=workers)
    # Together where there are conversations enough for all: what was read and heard once serves all variants.
    together = [tuple(variants)] if len(sources) >= 2 * workers else [(variant,) for variant in variants]
    jobs = [(source, part, settings, tuple(sources)) for source in sources for part in together]
    began = time.perf_counter()
    for trials in in_parallel(run_trials, jobs, processes):
        for trial in trials:
            comparison.trials.append(trial)
            comparison.wall_s = time.perf_counter() - began
            if done is not None:
                done(comparison)
    return comparison


def flat(figures: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested figures by dotted path."""
    result: dict[str, Any] = {}
    for key, value in figures.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = plain(value)
    return result


def nested(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`."""
    result: dict[str, Any] = {}
    for path, value in figures.items():
        *parents, name = path.split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = value
    return result


def _means(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Path by path the mean of what is defined; what is no number stays where all agree."""
    result: dict[str, Any] = {}
    for path in dict.fromkeys(path for each in figures for path in each):
        values = [each[path] for each in figures if each.get(path) is not None]
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        if values and len(numbers) == len(values):
            result[path] = values[0] if len(values) == 1 else math.fsum(values) / len(values)
        else:
            result[path] = values[0] if values and all(value == values[0] for value in values) else None
    return result


def _intervals(clips: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """95 % intervals of the mean over clips: percentiles of the means of clips drawn anew (Efron 1979)."""
    rng = np.random.default_rng(0)
    result = {}
    for path in dict.fromkeys(path for each in clips for path in each):
        values = [each[path] for each in clips if isinstance(each.get(path), int | float)]
        values = np.array([v for v in values if not isinstance(v, bool)], float)
        if len(values) >= 2:
            means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
            tail = (100 - CONFIDENCE) / 2
            low, high = np.percentile(means, (tail, 100 - tail))
            result[path] = (float(low), float(high))
    return result


def best(row: Row, summaries: Sequence[Summary], truth: Mapping[str, Any]) -> set[int]:
    """Which of the summaries are best in a row; none where nothing is better than something else."""
    values = {k: value for k, summary in enumerate(summaries) if (value := summary.value(row.path)) is not None}
    aim = truth.get(row.path)
    without_truth = row.better == TRUTH and aim is None
    # Against the voice a higher correlation is no better: real mouths follow it at about 0.6.
    by_voice = row.group == "lips" and any(s.means.get("lips.against") == "voice" for s in summaries)
    if len(values) < 2 or row.better is None or without_truth or (by_voice and row.better != TRUTH):
        return set()
    cost = {
        LOW: lambda value: value,
        HIGH: lambda value: -value,
        NEAR_ZERO: abs,
        TRUTH: lambda value: abs(value - aim),
    }[row.better]
    costs = {k: round(cost(value), 12) for k, value in values.items()}
    lowest = min(costs.values())
    winners = {k for k, value in costs.items() if value == lowest}
    return set() if len(winners) == len(costs) else winners


def shown_rows(summaries: Sequence[Summary]) -> list[Row]:
    """The rows that have a value."""
    return [row for row in ROWS if any(summary.value(row.path) is not None for summary in summaries)]


def table(comparison: Comparison) -> str:
    """The rows as lines of text; the best of a row has a star."""
    summaries, truth = comparison.summaries(), comparison.truth()
    head = ["", *(summary.label for summary in summaries), *(["true person"] if truth else [])]
    lines, group = [head], ""
    for row in shown_rows(summaries):
        if row.group != group:
            group = row.group
            lines.append([group, *[""] * (len(head) - 1)])
        winners = best(row, summaries, truth)
        name = f"  {row.label} [{row.unit}]" if row.unit else f"  {row.label}"
        cells = [number(s.value(row.path)) + ("*" if k in winners else " ") for k, s in enumerate(summaries)]
        lines.append([name, *cells, *([number(truth.get(row.path)) + " "] if truth else [])])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in lines
    )


def number(value: object) -> str:
    """A figure as a person reads it; a dash where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–"
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.1e}"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """All figures for metrics.json: those of the first variant at the top, every variant under `variants`."""
    summaries = comparison.summaries()
    variants = [
        nested(summary.means)
        | {
            "label": summary.label,
            "perturbation": summary.variant.perturbation,
            "lookahead_frames": summary.variant.lookahead_frames,
            "draws": summary.variant.draws,
            "intervals": nested({path: list(ends) for path, ends in summary.intervals.items()}),
            "trials": summary.trials,
        }
        for summary in summaries
    ]
    trials = [
        {
            "clip": t.clip, "label": replace(t.variant, policy=t.policy or t.variant.policy).label,
            "policy": t.policy, "seed": t.seed, "perturbation": t.variant.perturbation,
            "lookahead_frames": t.variant.lookahead_frames, "draws": t.variant.draws, "seconds": t.seconds,
            "wall_s": t.wall_s, "error": t.error, "notes": t.notes, "metrics": t.metrics,
        }
        for t in comparison.trials
    ]  # fmt: skip
    top = dict(variants[0]) if variants else {}
    truth = nested(comparison.truth()) or None
    run = {
        "conversation_s": comparison.seconds,
        "wall_s": comparison.wall_s,
        "times_realtime": comparison.times_realtime,
        "processes": comparison.processes,
        "trials": len(comparison.trials),
        "trials_wanted": comparison.wanted,
    }
    return plain(top | {"truth": truth, "variants": variants, "run": run, "clips": trials})


def notes_of(trials: Iterable[Trial]) -> list[str]:
    """Everything that was lost or guessed, each once, in the order of the trials."""
    return list(
        dict.fromkeys(note for trial in trials for note in (*trial.notes, *([trial.error] if trial.error else [])))
    )
