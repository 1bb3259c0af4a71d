"""The page in the browser: the head, who speaks, latency, the last seconds of head angles, and controls.

`update` is called at most `RATE_HZ` times a second by whoever owns the page. It sends only what changed, and nothing
while nobody looks. Buttons and sliders are queued by viser's threads and answered within `update`, so that all that
is asked of a robot is asked by one thread.
"""

from __future__ import annotations

import contextlib
import html
import io
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np
import viser

from timar_ros.errors import TimarError
from timar_ros.replay.colours import FLOOR_COLOURS, PARTY_COLOURS
from timar_ros.resources import share_path
from timar_ros.view.bag_playback import BagPlayback
from timar_ros.view.robot_scene import RobotScene
from timar_ros.view.shown import NECK, ROWS, SECONDS, Recent, Shown, Source

RATE_HZ = 25.0
PANEL_EVERY = 5  # updates: the panel's text and plot change at 5 Hz

BACKGROUND = ((58, 76, 92), (24, 32, 40))  # above, below
CURVES = {"yaw": "#3fb8d6", "pitch": "#f2a65a", "roll": "#b084de"}
LEAST_RANGE_DEG = 6.0
MUTED_LAMP = "linear-gradient(45deg,#d0563f 42%,#1b242c 42% 58%,#d0563f 58%)"  # struck through


class Page:
    """A viser server with one robot on it.

    Args:
        source: what is shown.
        host, port: where the page is served; a taken port gives way to the next free one.
        urdf: the robot; the head that comes with the package by default.

    Raises:
        TimarError: no such host, or the URDF cannot be shown.
    """

    def __init__(self, source: Source, host: str = "127.0.0.1", port: int = 8080, urdf: Path | None = None) -> None:
        self._source = source
        self._asked: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._updates = 0
        self._said: dict[str, str] = {}
        self._server = _serve(host, port)
        self._host = host
        try:
            self._build(urdf or share_path("urdf", "head.urdf"))
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        host = "127.0.0.1" if self._host in ("0.0.0.0", "::", "") else self._host
        return f"http://{host}:{self._server.get_port()}"

    def close(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._server.stop()

    def update(self) -> None:
        """Show the present; call it at `RATE_HZ`."""
        shown = self._source.shown()
        while True:
            try:
                self._asked.get_nowait()()
            except Empty:
                break
        if not self._server.get_clients():
            return
        with self._server.atomic():
            self.robot.show(shown.joints)
        if self._updates % PANEL_EVERY == 0:
            self._update_panel(shown)
        self._updates += 1

    def notify(self, title: str, body: str) -> None:
        """A note in every browser that looks."""
        for client in self._server.get_clients().values():
            client.add_notification(title, body, auto_close_seconds=8.0)

    # ---- controls ------------------------------------------------------------------------------

    def add_live_controls(self, pause: Callable[[bool], None], intensity: Callable[[float], None]) -> None:
        """A button that pauses the head and a slider for how lively it is.

        Both only ask; what became of it is told through `set_paused` and `set_intensity`.
        """
        gui = self._server.gui
        self._paused = False
        self._pause_button = gui.add_button("Pause the head", order=0.0, color="blue")
        # What the button says when it is pressed is asked for, whatever is known by the time that it is answered.
        self._pause_button.on_click(lambda _: self._asked.put(partial(pause, not self._paused)))
        self._intensity = gui.add_slider("Intensity", 0.0, 1.5, 0.05, 1.0, order=1.0)

        # Also called by our own `set_intensity`, which comes without a client and must not be asked for again.
        @self._intensity.on_update
        def _(event: viser.GuiEvent) -> None:
            if event.client is not None:
                value = float(self._intensity.value)
                self._asked.put(lambda: intensity(value))

    def set_paused(self, paused: bool) -> None:
        if paused == self._paused:
            return
        self._paused = paused
        self._pause_button.label = "Let the head go on" if paused else "Pause the head"
        self._pause_button.color = "orange" if paused else "blue"

    def set_intensity(self, value: float) -> None:
        if abs(self._intensity.value - value) > 1e-6:
            self._intensity.value = value

    def add_bag_controls(self, playback: BagPlayback) -> None:
        """A button that stops and goes on, and a slider for the time."""
        gui = self._server.gui
        self._playback = playback
        self._play_button = gui.add_button("Pause", order=0.0, color="blue")
        self._play_button.on_click(lambda _: self._asked.put(self._toggle_play))
        self._time = gui.add_slider("Time, s", 0.0, round(playback.duration_s, 1), 0.1, 0.0, order=1.0)

        @self._time.on_update
        def _(event: viser.GuiEvent) -> None:
            if event.client is not None:
                value = float(self._time.value)
                self._asked.put(lambda: playback.seek(value))

    def _toggle_play(self) -> None:
        self._playback.play(not self._playback.playing)
        self._play_button.label = "Pause" if self._playback.playing else "Play"

    # ---- what is seen --------------------------------------------------------------------------

    def _build(self, urdf: Path) -> None:
        server = self._server
        server.gui.set_panel_label("timar_ros")
        server.gui.configure_theme(show_logo=False, show_share_button=False, dark_mode=True)
        server.scene.set_up_direction("+z")
        # Shadows are hardly seen on this head, and cost a third of the drawing where no GPU does it.
        server.scene.configure_default_lights(cast_shadow=False)
        share = np.linspace(0.0, 1.0, 256)[:, None, None]
        ramp = np.array(BACKGROUND[0]) * (1.0 - share) + np.array(BACKGROUND[1]) * share
        server.scene.set_background_image(np.broadcast_to(ramp, (256, 2, 3)).astype(np.uint8))
        self.robot = RobotScene(server, urdf)
        low, high = self.robot.bounds
        middle, size = (low + high) / 2.0, float(np.linalg.norm(high - low))
        server.initial_camera.look_at = tuple(middle + np.array([0.0, 0.10, 0.10]) * size)
        server.initial_camera.position = tuple(middle + np.array([1.30, 0.30, 0.14]) * size)
        server.initial_camera.fov = float(np.radians(35.0))
        server.initial_camera.near = 0.01
        self._talk = server.gui.add_html("", order=2.0)
        self._range = LEAST_RANGE_DEG
        times = np.linspace(-SECONDS, 0.0, 2)
        self._plot = server.gui.add_uplot(
            (times, *(np.zeros(2) for _ in NECK)),
            (
                viser.uplot.Series(label="s"),
                *(viser.uplot.Series(label=f"{name}, °", stroke=colour, width=2) for name, colour in CURVES.items()),
            ),
            axes=(viser.uplot.Axis(stroke="#aab6c2"), viser.uplot.Axis(stroke="#aab6c2", size=42)),
            scales={"x": {"time": False, "auto": False, "range": (-SECONDS, 0.0)}, "y": self._scale()},
            aspect=1.7,
            order=3.0,
        )
        self._health = server.gui.add_html("", order=4.0)

    def _scale(self) -> dict:
        return {"auto": False, "range": (-self._range, self._range)}

    def _update_panel(self, shown: Shown) -> None:
        recent = self._source.recent()
        self._say("talk", self._talk, _talk_html(shown, recent))
        self._say("health", self._health, _health_html(shown))
        if len(recent.times_s) > 1:
            largest = float(np.abs(recent.angles).max())
            wanted = max(LEAST_RANGE_DEG, 5.0 * np.ceil(1.15 * largest / 5.0))
            if wanted != self._range:
                self._range = wanted
                self._plot.scales = {**self._plot.scales, "y": self._scale()}
            self._plot.data = (recent.times_s, *recent.angles.T.copy())
        if hasattr(self, "_playback") and self._playback.playing:
            self._time.value = round(min(self._playback.position_s, self._time.max), 1)

    def _say(self, what: str, handle: viser.GuiHtmlHandle, content: str) -> None:
        if self._said.get(what) != content:
            self._said[what] = content
            handle.content = content


def _serve(host: str, port: int) -> viser.ViserServer:
    try:
        socket.getaddrinfo(host, port)
    except (OSError, OverflowError) as error:
        raise TimarError(
            f"the page cannot be served at host {host!r}, port {port} ({error}); expected an address of this machine, "
            "such as 127.0.0.1 (this machine only) or 0.0.0.0 (all networks), and a port from 0 to 65535"
        ) from error
    try:
        # viser greets with a box of its own.
        with contextlib.redirect_stdout(io.StringIO()):
            return viser.ViserServer(host=host, port=port, verbose=False)
    except (OSError, RuntimeError, AssertionError) as error:
        raise TimarError(
            f"the page cannot be served at host {host!r}, port {port} ({error}); expected an address of this machine; "
            "give another host or port"
        ) from error


def _css(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _talk_html(shown: Shown, recent: Recent) -> str:
    """Lamps for both voices and the floor, beside a strip of the last seconds."""
    party = {"self": _css(PARTY_COLOURS["self"]), "partner": _css(PARTY_COLOURS["partner"])}
    floor = {name: _css(colour) for name, colour in FLOOR_COLOURS.items()}
    rows = []
    for row in ROWS:
        value = shown.values.get(row)
        if row == "floor":
            said = f"floor: {value or 'not known'}"
            lamp = floor.get(value or "", "#2b3640")
        else:
            muted = row in shown.muted
            spoken = "speaks" if value else "is silent" if value is not None else "not known"
            said = f"{row} {'is muted' if muted else spoken}"
            lamp = MUTED_LAMP if muted else party[row] if value else "#2b3640"
        bars = []
        for begin, end, spoken in recent.spans.get(row, ()):
            colour = floor.get(spoken, "#3e4c5a") if row == "floor" else party[row]
            if spoken:
                left, width = 10.0 * (begin + SECONDS), max(10.0 * (end - begin), 0.3)
                bars.append(f'<rect x="{left:.1f}" y="0" width="{width:.1f}" height="10" fill="{colour}"/>')
        strip = (
            '<svg viewBox="0 0 100 10" preserveAspectRatio="none" style="width:100%;height:10px;background:#1b242c;'
            f'border-radius:3px;display:block">{"".join(bars)}</svg>'
        )
        rows.append(
            f'<div data-row="{row}" data-value="{html.escape(value or "")}" style="display:grid;'
            'grid-template-columns:16px 9.5em 1fr;align-items:center;gap:4px;margin:3px 0">'
            f'<span style="width:11px;height:11px;border-radius:50%;background:{lamp}"></span>'
            f"<span>{html.escape(said)}</span>{strip}</div>"
        )
    return f'<div id="talk" style="padding:0 12px;font-size:13px;line-height:1.3">{"".join(rows)}</div>'


def _health_html(shown: Shown) -> str:
    lines = shown.lines or ("nothing heard of a head node yet",)
    said = "".join(f"<div>{html.escape(line)}</div>" for line in lines)
    return f'<div id="health" style="padding:0 12px 6px;font-size:12px;line-height:1.45;opacity:0.85">{said}</div>'
