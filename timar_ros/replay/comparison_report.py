"""report.html of a comparison: one page with a table, drawings over time and side-by-side videos, all in it."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from timar_ros.errors import TimarError
from timar_ros.motion.track import MotionTrack
from timar_ros.rates import FRAME_NS, FRAME_RATE
from timar_ros.replay.clips import Clip
from timar_ros.replay.comparison import (
    CONFIDENCE,
    Comparison,
    Row,
    Summary,
    best,
    notes_of,
    number,
    shown_rows,
)
from timar_ros.replay.recording import Recording, Turn, Voice
from timar_ros.replay.render import render_side_by_side
from timar_ros.replay.report import write_page
from timar_ros.replay.time_plots import Plots, add_floor, add_voices, plots_panel
from timar_ros.replay.trial import Trial, Variant
from timar_ros.stream.frames import PARTNER, SELF

MOST_CURVES = 6
MOST_HEADS = 12
TRUE_PERSON = "true person"
_COLOURS = ("--curve1", "--curve2", "--curve3", "--curve4", "--curve5", "--curve6")
_HEAD_ROWS = (("yaw", 2), ("pitch", 1), ("roll", 0))
_PALETTE = """<style>
:root { --curve1: #c43b3b; --curve2: #22824e; --curve3: #8157c0; --curve4: #2563c9; --curve5: #946a12;
  --curve6: #6b7680; }
@media (prefers-color-scheme: dark) { :root { --curve1: #f27d75; --curve2: #57c48b; --curve3: #b084de;
  --curve4: #7aa5f5; --curve5: #d9b25c; --curve6: #9aa8b4; } }
table.compare th, table.compare td { padding-right: 18px; vertical-align: top; }
table.compare td:first-child { min-width: 13em; overflow-wrap: normal; }
table.compare td small { color: var(--muted); display: block; white-space: nowrap; }
table.compare tr.group td { font-weight: 600; padding-top: 14px; }
</style>"""


def write_comparison(
    comparison: Comparison, clips: Sequence[Clip], path: str | Path, video_s: float = 12.0, command: str = ""
) -> Path:
    """Writes the page.

    Args:
        clips: those to be drawn; the table is over all trials.
        video_s: length of each clip's video; 0 for none.
        command: what was typed, to be told at the end.
    """
    summaries, truth = comparison.summaries(), comparison.truth()
    parts = [_PALETTE, _heading(comparison), _table(summaries, truth)]
    parts += [_clip(clip, _shown(comparison, clip), video_s) for clip in clips if _shown(comparison, clip)]
    parts.append(_closing(command))
    return write_page(Path(path), "Policies compared", parts)


def write_heads(comparison: Comparison, clip: Clip, path: str | Path, seconds: float) -> Path:
    """Writes an mp4 of the true person and every policy and rival beside each other, undisturbed, as single draws."""
    shown = _shown(comparison, clip, MOST_HEADS, lambda v: v.perturbation is None and v.draws is None)
    if not shown:
        raise TimarError(f"there is nothing to show of {clip.name}: no trial of it gave motion")
    recording = _recording(clip, next(iter(shown.values())).floor)
    return _render(recording, _tracks(clip, shown), Path(path), _liveliest_s(shown, seconds), seconds)


def _heading(comparison: Comparison) -> str:
    clips = {trial.clip for trial in comparison.trials}
    labels = [summary.label for summary in comparison.summaries()]
    speed = comparison.times_realtime
    facts = [
        f"{len(clips)} conversation{'s' * (len(clips) != 1)}",
        f"{comparison.seconds:.0f} s in {comparison.wall_s:.0f} s ({number(speed)} × real time, "
        f"{comparison.processes} process{'es' * (comparison.processes != 1)})",
        f"{len(comparison.trials)} of {comparison.wanted} trials",
    ]
    notices = notes_of(comparison.trials)
    if len(comparison.trials) < comparison.wanted:
        notices.insert(0, "the run was interrupted: this is what was done by then")
    listed = "".join(f"<li>{html.escape(notice)}</li>" for notice in notices)
    notice = f'<div class="notice">To be known:<ul>{listed}</ul></div>' if notices else ""
    return (
        f"<header><h1>{html.escape(' · '.join(labels) or 'No result')}</h1>"
        f'<p class="muted">{html.escape(" · ".join(facts))}</p>{notice}</header>'
    )


def _table(summaries: Sequence[Summary], truth: Mapping[str, Any]) -> str:
    if not summaries:
        return ""
    head = "".join(f'<th class="number">{html.escape(summary.label)}</th>' for summary in summaries)
    head += f'<th class="number">{TRUE_PERSON}</th>' if truth else ""
    rows, group = [], ""
    for row in shown_rows(summaries):
        if row.group != group:
            group = row.group
            rows.append(
                f'<tr class="group"><td colspan="{len(summaries) + 1 + bool(truth)}">{html.escape(group)}</td></tr>'
            )
        winners = best(row, summaries, truth)
        cells = "".join(_cell(row, summary, k in winners) for k, summary in enumerate(summaries))
        if truth:
            cells += f'<td class="number muted">{number(truth.get(row.path))}</td>'
        unit = f" <small>{html.escape(row.unit)}</small>" if row.unit else ""
        rows.append(f"<tr><td>{html.escape(row.label)}{unit}</td>{cells}</tr>")
    return (
        f'<h2>Figures</h2><div class="panel"><table class="compare"><tr><th></th>{head}</tr>{"".join(rows)}</table>'
        f'<p class="muted"><small>Bold: the best of a row, where better can be told; without a true person to compare '
        f"with, behaviour is neither. In brackets: {CONFIDENCE} % intervals by bootstrap over conversations, where "
        "there are two or more. Every figure is defined in docs/metrics.md.</small></p></div>"
    )


def _cell(row: Row, summary: Summary, wins: bool) -> str:
    value, ends = number(summary.value(row.path)), summary.intervals.get(row.path)
    value = f"<b>{value}</b>" if wins else value
    between = f" <small>[{number(ends[0])}, {number(ends[1])}]</small>" if ends else ""
    return f'<td class="number">{value}{between}</td>'


def _shown(
    comparison: Comparison, clip: Clip, most: int = MOST_CURVES, wanted: Callable[[Variant], bool] = lambda v: True
) -> dict[str, Trial]:
    """By label the first seed of each variant on a clip, in the table's order."""
    shown: dict[str, Trial] = {}
    for summary in comparison.summaries():
        if not wanted(summary.variant):
            continue
        trials = [
            t
            for t in comparison.trials
            if t.clip == clip.name and t.motion is not None and t.variant.without_seed == summary.variant
        ]
        if trials:
            shown[summary.label] = min(trials, key=lambda trial: trial.seed)
    return dict(list(shown.items())[:most])


def _clip(clip: Clip, shown: Mapping[str, Trial], video_s: float) -> str:
    recording = _recording(clip, next(iter(shown.values())).floor)
    tracks = _tracks(clip, shown)
    plots = Plots(recording.start_ns, 0.0, max(1.0, clip.seconds))
    add_voices(plots, recording)
    add_floor(plots, recording)
    colours = dict(zip(shown, _COLOURS, strict=False)) | {TRUE_PERSON: "--strong"}
    angles = {label: np.degrees(track.rpy()) for label, track in tracks.items()}
    for name, axis in _HEAD_ROWS:
        _add_row(plots, name, "°", {label: values[:, axis] for label, values in angles.items()}, colours, True)
    _add_row(plots, "mouth", "open", {label: track.mouth() for label, track in tracks.items()}, colours, False)
    for name in ("browInnerUp", "mouthSmileLeft", "eyeBlinkLeft"):
        curves = {k: values for k, track in tracks.items() if (values := track.channel(name)) is not None}
        _add_row(plots, name, "0–1", curves, colours, False)
    keys = [("--self", "self"), ("--partner", "partner"), *((colours[label], label) for label in tracks)]
    start_s, video = 0.0, ""
    if video_s > 0:
        start_s = _liveliest_s(shown, video_s)
        video = _video(recording, tracks, start_s, video_s)
    title = f"{html.escape(clip.name)}, {clip.seconds:.1f} s"
    return f"<section><h2>{title}</h2>{video}{plots_panel(plots, keys, start_s)}</section>"


def _tracks(clip: Clip, shown: Mapping[str, Trial]) -> dict[str, MotionTrack]:
    true = {} if clip.truth is None else {TRUE_PERSON: clip.truth.cut(len(clip.frames))}
    return true | {label: trial.motion for label, trial in shown.items()}


def _recording(clip: Clip, floor: np.ndarray) -> Recording:
    """A clip's voices and turns as the report's drawings take them."""
    start_ns = clip.frames[0].stamp_ns
    end_ns = start_ns + len(clip.frames) * FRAME_NS
    voices = {party: Voice(start_ns, clip.voice(party), len(clip.frames), 0) for party in (SELF, PARTNER)}
    changes = [0, *(np.flatnonzero(floor[1:] != floor[:-1]) + 1)]
    turns = [Turn(int(k), start_ns + int(k) * FRAME_NS, "floor", str(floor[k])) for k in changes]
    return Recording(Path(clip.name), start_ns, end_ns, voices=voices, turns=turns)


def _add_row(
    plots: Plots,
    name: str,
    unit: str,
    curves: Mapping[str, np.ndarray],
    colours: Mapping[str, str],
    around_zero: bool,
) -> None:
    if not curves:
        return
    reach = max(float(np.abs(values).max()) for values in curves.values())
    low, high = (-1.0, 1.0) if around_zero else (-0.06, 1.04)
    reach = max(3.0, float(np.ceil(reach))) if around_zero else max(0.2, float(np.ceil(reach * 10.2) / 10))
    drawing = plots.level(0.0)
    for label, values in curves.items():
        times_ns = plots.start_ns + FRAME_NS * np.arange(len(values), dtype=np.int64)
        drawing += plots.curve(times_ns, values, colours[label])
    note = f"±{reach:g} {unit}" if around_zero else f"0–{reach:g}"
    plots.add(name, note, 78 if around_zero else 56, drawing, low * reach, high * reach)


def _liveliest_s(shown: Mapping[str, Trial], seconds: float) -> float:
    """Where the part begins in which both parties speak most evenly, s."""
    floor = next(iter(shown.values())).floor
    length = round(seconds * FRAME_RATE)
    if len(floor) <= length:
        return 0.0
    starts = np.arange(0, len(floor) - length, FRAME_RATE)
    shares = [min(np.mean(floor[k : k + length] == who) for who in ("self", "partner")) for k in starts]
    return float(starts[int(np.argmax(shares))] / FRAME_RATE)


def _render(
    recording: Recording, tracks: Mapping[str, MotionTrack], path: Path, start_s: float, seconds: float
) -> Path:
    motions = {label: track.shown() for label, track in tracks.items()}
    return render_side_by_side(recording, motions, path, recording.start_ns + round(start_s * 1e9), seconds)


def _video(recording: Recording, tracks: Mapping[str, MotionTrack], start_s: float, seconds: float) -> str:
    with TemporaryDirectory() as folder:
        file = _render(recording, tracks, Path(folder, "heads.mp4"), start_s, seconds)
        data = base64.b64encode(file.read_bytes()).decode()
    return (
        f'<video controls preload="metadata" style="max-width:{300 * max(2, min(4, len(tracks)))}px" '
        f'src="data:video/mp4;base64,{data}"></video>'
        f'<p class="muted"><small>From {start_s:g} s on. Own voice left, partner right. Of a person recorded in FLAME '
        "the head's rotation and the jaw are shown.</small></p>"
    )


def _closing(command: str) -> str:
    typed = f"<p>Made by: <code>{html.escape(command)}</code></p>" if command else ""
    return f"<footer>{typed}</footer>"
