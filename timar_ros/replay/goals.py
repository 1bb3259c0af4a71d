"""`timar evaluate --goals`: a policy beside its rivals, on dialogues never trained on and on a real conversation.

What a policy that takes part in a conversation has to reach, figure by figure, with a verdict on each. The goals are
this project's own; the ranges of head movement are those of two people, a calm and a lively one, measured from
recordings (54 s). Every figure is defined in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import gt, lt
from typing import Any

from timar_ros.errors import TimarError
from timar_ros.model.checkpoint import load_policy
from timar_ros.replay.clips import ClipSource
from timar_ros.replay.comparison import Comparison, number
from timar_ros.replay.rivals import ENERGY_JAW, NOISE, RIVALS, STILL
from timar_ros.replay.trial import Variant, variants_of
from timar_ros.stream.steppers import most_lookahead_frames

GENERATED, REAL = "generated", "real"
SEEDS = (0, 1, 2)
SWAP = "swap-partner"
LOOKAHEAD_FRAMES = 3
DRAWS = {GENERATED: 0, REAL: 16}
"""Draws that the mean of a policy's motion is taken of; 0 is one draw at temperature 0."""
Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Standing:
    """All that is known of one policy in one kind of conversation; figures by dotted path, empty where not run.

    Attributes:
        drawn: of single draws. ahead: the same with the own voice known earlier. swapped: with another's partner.
        mean, mean_ahead: of the mean of several draws.
        truth: of the true people. rivals: by their names.
    """

    drawn: Figures
    swapped: Figures
    mean: Figures
    ahead: Figures
    mean_ahead: Figures
    truth: Figures
    rivals: Mapping[str, Figures]


Met = Callable[[float, Standing], bool | None]


@dataclass(frozen=True)
class Goal:
    """One line of the table.

    Attributes:
        where: the kind of conversation. words: what is asked for.
        path: of the figure; the rivals' and the true person's are shown beside it.
        met: whether a value will do; None where that cannot be told. Without it the line is for information.
        part, over: of which motion in a `Standing`; over which other motion's it is taken.
    """

    where: str
    label: str
    words: str
    path: str
    met: Met | None = None
    part: str = "drawn"
    over: str | None = None

    def value(self, standing: Standing) -> float | None:
        value = getattr(standing, self.part).get(self.path)
        if self.over is None or value is None:
            return value
        below = getattr(standing, self.over).get(self.path)
        return value / below if below else None

    def entry(self, standings: Mapping[str, Standing]) -> dict[str, Any]:
        """Every policy's value and verdict, and what stands beside them."""
        policies = {}
        for policy, standing in standings.items():
            value = self.value(standing)
            judged = self.met is not None and value is not None
            policies[policy] = {"value": value, "met": self.met(value, standing) if judged else None}
        first, alone = next(iter(standings.values())), self.over is None
        return {
            "where": self.where,
            "label": self.label,
            "goal": self.words,
            "policies": policies,
            "rivals": {name: figures.get(self.path) if alone else None for name, figures in first.rivals.items()},
            "truth": first.truth.get(self.path) if alone else None,
        }


def plan(where: str, policies: Sequence[str], seeds: Sequence[int], draws: int | None = None) -> list[Variant]:
    """What has to be run on one kind of conversation; `draws` other than `DRAWS` for the mean."""
    draws = DRAWS[where] if draws is None else draws
    hear_ahead = [p for p in policies if most_lookahead_frames(load_policy(p)) >= LOOKAHEAD_FRAMES]
    if where == GENERATED:
        found = variants_of([*policies, *RIVALS], seeds, [SWAP], draws=draws)
        return found + [Variant(policy, seeds[0], None, LOOKAHEAD_FRAMES, draws) for policy in hear_ahead]
    found = variants_of([*policies, STILL, NOISE, ENERGY_JAW], seeds, draws=draws)
    return found + variants_of(hear_ahead, seeds, (), [LOOKAHEAD_FRAMES], draws)


def kinds_of(sources: Sequence[ClipSource]) -> dict[str, list[ClipSource]]:
    """Generated dialogues and real conversations apart."""
    generated = [source for source in sources if source.is_generated]
    real = [source for source in sources if source.truth is not None and source not in generated]
    if len(generated) + len(real) < len(sources):
        raise TimarError("the goals need the true motion of every conversation; give --truth, or DualTalk's layout")
    return {where: found for where, found in ((GENERATED, generated), (REAL, real)) if found}


def standing(comparison: Comparison, policy: str) -> Standing:
    """What a comparison says of one policy."""
    by_variant = {summary.variant: summary.means for summary in comparison.summaries()}
    draws = [v.draws for v in by_variant if v.draws is not None]
    drawn = Variant(policy)

    def figures(variant: Variant) -> Figures:
        return by_variant.get(variant, {})

    def mean_figures(variant: Variant) -> Figures:
        return figures(replace(variant, draws=max(draws))) if draws else {}

    ahead = replace(drawn, lookahead_frames=LOOKAHEAD_FRAMES)
    return Standing(
        drawn=figures(drawn),
        swapped=figures(replace(drawn, perturbation=SWAP)),
        mean=mean_figures(drawn),
        ahead=figures(ahead),
        mean_ahead=mean_figures(ahead),
        truth=comparison.truth(),
        rivals={name: figures(Variant(name)) for name in RIVALS},
    )


def verdicts(comparisons: Mapping[str, Comparison], policies: Sequence[str]) -> list[dict[str, Any]]:
    """One entry for each goal, as metrics.json holds them."""
    entries = []
    for where, comparison in comparisons.items():
        standings = {policy: standing(comparison, policy) for policy in policies}
        entries += [goal.entry(standings) for goal in GOALS if goal.where == where]
    return entries


def goals_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """The verdicts as a table in Markdown, which can be read as it is."""
    policies, rivals = list(entries[0]["policies"]), list(entries[0]["rivals"])
    names = [Variant(policy).label for policy in policies]
    titles = {GENERATED: "generated dialogues, never trained on", REAL: "real conversation, never trained on"}
    lines, where = [["", "goal", *names, *rivals, "true person"]], None
    mark = {True: " ✓", False: " ✗", None: ""}
    for entry in entries:
        if entry["where"] != where:
            where = entry["where"]
            lines.append([f"**{titles[where]}**", *[""] * (len(lines[0]) - 1)])
        cells = [number(each["value"]) + mark[each["met"]] for each in entry["policies"].values()]
        cells += [number(value) for value in entry["rivals"].values()]
        lines.append([entry["label"], entry["goal"], *cells, number(entry["truth"])])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    rows.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(rows)


# --- the goals -----------------------------------------------------------------------------------


def _least(limit: float) -> Met:
    return lambda value, standing: value >= limit


def _most(limit: float) -> Met:
    return lambda value, standing: value <= limit


def _between(low: float, high: float) -> Met:
    return lambda value, standing: low <= value <= high


def _against(path: str, rivals: Sequence[str], better: Callable[[float, float], bool]) -> Met:
    def met(value: float, standing: Standing) -> bool | None:
        theirs = [standing.rivals[rival].get(path) for rival in rivals]
        return None if None in theirs else all(better(value, other) for other in theirs)

    return met


def _at_most_theirs(value: float, theirs: float | None) -> bool | None:
    return None if theirs is None else value <= 1.2 * theirs


def _distances() -> list[Goal]:
    found = []
    for prefix, how in _FRAMES:
        for metric, name in (("fd", "FD"), ("paired_fd", "paired FD"), ("rpcc", "rPCC")):
            rivals = (STILL, ENERGY_JAW) if metric == "fd" else (NOISE,)
            words = "below " + ", ".join(rivals)
            for group in ("pose", "jaw"):
                path = f"{prefix}{metric}.{group}"
                found.append(Goal(GENERATED, f"{name} {group}, {how}", words, path, _against(path, rivals, lt)))
    return found


def _swapped_distances() -> list[Goal]:
    return [
        Goal(
            GENERATED, f"paired FD {group} with swapped partners, over its own, {how}", "> 1",
            f"{prefix}paired_fd.{group}", lambda value, standing: value > 1.0, "swapped", "drawn",
        )
        for prefix, how in _FRAMES
        for group in ("pose", "jaw")
    ]  # fmt: skip


def _like_the_two_people(path: str, label: str, low: float, high: float) -> Goal:
    return Goal(REAL, label, f"{low:g} to {high:g}", path, _between(low, high))


def _like_the_people(path: str, label: str) -> Goal:
    def met(value: float, standing: Standing) -> bool | None:
        theirs = standing.truth.get(path)
        return None if theirs is None else theirs / 1.5 <= value <= theirs * 1.5

    return Goal(GENERATED, label, "true people's, / 1.5 to × 1.5", path, met)


_FRAMES = (("pooled.", "all frames"), ("", "by dialogue"))
_F1, _NODS, _BLINKS = "pooled.cues.f1", "nods_per_minute.partner", "blinks.per_minute"
_JAW, _SHAPES, _LIPS, _LATE = "pooled.lips.same_instant", "pooled.lips.shapes", "lips.correlation", "lips.offset_ms"
_JAW_MOVED, _SHAPES_MOVED, _MOVED = (f"pooled.lips.{key}" for key in ("correlation", "shapes_at_offset", "offset_ms"))
_LISTENING = "mouth_while_listening"
_AHEAD = f"own voice {40 * LOOKAHEAD_FRAMES} ms ahead"
GOALS: tuple[Goal, ...] = (
    *_distances(),
    Goal(GENERATED, "listener responses on cues, F1", "≥ 0.5", _F1, _least(0.5)),
    Goal(GENERATED, "… against noise", "above noise", _F1, _against(_F1, [NOISE], gt)),
    Goal(GENERATED, "… over that with swapped partners", "≥ 2", _F1, _least(2.0), "drawn", "swapped"),
    *_swapped_distances(),
    Goal(GENERATED, "nods a minute while the partner speaks", "4 to 15", _NODS, _between(4, 15)),
    Goal(GENERATED, "blinks a minute", "10 to 35", _BLINKS, _between(10, 35)),
    _like_the_people("expression.smile_mean", "smile, mean"),
    _like_the_people("expression.brows_sd", "raising of brows, sd"),
    Goal(GENERATED, "mean: jawOpen with the truth, correlation", "≥ 0.85", _JAW, _least(0.85), "mean"),
    Goal(GENERATED, "mean: shapes of the mouth, correlation", "≥ 0.6", _SHAPES, _least(0.6), "mean"),
    Goal(GENERATED, "mean, moved alike: jawOpen with the truth", "≥ 0.85", _JAW_MOVED, _least(0.85), "mean"),
    Goal(GENERATED, "mean, moved alike: shapes of the mouth", "≥ 0.6", _SHAPES_MOVED, _least(0.6), "mean"),
    Goal(GENERATED, "… by, ms", "", _MOVED, None, "mean"),
    Goal(GENERATED, f"mean, {_AHEAD}: jawOpen with the truth", "≥ 0.85", _JAW, _least(0.85), "mean_ahead"),
    Goal(GENERATED, f"mean, {_AHEAD}: shapes of the mouth", "≥ 0.6", _SHAPES, _least(0.6), "mean_ahead"),
    Goal(GENERATED, "jerk over the true people's", "≤ 2", "jerk.ratio", _most(2.0)),
    Goal(REAL, "mean: jaw with the true jaw, correlation", "≥ 0.60", _LIPS, _least(0.60), "mean"),
    Goal(REAL, "… late by, ms", "", _LATE, None, "mean"),
    Goal(REAL, "… of single draws", "", _LIPS),
    Goal(REAL, f"mean, {_AHEAD}: jaw with the true jaw", "≥ 0.65", _LIPS, _least(0.65), "mean_ahead"),
    Goal(REAL, "… late by, ms", "−60 to 60", _LATE, _between(-60, 60), "mean_ahead"),
    Goal(REAL, "… of single draws", "", _LIPS, None, "ahead"),
    Goal(
        REAL, "mouth moves while the partner speaks, over own speech", "≤ 1.2 × the true person's", _LISTENING,
        lambda value, standing: _at_most_theirs(value, standing.truth.get(_LISTENING)),
    ),
    _like_the_two_people("head.sd_pitch_deg", "sd of pitch, °", 1.4, 6.3),
    _like_the_two_people("head.sd_yaw_deg", "sd of yaw, °", 1.5, 6.8),
    _like_the_two_people("head.sd_roll_deg", "sd of roll, °", 1.7, 3.5),
    _like_the_two_people("head.speed_p95_deg_s", "angular speed p95, °/s", 31, 69),
    _like_the_two_people("head.acceleration_p95_deg_s2", "angular acceleration p95, °/s²", 820, 1500),
    Goal(REAL, "frozen stretches", "0", "frozen.count", _most(0)),
    Goal(REAL, "jerk over the true person's", "≤ 2", "jerk.ratio", _most(2.0)),
)  # fmt: skip
