"""Drawings of a conversation over one time axis, as SVG: voices, floor, head, face."""

import html
from collections.abc import Iterable, Sequence

import numpy as np

from timar_ros.channels import HEAD_CHANNELS
from timar_ros.rates import SAMPLE_RATE
from timar_ros.replay.recording import Recording, Span
from timar_ros.replay.render import floor_spans
from timar_ros.stream.frames import PARTNER, SELF

MOST_POINTS = 9_000  # of a curve, and twice as many of a voice's outline
FACE_CURVES = (
    ("jaw", "jawOpen", "", "--self"),
    ("smile", "mouthSmileLeft", "mouthSmileRight", "--partner"),
    ("brows", "browInnerUp", "", "--both"),
    ("blinks", "eyeBlinkLeft", "eyeBlinkRight", "--strong"),
)


class Plots:
    """Rows of drawings over one time axis, in seconds since the conversation began."""

    def __init__(self, start_ns: int, from_s: float, to_s: float) -> None:
        self.start_ns = start_ns
        self.from_s, self.to_s = from_s, to_s
        self.rows: list[str] = []

    def seconds(self, times_ns: np.ndarray | int) -> np.ndarray:
        return (np.asarray(times_ns) - self.start_ns) / 1e9

    def add(self, name: str, note: str, height: int, drawing: str, low: float, high: float) -> None:
        """Adds a row; the drawing's y runs downwards from -high to -low."""
        self.rows.append(
            f'<div class="track"><div class="label">{name}<small>{note}</small></div>'
            f'<svg style="height:{height}px" preserveAspectRatio="none" '
            f'viewBox="{self.from_s:.3f} {-high:.4g} {self.to_s - self.from_s:.3f} '
            f'{high - low:.4g}">{drawing}</svg></div>'
        )

    def level(self, y: float, colour: str = "--line", dashes: str = "") -> str:
        style = f'stroke-dasharray="{dashes}" ' if dashes else ""
        return f'<path d="M{self.from_s:.2f} {-y:.4g}H{self.to_s:.2f}" {style}stroke="var({colour})" fill="none"/>'

    def curve(self, times_ns: np.ndarray, values: np.ndarray, colour: str, width: float = 1.5) -> str:
        stride = max(1, -(-len(values) // MOST_POINTS))
        x, y = self.seconds(times_ns)[::stride], values[::stride]
        points = " ".join(f"{a:.2f} {-b:.3g}" for a, b in zip(x, y, strict=True))
        return (
            f'<polyline points="{points}" fill="none" stroke="var({colour})" '
            f'stroke-width="{width}" stroke-linejoin="round"/>'
        )

    def shade(self, spans: Iterable[Span], low: float, high: float, colour: str, dim: float) -> str:
        boxes = "".join(
            f'<rect x="{self.seconds(s.start_ns):.3f}" y="{-high:g}" height="{high - low:g}" '
            f'width="{(s.end_ns - s.start_ns) / 1e9:.3f}"/>'
            for s in spans
        )
        return f'<g fill="var({colour})" opacity="{dim}">{boxes}</g>'

    def marks(self, times_ns: Sequence[int], low: float, high: float, colour: str) -> str:
        path = "".join(f"M{self.seconds(t):.3f} {-high:g}V{-low:g}" for t in times_ns)
        return f'<path d="{path}" stroke="var({colour})" fill="none" opacity="0.7"/>'


def plots_panel(plots: Plots, keys: Sequence[tuple[str, str]], video_from_s: float) -> str:
    """The drawings with a legend of (colour, name), a time axis, and buttons to move and zoom."""
    legend = "".join(f'<span class="key" style="--c:var({c})">{html.escape(name)}</span>' for c, name in keys)
    buttons = "".join(
        f'<button type="button" data-do="{do}" title="{title}">{sign}</button>'
        for do, sign, title in (
            ("back", "←", "earlier"),
            ("on", "→", "later"),
            ("in", "+", "closer"),
            ("out", "−", "further away"),
            ("all", "all", "the whole conversation"),
        )
    )
    return (
        f'<div class="panel"><div class="bar"><span>{buttons}</span>{legend}'
        "<span>drag to zoom, click to go there in the video</span></div>"
        f'<div class="plots" data-from="{plots.from_s:.3f}" data-to="{plots.to_s:.3f}" '
        f'data-video-from="{video_from_s:.3f}">{"".join(plots.rows)}<div class="axis">'
        f'{_axis_labels(plots)}</div><div class="drag"></div><div class="cursor"><b></b></div>'
        "</div></div>"
    )


def _axis_labels(plots: Plots) -> str:
    step = next(s for s in (1, 2, 5, 10, 30, 60, 300, 1800, 10**9) if plots.to_s / s <= 13)
    span = plots.to_s - plots.from_s
    times = np.arange(0.0, plots.to_s, step)
    return "".join(f'<span style="left:{100 * (t - plots.from_s) / span:.3f}%">{t:g} s</span>' for t in times)


def add_voices(plots: Plots, recording: Recording) -> None:
    boundaries = [turn.stamp_ns for turn in recording.turns]
    for party, name in ((SELF, "self"), (PARTNER, "partner")):
        voice = recording.voices.get(party)
        if voice is None or not len(voice.samples):
            continue
        per_bin = max(SAMPLE_RATE // 50, -(-len(voice.samples) // MOST_POINTS))
        bins = len(voice.samples) // per_bin
        cut = voice.samples[: bins * per_bin].reshape(bins, per_bin)
        times_s = plots.seconds(voice.start_ns) + (np.arange(bins) + 0.5) * per_bin / SAMPLE_RATE
        peak = max(0.05, float(np.abs(voice.samples).max()))
        top, bottom = cut.max(axis=1) / peak, cut.min(axis=1) / peak
        outline = [f"{t:.2f} {-v:.2f}" for t, v in zip(times_s, top, strict=True)]
        outline += [f"{t:.2f} {-v:.2f}" for t, v in zip(times_s[::-1], bottom[::-1], strict=True)]
        spans = recording.speaking.get(party, [])
        talk_s = sum(span.end_ns - span.start_ns for span in spans) / 1e9
        drawing = (
            plots.shade(spans, -1.1, 1.1, f"--{name}", 0.16)
            + plots.level(0.0)
            + f'<polygon points="{" ".join(outline)}" fill="var(--{name})"/>'
            + plots.marks(boundaries, -1.1, 1.1, "--soft")
        )
        note = f"speaks {talk_s:.1f} s" if spans else "16 kHz"
        plots.add(name, note, 74, drawing, -1.1, 1.1)


def add_floor(plots: Plots, recording: Recording) -> None:
    spans = floor_spans(recording)
    if not spans:
        return
    drawing = "".join(
        plots.shade([s for s in spans if s.value == value], 0.0, 1.0, f"--{value}", 1.0)
        for value in ("self", "partner", "both", "nobody")
    )
    cuts = [turn.stamp_ns for turn in recording.turns]
    note = f"{len(cuts)} turns" if cuts else "as announced"
    plots.add("floor", note, 26, drawing + plots.marks(cuts, 0.0, 1.0, "--card"), -0.15, 1.15)


def add_head(plots: Plots, recording: Recording) -> None:
    """A row for each of yaw, pitch and roll, and one for each joint that is named otherwise."""
    pose, joints = recording.head_pose, recording.joint_states
    angles = np.degrees(recording.head_rpy()) if pose else None
    names = dict.fromkeys(joints.names if joints else ())
    for axis in (2, 1, 0):
        name = HEAD_CHANNELS[axis].removeprefix("head").lower()
        own = [joint for joint in names if name in joint.lower()]
        curves = []
        if angles is not None:
            curves.append((pose.stamps_ns, angles[:, axis], "--soft", 1.2))
        if own:
            degrees = np.degrees(joints.column(own[0]))
            curves.append((joints.stamps_ns, degrees, "--strong", 1.5))
            del names[own[0]]
        _add_curves(plots, name, "°", curves)
    for joint in names:
        degrees = np.degrees(joints.column(joint))
        curves = [(joints.stamps_ns, degrees, "--strong", 1.5)]
        _add_curves(plots, html.escape(joint), "°", curves)


def _add_curves(plots: Plots, name: str, unit: str, curves: list[tuple[np.ndarray, np.ndarray, str, float]]) -> None:
    if not curves:
        return
    reach = max(float(np.nanmax(np.abs(values))) for _, values, _, _ in curves)
    reach = max(5.0, 5.0 * np.ceil(reach * 1.05 / 5.0))
    drawing = plots.level(0.0) + "".join(plots.curve(*curve) for curve in curves)
    plots.add(name, f"±{reach:g} {unit}", 72, drawing, -reach, reach)


def add_face(plots: Plots, recording: Recording) -> None:
    faces = recording.blendshapes
    if faces is None:
        return
    for label, first, second, colour in FACE_CURVES:
        columns = [c for c in (faces.column(first), faces.column(second)) if c is not None]
        if not columns:
            continue
        values = np.mean(columns, axis=0)
        reach = float(np.clip(np.ceil(values.max() * 10.5) / 10.0, 0.2, 1.0))
        drawing = plots.level(0.0) + plots.curve(faces.stamps_ns, values, colour)
        name = first.removesuffix("Left")
        plots.add(label, f"{name} 0–{reach:g}", 48, drawing, -0.06 * reach, 1.04 * reach)
