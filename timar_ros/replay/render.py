"""Makes a video of a recorded conversation: the head, both voices, and who has the floor.

The video shows what a person in the room saw and heard: a face at the time its message came out,
the partner's voice when it was captured, and the own voice as late as its face, as the speaker node
plays it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from timar_ros.channels import HEAD_CHANNELS, MOTION_DIM
from timar_ros.errors import TimarError
from timar_ros.rates import FRAME_NS, FRAME_RATE, SAMPLE_RATE
from timar_ros.replay.colours import FLOOR_COLOURS, PARTY_COLOURS
from timar_ros.replay.head_drawing import HeadRenderer
from timar_ros.replay.recording import Recording, Span, Voice
from timar_ros.stream.frames import PARTNER, SELF

__all__ = ["HeadRenderer", "floor_spans", "motion_shown", "render_side_by_side", "render_video", "video_span_ns"]

VIDEO_SIZE = (640, 480)
STRIP_HEIGHT = 112
AUDIO_RATE = 48_000
QUALITY = "24"  # x264's constant rate factor

_STRIP: tuple[int, int, int] = (15, 21, 28)
_TEXT: tuple[int, int, int] = (206, 216, 226)
_FAINT: tuple[int, int, int] = (110, 124, 138)
_GUTTER = 76  # pixels left of the waveforms, for names
_PIXELS_PER_S = 80
_NOW_SHARE = 0.6  # where in the strip the present instant is
_TILE_S = 60


def render_video(recording: Recording, path: str | Path, size: tuple[int, int] = VIDEO_SIZE) -> Path:
    """Writes an mp4 (H.264, AAC; own voice left, partner right) at 25 frames a second.

    Args:
        recording: what to show; needs blendshapes or head poses, voices may be missing.
        path: the file to write.
        size: (width, height) in pixels, both even, the strip below included.

    Raises:
        TimarError: nothing to show, a size that cannot be drawn, or no encoder.
    """
    width, height = size
    if width % 2 or height % 2 or height < 64 + STRIP_HEIGHT:
        raise TimarError(
            f"the video's size was {width}x{height}; expected even numbers, at least "
            f"{64 + STRIP_HEIGHT} pixels high; choose another size"
        )
    start_ns, end_ns = video_span_ns(recording)
    count = max(1, int((end_ns - start_ns) // FRAME_NS))
    times_ns = start_ns + FRAME_NS * np.arange(count, dtype=np.int64)
    motion = motion_shown(recording, times_ns)
    pictures = _pictures(recording, motion, times_ns, size)
    return _write_video(Path(path), pictures, size, _sound(recording, start_ns, start_ns + count * FRAME_NS))


def render_side_by_side(
    recording: Recording,
    motions: Mapping[str, np.ndarray],
    path: str | Path,
    start_ns: int,
    seconds: float,
    head_size: tuple[int, int] = (300, 260),
    columns: int = 4,
) -> Path:
    """Writes an mp4 of several motions of one conversation beside each other, with its sound.

    Args:
        recording: the voices and turns; its first instant is the first frame's.
        motions: name -> float64 [frames, 55] from `recording.start_ns` on.
        start_ns, seconds: the part to show.
        head_size: (width, height) in pixels of one head, both even.
        columns: heads in a row, at most.

    Raises:
        TimarError: no encoder.
    """
    rows = -(-len(motions) // columns)
    columns = -(-len(motions) // rows)
    width, height = head_size
    size = (max(width * columns, 480), height * rows + STRIP_HEIGHT)
    first = int((start_ns - recording.start_ns) // FRAME_NS)
    count = min(round(seconds * FRAME_RATE), max(len(motion) for motion in motions.values()) - first)
    end_ns = start_ns + count * FRAME_NS
    pictures = _pictures_side_by_side(recording, motions, range(first, first + count), columns, head_size, size)
    return _write_video(Path(path), pictures, size, _sound(recording, start_ns, end_ns))


def _pictures_side_by_side(
    recording: Recording,
    motions: Mapping[str, np.ndarray],
    frames: range,
    columns: int,
    head_size: tuple[int, int],
    size: tuple[int, int],
) -> Iterator[np.ndarray]:
    width, height = head_size
    head, strip = HeadRenderer(head_size), _Strip(recording, size[0])
    labels = {name: _label(name, width) for name in motions}
    left = (size[0] - width * columns) // 2
    picture = np.empty((size[1], size[0], 3), np.uint8)
    picture[:] = _STRIP
    for index in frames:
        for place, (name, motion) in enumerate(motions.items()):
            row, column = divmod(place, columns)
            part = picture[row * height : (row + 1) * height, left + column * width : left + (column + 1) * width]
            part[:] = head.draw(motion[min(index, len(motion) - 1)])
            part[: labels[name].shape[0]] = labels[name]
        picture[size[1] - STRIP_HEIGHT :] = strip.draw(recording.start_ns + index * FRAME_NS)
        yield picture


def _label(name: str, width: int) -> np.ndarray:
    image = Image.new("RGB", (width, 22), _STRIP)
    ImageDraw.Draw(image).text((width // 2, 11), name, fill=_TEXT, font=ImageFont.load_default(13), anchor="mm")
    return np.asarray(image)


def _write_video(path: Path, pictures: Iterator[np.ndarray], size: tuple[int, int], sound: np.ndarray) -> Path:
    try:
        with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
            _encode(container, pictures, size, sound)
    except (av.FFmpegError, ValueError) as error:
        raise TimarError(
            f"the video {path} could not be encoded ({error}); expected PyAV with H.264 and AAC "
            "and a folder that can be written to; reinstall 'av' or choose another folder"
        ) from error
    return path


def video_span_ns(recording: Recording) -> tuple[int, int]:
    """ROS times of the video's first instant and of its end.

    It starts on the grid of times at which faces are due, so that its frames are those of the head.
    """
    delay_ns = recording.playout_ns() or 0
    start_ns = recording.start_ns + delay_ns % FRAME_NS
    voices = [voice.end_ns for voice in recording.voices.values()]
    return start_ns, max([recording.end_ns, *voices]) + delay_ns


def motion_shown(recording: Recording, times_ns: np.ndarray) -> np.ndarray:
    """What the head showed at given ROS times.

    Args:
        times_ns: int64 [n].

    Returns:
        float64 [n, 55] motion vectors; the face or the head is at rest where it was not recorded.

    Raises:
        TimarError: the recording has neither blendshapes nor head poses.
    """
    if recording.blendshapes is None and recording.head_pose is None:
        raise TimarError(
            f"the recording {recording.path} holds neither blendshapes nor head poses; expected "
            "the topics of a running head node; record ~/blendshapes and ~/head_pose"
        )
    motion = np.zeros((len(times_ns), MOTION_DIM))
    head = len(HEAD_CHANNELS)
    parts = []
    if recording.head_pose is not None:
        angles = np.unwrap(recording.head_rpy(), axis=0)
        parts.append((slice(0, head), recording.head_pose.times_ns, angles))
    if recording.blendshapes is not None:
        faces = recording.blendshapes
        parts.append((slice(head, MOTION_DIM), faces.times_ns, faces.values))
    at_s = (times_ns - recording.begin_ns) / 1e9
    for channels, arrived_ns, values in parts:
        arrived_s = np.maximum.accumulate((arrived_ns - recording.begin_ns) / 1e9)
        motion[:, channels] = np.stack([np.interp(at_s, arrived_s, c) for c in values.T], axis=1)
    return motion


def floor_spans(recording: Recording) -> list[Span]:
    """Who had the floor, from the turns (set back to where it changed), else as announced."""
    turns = recording.turns
    if not turns:
        return recording.floor
    ends = [turn.stamp_ns for turn in turns[1:]] + [max(recording.end_ns, turns[-1].stamp_ns)]
    spans = [Span(turn.stamp_ns, end, turn.floor) for turn, end in zip(turns, ends, strict=True)]
    if turns[0].stamp_ns > recording.start_ns:
        first = recording.floor[0].value if recording.floor else "nobody"
        spans.insert(0, Span(recording.start_ns, turns[0].stamp_ns, first))
    return spans


def _pictures(
    recording: Recording, motion: np.ndarray, times_ns: np.ndarray, size: tuple[int, int]
) -> Iterator[np.ndarray]:
    """uint8 [height, width, 3] for each time: the head above the strip."""
    width, height = size
    head = HeadRenderer((width, height - STRIP_HEIGHT))
    strip = _Strip(recording, width)
    frame = np.empty((height, width, 3), np.uint8)
    for vector, time_ns in zip(motion, times_ns, strict=True):
        frame[: height - STRIP_HEIGHT] = head.draw(vector)
        frame[height - STRIP_HEIGHT :] = strip.draw(int(time_ns))
        yield frame


def _sound(recording: Recording, start_ns: int, end_ns: int) -> np.ndarray:
    """float32 [2, n] at 16 kHz: own voice as late as its face, partner's voice as captured."""
    silence = Voice(start_ns, np.zeros(0, np.float32), 0, 0)
    delay_ns = recording.playout_ns() or 0
    own = recording.voices.get(SELF, silence).between(start_ns - delay_ns, end_ns - delay_ns)
    partner = recording.voices.get(PARTNER, silence).between(start_ns, end_ns)
    return np.stack([own, partner])


def _encode(
    container: av.container.OutputContainer,
    pictures: Iterator[np.ndarray],
    size: tuple[int, int],
    sound: np.ndarray,
) -> None:
    video = container.add_stream("libx264", rate=FRAME_RATE)
    video.width, video.height = size
    video.pix_fmt = "yuv420p"
    video.options = {"crf": QUALITY, "preset": "veryfast", "tune": "animation"}
    audio = container.add_stream("aac", rate=AUDIO_RATE, layout="stereo")
    audio.bit_rate = 96_000
    resampler = av.AudioResampler("fltp", "stereo", AUDIO_RATE)
    block = SAMPLE_RATE // FRAME_RATE
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = number
        container.mux(video.encode(frame))
        samples = np.ascontiguousarray(sound[:, number * block : (number + 1) * block])
        if samples.shape[1]:
            piece = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
            piece.sample_rate, piece.pts = SAMPLE_RATE, number * block
            for resampled in resampler.resample(piece):
                container.mux(audio.encode(resampled))
    for resampled in resampler.resample(None):
        container.mux(audio.encode(resampled))
    container.mux(video.encode(None))
    container.mux(audio.encode(None))


class _Strip:
    """The scrolling strip: both voices as they are heard, the floor, and the present instant."""

    def __init__(self, recording: Recording, width: int) -> None:
        self._recording = recording
        self._width = width
        self._window = width - _GUTTER
        self._start_ns = recording.start_ns
        self._delay_ns = {SELF: recording.playout_ns() or 0, PARTNER: 0}
        self._floor = floor_spans(recording)
        self._tile_number = -1
        self._tile = np.zeros((0, 0, 3), np.uint8)
        self._small = ImageFont.load_default(13)
        self._gutters: dict[tuple[bool, bool], np.ndarray] = {}
        loudest = [np.abs(v.samples).max(initial=0.0) for v in recording.voices.values()]
        self._gain = 1.0 / max(0.05, *map(float, loudest)) if loudest else 1.0

    def draw(self, time_ns: int) -> np.ndarray:
        """uint8 [STRIP_HEIGHT, width, 3] at one ROS time."""
        now_s = (time_ns - self._start_ns) / 1e9
        number = int(max(0.0, now_s) // _TILE_S)
        if number != self._tile_number:
            self._tile_number, self._tile = number, self._draw_tile(number)
        left = round((now_s - number * _TILE_S) * _PIXELS_PER_S + self._window * (1.0 - _NOW_SHARE))
        left = min(max(0, left), self._tile.shape[1] - self._window)
        speaking = tuple(
            any(s.start_ns <= time_ns < s.end_ns for s in self._recording.speaking.get(party, []))
            for party in (SELF, PARTNER)
        )
        if speaking not in self._gutters:
            self._gutters[speaking] = self._draw_gutter(speaking)
        out = np.concatenate([self._gutters[speaking], self._tile[:, left : left + self._window]], axis=1)
        now = _GUTTER + round(self._window * _NOW_SHARE)
        out[4 : STRIP_HEIGHT - 4, now : now + 2] = 255
        return out

    def _draw_gutter(self, speaking: tuple[bool, ...]) -> np.ndarray:
        image = Image.new("RGB", (_GUTTER, STRIP_HEIGHT), _STRIP)
        draw = ImageDraw.Draw(image)
        for party, row, lit in zip((SELF, PARTNER), (26, 66), speaking, strict=True):
            colour = PARTY_COLOURS[party]
            shown = colour if lit else tuple(c // 4 + 14 for c in colour)
            draw.ellipse([10, row - 5, 20, row + 5], fill=shown)
            draw.text((26, row), party, fill=_TEXT if lit else _FAINT, font=self._small, anchor="lm")
        draw.text((26, 98), "floor", fill=_FAINT, font=self._small, anchor="lm")
        return np.asarray(image)

    def _draw_tile(self, number: int) -> np.ndarray:
        """One minute of the strip and a window on either side of it."""
        # What is left of the tile's minute fills the window when the minute begins.
        lead_s = self._window / _PIXELS_PER_S
        from_s, to_s = number * _TILE_S - lead_s, (number + 1) * _TILE_S + lead_s
        scale = 2
        width = round((to_s - from_s) * _PIXELS_PER_S)
        image = Image.new("RGB", (width * scale, STRIP_HEIGHT * scale), _STRIP)
        draw = ImageDraw.Draw(image)
        from_ns = self._start_ns + round(from_s * 1e9)
        for party, row in ((SELF, 26), (PARTNER, 66)):
            draw.line([0, row * scale, width * scale, row * scale], fill=(38, 50, 62), width=scale)
            voice = self._recording.voices.get(party)
            if voice is None:
                continue
            begin_ns = from_ns - self._delay_ns[party]
            samples = voice.between(begin_ns, begin_ns + round((to_s - from_s) * 1e9))
            bins = width * scale // 4  # a bar of three pixels and a gap of one
            per_bin = max(1, len(samples) // bins)
            levels = np.abs(samples[: bins * per_bin]).reshape(bins, per_bin).max(axis=1)
            halves = np.clip(np.sqrt(levels * self._gain), 0.0, 1.0) * 17 * scale
            for k in np.flatnonzero(halves > 2.0):
                x, half = int(k) * 4, float(halves[k])
                draw.rectangle([x, row * scale - half, x + 2, row * scale + half], fill=PARTY_COLOURS[party])
        for span in self._floor:
            left, right = (((t - from_ns) / 1e9 * _PIXELS_PER_S) * scale for t in (span.start_ns, span.end_ns))
            if right > 0 and left < width * scale and right - left > scale:
                colour = FLOOR_COLOURS.get(span.value, FLOOR_COLOURS["nobody"])
                box = [left, 93 * scale, right - scale, 103 * scale]
                draw.rounded_rectangle(box, 2 * scale, fill=colour)
        return np.asarray(image.reduce(scale))
