"""Writes report.html: one page, without any other file, that shows what happened in a recording.

All drawings are SVG made here, so that the page needs nothing from elsewhere, follows the reader's
light or dark setting, and can be zoomed in time. Only the video may lie beside the page.
"""

import base64
import html
import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from timar_ros.rates import SAMPLE_RATE
from timar_ros.replay.recording import Recording, Status
from timar_ros.replay.render import video_span_ns
from timar_ros.replay.report_page import SCRIPT, STYLE
from timar_ros.replay.summary import check_goals
from timar_ros.replay.time_plots import Plots, add_face, add_floor, add_head, add_voices, plots_panel

EMBED_BYTES = 3_000_000  # a video up to this size becomes part of the page
REACTION_BUDGET = {1: (60, 100), 2: (90, 140)}  # ms by frames a hop: median, p99


def write_report(
    recording: Recording,
    summary: Mapping[str, Any],
    path: str | Path,
    video: str | Path | None = None,
) -> Path:
    """Writes the page.

    Args:
        recording: what was recorded.
        summary: its figures, of `summarise`.
        path: the file to write.
        video: the rendered head; None takes head.mp4 or head.gif beside the page, if there is one.
            A small one becomes part of the page, a larger one is referred to.
    """
    path = Path(path)
    if video is None:
        beside = [path.with_name(name) for name in ("head.mp4", "head.gif")]
        video = next((file for file in beside if file.exists()), None)
    parts = [
        _heading(recording, summary),
        _cards(summary),
        _video_and_goals(path, Path(video) if video else None, summary),
        _time_plots(recording, summary),
        _latency(recording, summary),
        _inputs(recording),
        _policy(recording, summary),
        _closing(),
    ]
    return write_page(path, f"Conversation, {_when(recording)}", parts)


def write_page(path: Path, title: str, parts: Iterable[str]) -> Path:
    """Writes pieces of HTML as one page with the reports' style and script."""
    path.write_text(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + f"\n</main><script>{SCRIPT}</script></body></html>\n",
        encoding="utf-8",
    )
    return path


def _when(recording: Recording) -> str:
    return datetime.fromtimestamp(recording.begin_ns / 1e9).strftime("%Y-%m-%d %H:%M")


def _heading(recording: Recording, summary: Mapping[str, Any]) -> str:
    checks = check_goals(summary)
    missed = [check.label for check in checks if check.ok is False]
    unknown = sum(check.ok is None for check in checks)
    met = sum(check.ok is True for check in checks)
    if missed:
        verdict = f'<p class="verdict bad">Missed: {html.escape(", ".join(missed))}</p>'
    elif met:
        verdict = f'<p class="verdict ok">All {met} goals that were measured are met</p>'
    else:
        verdict = '<p class="verdict muted">No goal could be measured</p>'
    if unknown and (met or missed):
        verdict += f'<p class="muted"><small>{unknown} not measured</small></p>'
    seconds = summary.get("seconds")
    about = [
        f"{seconds:.1f} s of conversation" if seconds else "length not recorded",
        f"policy {summary['policy']}" if summary.get("policy") else None,
        f"on {summary['device']}" if summary.get("device") else None,
        _when(recording),
        f"recording {recording.path.name}",
    ]
    notice = ""
    if summary.get("losses"):
        rows = "".join(f"<li>{html.escape(loss)}</li>" for loss in summary["losses"])
        notice = f'<div class="notice">Not everything could be read or told:<ul>{rows}</ul></div>'
    return (
        "<header><h1>A conversation, and what the head did</h1>"
        f'<p class="muted">{html.escape(" · ".join(part for part in about if part))}</p>'
        f"{verdict}{notice}</header>"
    )


def _cards(summary: Mapping[str, Any]) -> str:
    reaction = summary.get("reaction_ms") or {}
    latency = summary.get("latency_ms") or {}
    cards = [
        ("Reaction, median", reaction.get("p50"), "ms", f"p99 {_number(reaction.get('p99'))} ms"),
        ("Motion delay", summary.get("motion_delay_ms"), "ms", "frame to joint states"),
        ("Command latency", latency.get("p50"), "ms", f"p99 {_number(latency.get('p99'))} ms"),
        ("Commands", summary.get("commands"), "", _of(summary, "commands_percent", "hops")),
        (
            "Face messages",
            summary.get("blendshape_messages"),
            "",
            _of(summary, "blendshape_percent", "frames"),
        ),
        ("Turns", summary.get("turns"), "", f"{_number(summary.get('turns_by_floor'))} by floor"),
        (
            "Deadline misses",
            summary.get("deadline_misses"),
            "",
            _of(summary, "deadline_miss_percent", "hops"),
        ),
        (
            "Limit violations",
            summary.get("limit_violations"),
            "",
            f"{_number(summary.get('refusals'))} commands refused",
        ),
        ("Speed", summary.get("realtime_factor"), "×", "of real time"),
        ("Peak memory", summary.get("rss_mb"), "MB", "head node"),
    ]
    shown = [
        f'<div class="card"><div class="name">{name}</div><div class="value">{_number(value)}'
        f"{f' <small>{unit}</small>' if unit and value is not None else ''}</div>"
        f'<div class="goal">{note or "&nbsp;"}</div></div>'
        for name, value, unit, note in cards
    ]
    return f'<section class="cards">{"".join(shown)}</section>'


def _sign(goal: str) -> str:
    return html.escape(goal.replace("<=", "≤").replace(">=", "≥"))


def _of(summary: Mapping[str, Any], key: str, whole: str) -> str:
    value = summary.get(key)
    return "" if value is None else f"{value:g} % of {whole}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _video_and_goals(page: Path, video: Path | None, summary: Mapping[str, Any]) -> str:
    mark = {
        True: '<span class="ok">✓</span>',
        False: '<span class="bad">✗</span>',
        None: "–",
    }
    rows = "".join(
        f'<tr><td>{check.label}</td><td class="number">{check.shown}</td>'
        f'<td class="number muted">{_sign(check.goal)}</td><td>{mark[check.ok]}</td></tr>'
        for check in check_goals(summary)
    )
    goals = f'<div class="panel"><h3>Against the goals</h3><table>{rows}</table></div>'
    if video is None or not video.exists():
        return f"<h2>Figures</h2>{goals}"
    embedded = video.stat().st_size <= EMBED_BYTES
    kind = "image/gif" if video.suffix == ".gif" else "video/mp4"
    if embedded:
        source = f"data:{kind};base64,{base64.b64encode(video.read_bytes()).decode()}"
    else:
        source = html.escape(relative_link(video, page))
    if kind == "image/gif":
        shown = f'<img alt="the rendered head" style="width:100%" src="{source}">'
    else:
        shown = f'<video controls preload="metadata" src="{source}"></video>'
    link = html.escape(relative_link(video, page))
    return (
        f'<h2>The head</h2><div class="split"><div>{shown}<p class="muted"><small>Own voice left, '
        f'partner right, as a person in the room heard them. File: <a href="{link}">{link}</a>'
        f"</small></p></div>{goals}</div>"
    )


def relative_link(file: Path, page: Path) -> str:
    try:
        return file.resolve().relative_to(page.resolve().parent).as_posix()
    except ValueError:
        return file.resolve().as_uri()


def _time_plots(recording: Recording, summary: Mapping[str, Any]) -> str:
    video_start_ns, video_end_ns = video_span_ns(recording)
    starts = [voice.start_ns for voice in recording.voices.values()]
    from_ns = min([recording.start_ns, *starts])
    plots = Plots(
        recording.start_ns,
        (from_ns - recording.start_ns) / 1e9,
        max(1.0, (video_end_ns - recording.start_ns) / 1e9),
    )
    add_voices(plots, recording)
    add_floor(plots, recording)
    add_head(plots, recording)
    add_face(plots, recording)
    _add_latency(plots, recording, summary)
    if not plots.rows:
        return ""
    keys = [
        ("--self", "self"),
        ("--partner", "partner"),
        ("--both", "both"),
        ("--nobody", "nobody"),
        ("--soft", "policy's head pose"),
        ("--strong", "robot's joints"),
    ]
    offset_s = (video_start_ns - recording.start_ns) / 1e9
    return "<h2>The conversation in time</h2>" + plots_panel(plots, keys, offset_s)


def _add_latency(plots: Plots, recording: Recording, summary: Mapping[str, Any]) -> None:
    delays = _delays(recording)
    if delays is None:
        return
    stamps_ns, newest, oldest = delays
    median, p99 = _budget(summary)
    reach = float(np.ceil(max(1.25 * p99, min(oldest.max(), 4.0 * p99)) / 20.0) * 20.0)
    x = plots.seconds(stamps_ns)
    bars = "".join(
        f"M{a:.2f} {-min(b, reach):.1f}V{-min(c, reach):.1f}" for a, b, c in zip(x, newest, oldest, strict=True)
    )
    dots = "".join(f"M{a:.2f} {-min(b, reach):.1f}h0.001" for a, b in zip(x, newest, strict=True))
    drawing = (
        f'<path d="{bars}" stroke="var(--self)" opacity="0.3" fill="none"/>'
        f'<path d="{dots}" stroke="var(--self)" stroke-width="3.5" stroke-linecap="round"/>'
        + plots.level(median, "--ok", "5 4")
        + plots.level(p99, "--bad", "5 4")
    )
    if recording.refusals:
        drawing += plots.marks([event.time_ns for event in recording.refusals], 0, reach, "--bad")
    plots.add("latency", f"0–{reach:g} ms", 84, drawing, 0.0, reach)


def _budget(summary: Mapping[str, Any]) -> tuple[float, float]:
    return REACTION_BUDGET.get(summary.get("hop_frames") or 2, REACTION_BUDGET[2])


def _delays(recording: Recording) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """For each accepted command: stamp (ns), and the delays (ms) of the newest and of the oldest
    sample that rests in it for the first time.
    """
    commands, latency = recording.trajectories, recording.command_latency
    if commands is None or latency is None or len(commands) < 2:
        return None
    # The measurement is published on reception: it belongs to the command that came just before.
    order = np.argsort(commands.times_ns, kind="stable")
    received_ns = commands.stamps_ns[order] + 0
    expected_ns = latency.times_ns - (latency.values[:, 0] * 1e6).astype(np.int64)
    nearest = np.clip(np.searchsorted(received_ns, expected_ns), 1, len(received_ns) - 1)
    nearest -= expected_ns - received_ns[nearest - 1] < received_ns[nearest] - expected_ns
    stamps_ns = received_ns[nearest]
    close = np.abs(stamps_ns - expected_ns) < 40_000_000
    steps_ns = np.diff(stamps_ns, prepend=stamps_ns[0])
    newest = latency.values[:, 0]
    keep = close & (steps_ns > 0) & (steps_ns < 5_000_000_000)
    if not keep.any():
        return None
    return stamps_ns[keep], newest[keep], newest[keep] + steps_ns[keep] / 1e6


def _latency(recording: Recording, summary: Mapping[str, Any]) -> str:
    delays = _delays(recording)
    if delays is None:
        return ""
    _, newest, oldest = delays
    median, p99 = _budget(summary)
    reach = float(np.ceil(max(1.25 * p99, np.percentile(oldest, 99.5) * 1.1) / 20.0) * 20.0)
    width = 5.0 * np.ceil(reach / 250.0)
    edges = np.arange(0.0, reach + width, width)
    # Samples are spread evenly between the newest and the oldest of each command.
    share = np.linspace(0.0, 1.0, 21)
    samples = (newest[:, None] + (oldest - newest)[:, None] * share).ravel()
    rows = "".join(
        f"<tr><td>{name}</td>"
        + "".join(f'<td class="number">{_number((summary.get(key) or {}).get(p))}</td>' for p in ("p50", "p95", "p99"))
        + "</tr>"
        for name, key in (
            ("Latency: newest sample a command rests on → received", "latency_ms"),
            ("Reaction: a sample → first command that rests on it, all samples", "reaction_ms"),
        )
    )
    table = (
        '<table><tr><th>ms, measured by the simulated head</th><th class="number">p50</th>'
        f'<th class="number">p95</th><th class="number">p99</th></tr>{rows}</table>'
    )
    return (
        '<h2>Latency</h2><div class="split"><div class="panel histogram">'
        "<h3>How old a sample is when a command rests on it for the first time</h3>"
        f"{_histogram(samples, edges, median, p99)}</div>"
        f'<div class="panel"><h3>Percentiles</h3>{table}<p class="muted"><small>The dashed lines '
        f"are the budget: half of the samples within {median:g} ms, 99 % within {p99:g} ms."
        "</small></p></div></div>"
    )


def _histogram(samples: np.ndarray, edges: np.ndarray, median: float, p99: float) -> str:
    counts, _ = np.histogram(samples, edges)
    shares = counts / max(1, len(samples))
    width, height, base = 560.0, 190.0, 162.0
    x = edges / edges[-1] * width
    tallest = max(1e-9, float(shares.max()))
    bars = "".join(
        f'<rect x="{x[k] + 0.5:.1f}" y="{base - 130 * s / tallest:.1f}" rx="1.5" '
        f'width="{x[1] - 1:.1f}" height="{130 * s / tallest:.1f}"/>'
        for k, s in enumerate(shares)
        if s > 0
    )
    lines = ""
    # The median's words stand left of its line: the two lines may lie close together.
    for value, colour, text, shift, anchor in (
        (median, "--ok", "median", -5, "end"),
        (p99, "--bad", "p99", 5, "start"),
    ):
        at = value / edges[-1] * width
        lines += (
            f'<path d="M{at:.1f} 4V{base}" stroke="var({colour})" stroke-dasharray="5 4"/>'
            f'<text x="{at + shift:.1f}" y="14" text-anchor="{anchor}">{text} ≤ {value:g}</text>'
        )
    step = 20 if edges[-1] <= 260 else 50 if edges[-1] <= 600 else 200
    ticks = "".join(
        f'<text x="{max(10.0, t / edges[-1] * width):.1f}" y="{base + 18}" text-anchor="middle">{t:g}</text>'
        for t in np.arange(0.0, edges[-1], step)
    )
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}"><path d="M0 {base}H{width:g}" '
        f'stroke="var(--line)"/><g fill="var(--self)" opacity="0.8">{bars}</g>{lines}{ticks}'
        f'<text x="{width:g}" y="{base + 18}" text-anchor="end">ms</text></svg>'
    )


def _inputs(recording: Recording) -> str:
    statuses = [s for name, s in recording.diagnostics.items() if "audio" in name]
    facts = {
        party: {
            "messages": voice.messages,
            "recorded": f"{len(voice.samples) / SAMPLE_RATE:.1f} s",
            "missing inside": f"{voice.missing_ns / 1e6:.0f} ms",
            "level, peak": f"{_decibel(float(np.abs(voice.samples).max(initial=0.0)))}",
            "level while sounding": _decibel(_sounding_rms(voice.samples)),
        }
        for party, voice in recording.voices.items()
    }
    if not statuses and not facts:
        return ""
    tables = _side_by_side("in the recording", facts) if facts else ""
    if statuses:
        seen = {s.name.split(":", 1)[-1].strip().removeprefix("audio ") or s.name: s for s in statuses}
        told = {
            name: {"state": _state(s)} | {k: v for k, v in s.values.items() if k[-3:] != "_ns"}
            for name, s in seen.items()
        }
        tables += _side_by_side("told by the nodes", told)
    return f'<h2>Inputs</h2><div class="split">{tables}</div>'


def _side_by_side(title: str, columns: Mapping[str, Mapping[str, object]]) -> str:
    keys = dict.fromkeys(key for values in columns.values() for key in values)
    head = "".join(f'<th class="number">{html.escape(name)}</th>' for name in columns)
    rows = "".join(
        f"<tr><td>{html.escape(key.replace('_', ' '))}</td>"
        + "".join(f'<td class="number">{_tidy(values.get(key))}</td>' for values in columns.values())
        + "</tr>"
        for key in keys
    )
    return f'<div class="panel"><table><tr><th>{title}</th>{head}</tr>{rows}</table></div>'


def _tidy(value: object) -> str:
    """A value as text for the page; long decimals are cut to what can be read."""
    text = "–" if value is None else str(value)
    if re.fullmatch(r"-?\d+\.\d{3,}", text):
        text = f"{float(text):.4g}"
    return html.escape(text)


def _state(status: Status) -> str:
    level = {0: "ok", 1: "warning", 2: "error", 3: "stale"}.get(status.level, str(status.level))
    return level if status.message in ("", level) else f"{level}: {status.message}"


def _decibel(value: float) -> str:
    return f"{20.0 * np.log10(value):.0f} dBFS" if value > 1e-5 else "silent"


def _sounding_rms(samples: np.ndarray) -> float:
    """RMS of the louder half of 20 ms pieces that sound at all."""
    pieces = samples[: len(samples) // 320 * 320].reshape(-1, 320)
    power = np.mean(pieces.astype(np.float64) ** 2, axis=1)
    power = power[power > 1e-7]
    return float(np.sqrt(np.mean(power[power >= np.median(power)]))) if len(power) else 0.0


def _policy(recording: Recording, summary: Mapping[str, Any]) -> str:
    others = {n: s for n, s in sorted(recording.diagnostics.items()) if "audio" not in n}
    panels = [
        f'<div class="panel"><h3>{html.escape(name)}</h3>{_pairs({"state": _state(s), **s.values})}</div>'
        for name, s in others.items()
    ]
    for node, values in sorted(recording.parameters.items()):
        if values and node.rstrip("/").endswith("/head"):
            shown = {key: json.dumps(value, default=str) for key, value in sorted(values.items())}
            title = f"parameters of {html.escape(node)}"
            panels.append(f'<div class="panel"><h3>{title}</h3>{_pairs(shown)}</div>')
    topics = {t: f"{count} × {kind}" for t, (kind, count) in recording.topics.items()}
    whole = {k: v if isinstance(v, str) else json.dumps(v) for k, v in summary.items()}
    folded = "".join(
        f'<details><summary>{title}</summary><div class="panel">{_pairs(values)}</div></details>'
        for title, values in (("All recorded topics", topics), ("summary.json", whole))
    )
    return f'<h2>Policy, parameters and diagnostics</h2><div class="split">{"".join(panels)}</div>{folded}'


def _pairs(values: Mapping[str, object]) -> str:
    rows = "".join(f"<tr><td>{html.escape(str(key))}</td><td>{_tidy(value)}</td></tr>" for key, value in values.items())
    return f"<table>{rows}</table>"


def _closing() -> str:
    return (
        "<footer><p>Voices are drawn at the time of capture, the policy's head pose at the time of "
        "its frame, and the robot's joints when they were there: what lies between the two is the "
        "motion delay, measured by cross-correlation of their velocities. Shaded: a party was "
        "taken to be speaking, as announced. Thin lines: turn boundaries, set back to where the "
        "floor changed.</p></footer>"
    )
