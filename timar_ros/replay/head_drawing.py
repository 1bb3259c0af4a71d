"""Draws a robot's head and face as a picture, from one motion vector.

The head is an ellipsoid with a dark face plate; eyes, lids, brows, nose and mouth are curves on
that ellipsoid, given by two angles (`u` to the head's left, `v` up, rad), turned with the head,
seen in perspective by a camera straight ahead and filled with Pillow on a canvas of twice the size.
What is turned away from the camera is laid on the outline, so shapes close behind the edge.

The picture is seen from the front: the head's left is on the right of the picture.
"""

from functools import partial

import numpy as np
from PIL import Image, ImageDraw
from scipy.spatial import ConvexHull

from timar_ros.channels import ARKIT_BLENDSHAPES, HEAD_CHANNELS, MOTION_DIM
from timar_ros.errors import TimarError

Colour = tuple[int, int, int]

SUPERSAMPLING = 2
HEAD_RADII = np.array([0.96, 1.04, 1.0])  # x forward, y left, z up; the unit of all lengths here
PIVOT = np.array([-0.1, 0.0, -0.8])  # the neck joint, from the head's centre
CAMERA_DISTANCE = 6.5
HEAD_SHARE = 0.33  # head radius as a share of the picture's height

BACKGROUND_TOP: Colour = (44, 60, 76)
BACKGROUND_BOTTOM: Colour = (20, 28, 37)
SHELL_LIGHT: Colour = (253, 251, 246)
SHELL_SHADE: Colour = (124, 136, 152)
SEAM: Colour = (176, 183, 194)
EAR_SIDE: Colour = (146, 157, 171)
EAR_CAP: Colour = (214, 219, 226)
ACCENT: Colour = (63, 184, 214)
BEZEL: Colour = (142, 152, 166)
PLATE: Colour = (25, 35, 46)
PLATE_GLOSS: Colour = (36, 49, 63)
EYE_WHITE: Colour = (240, 250, 252)
EYE_LID: Colour = (84, 108, 128)
EYE_LASH: Colour = (168, 222, 234)
IRIS: Colour = (36, 140, 178)
IRIS_RIM: Colour = (18, 84, 116)
PUPIL: Colour = (8, 20, 28)
BROW: Colour = (196, 236, 243)
NOSE: Colour = (48, 64, 80)
NOSE_TIP: Colour = (78, 100, 120)
LIP: Colour = (255, 142, 120)
LIP_LOWER: Colour = (255, 160, 138)
MOUTH_INSIDE: Colour = (92, 20, 34)
TONGUE: Colour = (232, 98, 108)
TEETH: Colour = (250, 250, 246)
CHEEK: Colour = (232, 112, 108)

EYE_U, EYE_V = 0.375, 0.10
EYE_HALF_WIDTH, EYE_HALF_HEIGHT = 0.205, 0.235
MOUTH_V, MOUTH_HALF_WIDTH = -0.47, 0.27

_CIRCLE = np.linspace(0.0, 2.0 * np.pi, 33)[:-1]
_ARC = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 21))  # -1..1, denser at both ends


class HeadRenderer:
    """Pictures of the head, one per call of `draw`; holds only what does not move."""

    def __init__(self, size: tuple[int, int] = (640, 360)) -> None:
        """Prepares background, body and shading.

        Args:
            size: (width, height) of the pictures, pixels; at least 64 by 64.

        Raises:
            TimarError: for a size too small to draw on.
        """
        width, height = size
        if min(width, height) < 64:
            raise TimarError(
                f"the picture's size was {width}x{height}; the head needs at least 64x64 pixels; choose a larger size"
            )
        self.size = (width, height)
        self._scale = HEAD_SHARE * height * SUPERSAMPLING * CAMERA_DISTANCE
        self._centre = np.array([width / 2, height * 0.50]) * SUPERSAMPLING
        unit = self._scale / CAMERA_DISTANCE
        half = int(min(1.62 * unit, self._centre[0]))
        self._box = (
            int(self._centre[0]) - half,
            0,
            int(self._centre[0]) + half,
            min(height * SUPERSAMPLING, int(self._centre[1] + 1.42 * unit)),
        )
        self._box = tuple(edge - edge % SUPERSAMPLING for edge in self._box)
        self._shell = _shaded_shell(unit)
        still = self._draw_body()
        self._still = still.reduce(SUPERSAMPLING)
        self._still_box = still.crop(self._box)

    def draw(self, motion: np.ndarray) -> np.ndarray:
        """The head under one motion vector.

        Args:
            motion: [55] head roll, pitch, yaw (rad, REP-103), then the ARKit blendshape weights;
                values that are not finite count as 0, weights are cut to [0, 1].

        Returns:
            uint8 [height, width, 3] RGB.
        """
        motion = np.nan_to_num(np.asarray(motion, dtype=np.float64), posinf=0.0, neginf=0.0)
        if motion.shape != (MOTION_DIM,):
            raise TimarError(
                f"a motion vector had the shape {motion.shape}; expected ({MOTION_DIM},); "
                "pass one frame: head roll, pitch, yaw and 52 ARKit weights"
            )
        weights = np.clip(motion[len(HEAD_CHANNELS) :], 0.0, 1.0)
        face = dict(zip(ARKIT_BLENDSHAPES, weights.tolist(), strict=True))
        view = _View(motion[:3], self._scale, self._centre - np.array(self._box[:2]))
        canvas = self._still_box.copy()
        pen = _Pen(canvas, view)
        self._draw_head(pen, face)
        picture = self._still.copy()
        corner = (self._box[0] // SUPERSAMPLING, self._box[1] // SUPERSAMPLING)
        picture.paste(canvas.reduce(SUPERSAMPLING), corner)
        return np.asarray(picture)

    def _draw_body(self) -> Image.Image:
        """Background, shoulders and neck on the large canvas."""
        width, height = (edge * SUPERSAMPLING for edge in self.size)
        ramp = np.linspace(0.0, 1.0, height)[:, None, None]
        rows = np.array(BACKGROUND_TOP) * (1.0 - ramp) + np.array(BACKGROUND_BOTTOM) * ramp
        image = Image.fromarray(np.broadcast_to(rows, (height, width, 3)).astype(np.uint8))
        draw = ImageDraw.Draw(image)
        unit = self._scale / CAMERA_DISTANCE
        x, y = self._centre

        def rectangle(left: float, top: float, right: float, bottom: float) -> list[float]:
            return [x + left * unit, y + top * unit, x + right * unit, y + bottom * unit]

        draw.ellipse(rectangle(-1.75, 1.28, 1.75, 4.2), fill=_mix(SHELL_SHADE, SHELL_LIGHT, 0.35))
        draw.ellipse(rectangle(-1.66, 1.36, 1.58, 4.2), fill=_mix(SHELL_SHADE, SHELL_LIGHT, 0.72))
        draw.ellipse(rectangle(-0.62, 1.20, 0.62, 1.62), fill=_mix(SHELL_SHADE, PLATE, 0.55))
        neck = [-0.36, 0.6, 0.36, 1.45]
        draw.rounded_rectangle(rectangle(*neck), 0.1 * unit, fill=_mix(PLATE, SHELL_SHADE, 0.3))
        for ring in (1.06, 1.2, 1.34):
            draw.line(rectangle(-0.36, ring, 0.36, ring), fill=PLATE, width=max(2, int(unit / 40)))
        return image

    def _draw_head(self, pen: "_Pen", face: dict[str, float]) -> None:
        """Everything that turns, from back to front."""
        attached = [(np.array([0.3, side * 0.985, 0.0]), partial(_draw_ear, pen, side)) for side in (1.0, -1.0)]
        attached.append((np.array([-0.05, 0.0, 1.0]), partial(_draw_antenna, pen)))
        in_front = [pen.view.faces_camera(point) for point, _ in attached]
        for (_, draw_part), front in zip(attached, in_front, strict=True):
            if not front:
                draw_part()
        outline = pen.view.outline()
        pen.fill(outline, _mix(SHELL_SHADE, PLATE, 0.25), grow=0.012)
        pen.paste_through(outline, self._shell)
        _draw_stripe(pen)
        for (_, draw_part), front in zip(attached, in_front, strict=True):
            if front:
                draw_part()
        _draw_plate(pen, face)
        _draw_cheeks(pen, face)
        for side, name in ((1.0, "Left"), (-1.0, "Right")):
            _draw_eye(pen, face, side, name)
            _draw_brow(pen, face, side, name)
        _draw_nose(pen, face)
        _draw_mouth(pen, face)


class _View:
    """Where points of the head appear on the canvas, for one head rotation."""

    def __init__(self, rpy: np.ndarray, scale: float, centre: np.ndarray) -> None:
        self.rotation = _rotation(rpy)
        self.scale = scale
        self._centre = centre
        self.position = PIVOT - self.rotation @ PIVOT
        camera = self.rotation.T @ (np.array([CAMERA_DISTANCE, 0.0, 0.0]) - self.position)
        self._camera = camera / HEAD_RADII  # where the camera is when the head is a unit sphere
        self._horizon = 1.0 / float(self._camera @ self._camera)

    def project(self, points: np.ndarray) -> np.ndarray:
        """[n, 3] in the head's axes -> [n, 2] pixels."""
        world = points @ self.rotation.T + self.position
        factor = self.scale / (CAMERA_DISTANCE - world[:, :1])
        return self._centre + np.hstack([world[:, 1:2], -world[:, 2:3]]) * factor

    def visible(self, points: np.ndarray) -> np.ndarray:
        """[n, 3] on or above the ellipsoid -> the same, hidden ones moved to the outline."""
        unit = points / HEAD_RADII
        along = unit @ self._camera
        hidden = along < 1.0
        if not hidden.any():
            return points
        axis = self._camera * self._horizon
        across = unit - np.outer(along * self._horizon, self._camera)
        length = np.linalg.norm(across, axis=1, keepdims=True)
        rim = axis + across / np.maximum(length, 1e-9) * np.sqrt(1.0 - self._horizon)
        return np.where(hidden[:, None], rim * HEAD_RADII, points)

    def faces_camera(self, point: np.ndarray) -> bool:
        """Whether the head's own curve does not hide a point [3] on its surface."""
        return bool(point / HEAD_RADII @ self._camera > 1.0)

    def outline(self) -> np.ndarray:
        """[72, 3] points of the ellipsoid that lie on its outline, as the camera sees it."""
        axis = self._camera / np.linalg.norm(self._camera)
        first = np.cross(axis, [0.0, 0.0, 1.0])
        first /= np.linalg.norm(first)
        angle = np.linspace(0.0, 2.0 * np.pi, 73)[:-1, None]
        ring = np.cos(angle) * first + np.sin(angle) * np.cross(axis, first)
        unit = self._camera * self._horizon + ring * np.sqrt(1.0 - self._horizon)
        return unit * HEAD_RADII


class _Pen:
    """Fills and strokes shapes given as points of the head."""

    def __init__(self, canvas: Image.Image, view: _View) -> None:
        self.view = view
        self._canvas = canvas
        self._draw = ImageDraw.Draw(canvas)

    def fill(self, points: np.ndarray, colour: Colour, grow: float = 0.0) -> None:
        """Fills a closed shape [n, 3], made larger by the share `grow`."""
        pixels = self.view.project(self.view.visible(points))
        if grow:
            middle = pixels.mean(axis=0)
            pixels = middle + (pixels - middle) * (1.0 + grow)
        self._draw.polygon(pixels.ravel().tolist(), fill=colour)

    def fill_hull(self, points: np.ndarray, colour: Colour) -> None:
        """Fills the convex hull of points [n, 3] as they appear, hidden or not."""
        pixels = self.view.project(points)
        self._draw.polygon(pixels[ConvexHull(pixels).vertices].ravel().tolist(), fill=colour)

    def stroke(self, points: np.ndarray, colour: Colour, width: float) -> None:
        """Draws a line along [n, 3]; the width is in head units."""
        pixels = self.view.project(self.view.visible(points))
        self._draw.line(pixels.ravel().tolist(), fill=colour, width=max(1, self.length(width)), joint="curve")

    def rod(self, first: np.ndarray, last: np.ndarray, colour: Colour, width: float) -> None:
        """Draws a straight line between two points [3], whatever hides it."""
        pixels = self.view.project(np.stack([first, last]))
        self._draw.line(pixels.ravel().tolist(), fill=colour, width=self.length(width))

    def ball(self, point: np.ndarray, radius: float, colour: Colour) -> None:
        """Draws a disc around one point [3], the radius in head units, whatever hides it."""
        (x, y), size = self.view.project(point[None])[0], self.length(radius)
        self._draw.ellipse([x - size, y - size, x + size, y + size], fill=colour)

    def length(self, head_units: float) -> int:
        return round(head_units * self.view.scale / CAMERA_DISTANCE)

    def paste_through(self, points: np.ndarray, texture: Image.Image) -> None:
        """Fills a closed shape [n, 3] with the part of a texture centred on the head."""
        pixels = self.view.project(points)
        low, high = pixels.min(axis=0).astype(int) - 1, pixels.max(axis=0).astype(int) + 2
        mask = Image.new("L", tuple((high - low).tolist()))
        ImageDraw.Draw(mask).polygon((pixels - low).ravel().tolist(), fill=255)
        middle = self.view.project(np.zeros((1, 3)))[0]
        left, top = (low - middle).astype(int) + np.array(texture.size) // 2
        part = texture.crop((left, top, left + mask.width, top + mask.height))
        self._canvas.paste(part, tuple(low.tolist()), mask)


def _rotation(rpy: np.ndarray) -> np.ndarray:
    """Rotation matrix [3, 3] of fixed-axis roll, pitch, yaw (rad)."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy), np.sin(rpy)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def _surface(u: np.ndarray, v: np.ndarray, lift: float = 1.0) -> np.ndarray:
    """Points [n, 3] of the ellipsoid at the angles u (to the left) and v (up), rad."""
    u, v = np.broadcast_arrays(u, v)
    direction = np.stack([np.cos(v) * np.cos(u), np.cos(v) * np.sin(u), np.sin(v)], axis=-1)
    return direction * HEAD_RADII * lift


def _band(upper_u: np.ndarray, upper_v: np.ndarray, lower_u: np.ndarray, lower_v: np.ndarray) -> np.ndarray:
    """The closed shape [2 n, 3] between an upper and a lower edge that run the same way."""
    return _surface(np.r_[upper_u, lower_u[::-1]], np.r_[upper_v, lower_v[::-1]])


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    """The colour that lies `share` of the way from the first to the second."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def _shaded_shell(unit: float) -> Image.Image:
    """A sphere lit from above left, larger than the head, to fill its outline with."""
    half = int(1.35 * unit)
    y, x = np.mgrid[-half:half, -half:half].astype(np.float32) / (1.12 * unit)
    depth = np.sqrt(np.clip(1.0 - x * x - y * y, 0.0, 1.0))
    light = np.clip(-0.42 * x - 0.60 * y + 0.68 * depth, 0.0, 1.0)
    tone = (0.10 + 0.90 * light**0.8)[..., None]
    colours = np.array(SHELL_SHADE) * (1.0 - tone) + np.array(SHELL_LIGHT) * tone
    return Image.fromarray(colours.astype(np.uint8))


def _draw_stripe(pen: _Pen) -> None:
    """A stripe over the crown, so that yaw and pitch show on the bare shell too."""
    along = np.linspace(0.6, 1.6, 17)
    for half, colour in ((0.075, SEAM), (0.055, ACCENT)):
        edge = np.stack([np.cos(along), np.full_like(along, half), np.sin(along)], axis=1)
        other = edge[::-1] * [1.0, -1.0, 1.0]
        pen.fill(np.vstack([edge, other]) * HEAD_RADII, colour)


def _draw_ear(pen: _Pen, side: float) -> None:
    """A round ear piece on the head's left (side 1) or right (side -1)."""
    circle = np.stack([np.cos(_CIRCLE), np.zeros_like(_CIRCLE), np.sin(_CIRCLE)], axis=1)

    def ring(radius: float, out: float) -> np.ndarray:
        return circle * radius + np.array([-0.02, side * out, 0.02])

    bands = [
        (np.vstack([ring(0.36, 0.95), ring(0.34, 1.08)]), EAR_SIDE),
        (np.vstack([ring(0.33, 1.08), ring(0.32, 1.13)]), ACCENT),
        (np.vstack([ring(0.31, 1.13), ring(0.25, 1.21)]), EAR_CAP),
    ]
    cap = pen.view.rotation @ np.array([0.0, side, 0.0])
    to_camera = np.array([CAMERA_DISTANCE, 0.0, 0.0]) - pen.view.position - 1.2 * cap
    for points, colour in bands if cap @ to_camera > 0.0 else bands[::-1]:
        pen.fill_hull(points, colour)
    if cap @ to_camera > 0.0:
        pen.fill_hull(ring(0.25, 1.21), _mix(EAR_CAP, SHELL_LIGHT, 0.6))


def _draw_antenna(pen: _Pen) -> None:
    base, tip = np.array([-0.05, 0.0, 0.97]), np.array([-0.05, 0.0, 1.28])
    circle = np.stack([np.cos(_CIRCLE), np.sin(_CIRCLE), np.zeros_like(_CIRCLE)], axis=1)
    pen.fill_hull(base + circle * 0.12, EAR_SIDE)
    pen.rod(base, tip, EAR_SIDE, 0.05)
    pen.ball(tip, 0.085, ACCENT)
    pen.ball(tip + np.array([0.0, -0.03, 0.03]), 0.03, _mix(ACCENT, SHELL_LIGHT, 0.7))


def _draw_plate(pen: _Pen, face: dict[str, float]) -> None:
    """The dark face plate; its lower edge follows the jaw a little."""
    angle = np.linspace(0.0, 2.0 * np.pi, 65)[:-1]
    across = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** 0.62
    up = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** 0.62
    v = np.where(up > 0.0, 0.66 * up, (0.80 + 0.10 * face["jawOpen"]) * up) - 0.02
    u = 0.86 * across * (1.0 - 0.07 * up)
    pen.fill(_surface(u * 1.05, (v + 0.02) * 1.05 - 0.02), BEZEL)
    pen.fill(_surface(u, v), PLATE)
    lit = np.linspace(-1.0, 1.0, 25)
    gloss_u = np.concatenate([0.80 * lit, 0.80 * lit[::-1]])
    edge = 0.575 * (1.0 - np.abs(lit) ** 5.0) ** 0.5
    gloss_v = np.concatenate([edge, np.minimum(edge, 0.30 - 0.20 * lit)[::-1]])
    pen.fill(_surface(gloss_u, gloss_v), PLATE_GLOSS)


def _draw_cheeks(pen: _Pen, face: dict[str, float]) -> None:
    for side, name in ((1.0, "Left"), (-1.0, "Right")):
        glow = 0.16 + 0.34 * face[f"mouthSmile{name}"] + 0.25 * face[f"cheekSquint{name}"]
        glow = min(0.7, glow + 0.25 * face["cheekPuff"])
        size = 0.115 + 0.05 * face["cheekPuff"] + 0.02 * face[f"mouthSmile{name}"]
        raised = -0.27 + 0.04 * face[f"cheekSquint{name}"]
        for ring, share in ((1.0, 0.45), (0.72, 1.0)):
            u = side * 0.60 + np.cos(_CIRCLE) * size * ring
            v = raised + np.sin(_CIRCLE) * size * ring * 0.66
            pen.fill(_surface(u, v), _mix(PLATE, CHEEK, glow * share))


def _draw_eye(pen: _Pen, face: dict[str, float], side: float, name: str) -> None:
    blink, wide = face[f"eyeBlink{name}"], face[f"eyeWide{name}"]
    squint = max(face[f"eyeSquint{name}"], 0.6 * face[f"cheekSquint{name}"])
    look_up = face[f"eyeLookUp{name}"] - face[f"eyeLookDown{name}"]
    look_out = face[f"eyeLookOut{name}"] - face[f"eyeLookIn{name}"]
    width, height = EYE_HALF_WIDTH, EYE_HALF_HEIGHT * (1.0 + 0.10 * wide)
    ball = height * np.sqrt(1.0 - _ARC**2)
    closed = -0.34 * height + 0.10 * height * (_ARC**2)
    upper = height * (0.74 + 0.28 * wide + 0.16 * look_up - 0.16 * squint) - 0.22 * height * _ARC**2
    lower = -height * (0.92 - 0.42 * squint + 0.05 * wide) - 0.10 * height * squint * _ARC**2
    lid = upper + (closed - upper) * blink
    top = np.clip(lid, -ball, ball)
    bottom = np.clip(lower + (closed - lower) * blink, -ball, ball)
    top = np.maximum(top, bottom)

    def place(s: np.ndarray, t: np.ndarray) -> np.ndarray:
        return _surface(side * EYE_U + s * width, EYE_V + t)

    pen.fill(np.vstack([place(_ARC, ball), place(_ARC[::-1], -ball)]), EYE_LID)
    if (top - bottom).max() > 0.05 * height:
        pen.fill(np.vstack([place(_ARC, top), place(_ARC, bottom)[::-1]]), EYE_WHITE)
        centre_u, centre_v = side * look_out * 0.44 * width, look_up * 0.40 * height - 0.01
        for radius, colour in ((0.140, IRIS_RIM), (0.125, IRIS), (0.070, PUPIL)):
            u = np.clip((centre_u + radius * np.cos(_CIRCLE)) / width, -1.0, 1.0)
            v = centre_v + radius * np.sin(_CIRCLE)
            v = np.clip(v, np.interp(u, _ARC, bottom), np.interp(u, _ARC, top))
            pen.fill(place(u, v), colour)
        glint_u, glint_v = (centre_u - 0.046) / width, centre_v + 0.052
        if glint_v + 0.02 < np.interp(glint_u, _ARC, top):
            ring = 0.034 * np.stack([np.cos(_CIRCLE) / width, np.sin(_CIRCLE)])
            pen.fill(place(glint_u + ring[0], glint_v + ring[1]), EYE_WHITE)
    inside = np.abs(lid) < ball
    if inside.any():  # a widely opened lid is hidden behind the edge of the eye
        pen.stroke(place(_ARC[inside], lid[inside]), EYE_LASH, 0.032)


def _draw_brow(pen: _Pen, face: dict[str, float], side: float, name: str) -> None:
    """A tapered bar above the eye; s runs from its inner end (0) to its outer end (1)."""
    s = np.linspace(0.0, 1.0, 13)
    inner = 0.13 * face["browInnerUp"] - 0.13 * face[f"browDown{name}"]
    outer = 0.12 * face[f"browOuterUp{name}"] - 0.05 * face[f"browDown{name}"]
    middle = 0.5 * (inner + outer) + 0.03 * face[f"browOuterUp{name}"]
    arch = 0.42 + inner * (1 - s) ** 2 + 2 * (middle + 0.02) * s * (1 - s) + (outer - 0.03) * s**2
    u = side * (0.19 - 0.03 * face[f"browDown{name}"] + 0.37 * s)
    half = 0.034 * (1.0 - 0.55 * s) * np.minimum(1.0, 0.45 + 5.0 * s)
    pen.fill(_band(u, arch + half, u, arch - half), BROW)


def _draw_nose(pen: _Pen, face: dict[str, float]) -> None:
    lift = 0.03 * 0.5 * (face["noseSneerLeft"] + face["noseSneerRight"])
    circle = np.stack([np.cos(_CIRCLE), np.sin(_CIRCLE)])
    base = _surface(circle[0] * 0.075, -0.15 + lift + circle[1] * 0.055)
    tip = _surface(circle[0] * 0.05, -0.125 + lift + circle[1] * 0.04, lift=1.13)
    pen.fill_hull(np.vstack([base, tip]), NOSE)
    pen.fill_hull(tip, NOSE_TIP)


def _draw_mouth(pen: _Pen, face: dict[str, float]) -> None:
    """Lips as two bands around the opening; s runs from the right corner (-1) to the left (1)."""
    s = _ARC
    to_left = (1.0 + s) / 2.0

    def sided(name: str) -> np.ndarray:
        return face[f"{name}Right"] * (1.0 - to_left) + face[f"{name}Left"] * to_left

    smile, frown, stretch = sided("mouthSmile"), sided("mouthFrown"), sided("mouthStretch")
    pucker, funnel, jaw = face["mouthPucker"], face["mouthFunnel"], face["jawOpen"]
    opening = max(0.0, jaw - face["mouthClose"])
    narrow = (1.0 - 0.50 * pucker) * (1.0 - 0.34 * funnel) * (1.0 - 0.10 * opening)
    half_width = MOUTH_HALF_WIDTH * narrow * (1.0 + 0.30 * smile + 0.25 * stretch + 0.14 * sided("mouthDimple"))
    u = s * half_width + 0.10 * (face["mouthLeft"] - face["mouthRight"])
    lower_u = u + 0.06 * (face["jawLeft"] - face["jawRight"]) * (1.0 - s**2)
    corner = 0.02 + 0.115 * smile - 0.11 * frown - 0.03 * stretch + 0.02 * sided("mouthDimple")
    line = MOUTH_V - 0.05 * jaw + corner * s**2 - 0.035 * smile * (1.0 - s**2)
    line = line + 0.04 * face["mouthShrugLower"] * (1.0 - s**2)
    arch = (1.0 - s**2) ** 0.6
    upper = line + arch * (
        0.015 * opening + 0.055 * sided("mouthUpperUp") + 0.05 * funnel + 0.03 * face["mouthShrugUpper"]
    )
    lower = line - arch * (0.37 * opening + 0.075 * sided("mouthLowerDown") + 0.07 * funnel)
    lower = np.minimum(lower, upper)
    full = (1.0 + 0.55 * pucker + 0.45 * funnel) * (1.0 - 0.4 * sided("mouthPress"))
    taper = 0.30 + 0.70 * (1.0 - s**2) ** 0.5
    upper_lip = 0.044 * full * taper * (1.0 - 0.75 * face["mouthRollUpper"])
    lower_lip = 0.056 * full * taper * (1.0 - 0.75 * face["mouthRollLower"])
    bow = 1.0 - 0.22 * np.exp(-((s / 0.16) ** 2))  # the dip in the middle of the upper lip
    gap = upper - lower
    if gap.max() > 0.012:
        pen.fill(_band(u, upper, lower_u, lower), MOUTH_INSIDE)
        inner = slice(2, -2)
        teeth = upper - np.minimum(0.06, 0.4 * gap)
        pen.fill(_band(u[inner], upper[inner], u[inner], teeth[inner]), TEETH)
        tongue = lower + np.maximum(0.0, gap - 0.06) * 0.5 * (1.0 - s**2)
        middle = slice(4, -4)
        pen.fill(_band(lower_u[middle], tongue[middle], lower_u[middle], lower[middle]), TONGUE)
    pen.fill(_band(u, upper + upper_lip * bow, u, upper - 0.006), LIP)
    pen.fill(_band(lower_u, lower + 0.006, lower_u, lower - lower_lip), LIP_LOWER)
    if face["tongueOut"] > 0.02:
        half = 0.42 * half_width
        out_v = lower - face["tongueOut"] * 0.17 * (1.0 - s**4)
        pen.fill(_band(s * half, lower, s * half, out_v), TONGUE)
