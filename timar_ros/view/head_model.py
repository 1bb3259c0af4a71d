"""Makes `urdf/head.urdf` and its meshes: a friendly robot's head with a neck and a face of joints.

    python -m timar_ros.view.head_model [FOLDER]

Everything is built from the numbers below, so that a change of the head is a change of this file; a test compares
what it makes with what lies in `urdf/`. REP-103: x forward, y left, z up; m and rad. The meshes are Wavefront OBJ with
one colour table, since RViz, yourdfpy and most others read both; the URDF holds no colours of its own, because some
versions of RViz would let them win over the meshes'.

The visor is rigid, and so are all parts: a mouth that opens is a shallow dome of mouth, teeth and tongue that comes up
through the visor between the lips, and a cheek that blushes is one too. Each half of a lip is a bar at the middle and
one at the corner of the mouth that slide over each other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from timar_ros.resources import share_path

Vector = tuple[float, float, float]

COLOURS: dict[str, Vector] = {
    "shell": (0.95, 0.945, 0.92),
    "seam": (0.60, 0.64, 0.69),
    "graphite": (0.16, 0.18, 0.21),
    "visor": (0.055, 0.085, 0.115),
    "accent": (0.16, 0.66, 0.82),
    "white": (0.97, 0.985, 1.0),
    "iris_rim": (0.05, 0.27, 0.38),
    "iris": (0.11, 0.56, 0.72),
    "pupil": (0.02, 0.05, 0.07),
    "lid": (0.27, 0.37, 0.45),
    "lash": (0.66, 0.87, 0.92),
    "lip": (1.0, 0.50, 0.42),
    "mouth": (0.30, 0.05, 0.10),
    "tongue": (0.90, 0.34, 0.38),
    "blush": (0.50, 0.20, 0.24),
}

# The skull: |x/a|^p + |y/b|^p + |z/c|^p = 1 around CENTRE in the link `head`, open where the visor is.
CENTRE = np.array([-0.006, 0.0, 0.122])
SKULL_RADII = np.array([0.092, 0.110, 0.100])
SKULL_POWER = 2.5
VISOR_RADII = SKULL_RADII * 0.955
OPENING = (0.0875, 0.067, 0.079)  # from the middle to the side, up, down
OPENING_POWER = 3.2
RIM = 0.0055

EYE_Y, EYE_Z, EYE_RADIUS, EYE_DEPTH = 0.0385, 0.0050, 0.0250, 0.0095
LID_RADIUS = EYE_RADIUS + 0.0012
LID_UPPER_OPEN, LID_LOWER_OPEN = np.radians(50.0), np.radians(-60.0)  # elevation of the edges, as seen from the eye
BROW_Y, BROW_Z = 0.0395, 0.0410
MOUTH_Z, CORNER_Y, BAR_HALF = -0.0410, 0.0300, 0.0125
LIP_UPPER_Z, LIP_LOWER_Z = 0.0027, -0.0030
LIP_UPPER_RADIUS, LIP_LOWER_RADIUS, CORNER_RADIUS = 0.0034, 0.0040, 0.0034
LIP_UPPER_SEGMENT, LIP_LOWER_SEGMENT = 0.0205, 0.0255
JAW_ARM = 0.095  # from the jaw's hinge to the lower lip
MOUTH_DEPTH, MOUTH_TRAVEL = 0.0090, (0.0080, 0.0085)  # under the visor; out of it and down
CHEEK_Y, CHEEK_Z = 0.0600, -0.0290


# ---- shapes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """Triangles of one colour: vertices and unit normals float [n, 3], faces int [m, 3]."""

    colour: str
    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray


def sheet(colour: str, points: np.ndarray, around: Vector | np.ndarray | None = None) -> Piece:
    """A smooth surface through a grid of points [rows, columns, 3], facing away from `around` (default: its middle)."""
    rows, columns = points.shape[:2]
    # Points that coincide, at poles and seams, are one: the surface is smooth there.
    vertices, index = np.unique(points.reshape(-1, 3).round(6), axis=0, return_inverse=True)
    index = index.reshape(rows, columns)
    corners = np.stack([index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]], axis=-1).reshape(-1, 4)
    faces = np.concatenate([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]])
    distinct = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    faces = faces[distinct]
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    crosses = np.cross(b - a, c - a)
    middle = vertices.mean(axis=0) if around is None else np.asarray(around)
    if np.sum(crosses * ((a + b + c) / 3.0 - middle)) < 0.0:
        faces, crosses = faces[:, ::-1], -crosses
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], crosses)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return Piece(colour, vertices, normals, faces)


def lathe(colour: str, profile: Sequence[tuple[float, float]], axis: str = "z", columns: int = 36) -> Piece:
    """A profile of (radius, height) turned about an axis."""
    radius, height = np.array(profile).T
    angle = np.linspace(0.0, 2.0 * np.pi, columns + 1)
    across = np.stack([np.outer(radius, np.cos(angle)), np.outer(radius, np.sin(angle))])
    along = np.broadcast_to(height[:, None], across.shape[1:])
    order = {"x": (along, across[0], across[1]), "y": (across[1], along, across[0]), "z": (*across, along)}[axis]
    points = np.stack(order, axis=-1)
    return sheet(colour, points, around=points.mean(axis=(0, 1)))


def rounded(radius: float, low: float, high: float, edge: float) -> list[tuple[float, float]]:
    """Profile of a disc from `low` to `high` with rounded edges, from axis to axis."""
    turn = np.linspace(0.0, np.pi / 2.0, 5)
    rim = radius - edge
    lower = [(rim + edge * np.sin(a), low + edge - edge * np.cos(a)) for a in turn]
    upper = [(rim + edge * np.cos(a), high - edge + edge * np.sin(a)) for a in turn]
    return [(0.0, low), *lower, *upper, (0.0, high)]


def ellipsoid(colour: str, centre: Vector, radii: Vector, rows: int = 16, columns: int = 28) -> Piece:
    polar = np.linspace(0.0, np.pi, rows)[:, None]
    turn = np.linspace(0.0, 2.0 * np.pi, columns + 1)[None]
    unit = np.stack(
        [np.cos(polar) + 0.0 * turn, np.sin(polar) * np.cos(turn), np.sin(polar) * np.sin(turn)],
        axis=-1,
    )
    return sheet(colour, unit * np.array(radii) + np.array(centre), around=centre)


def tube(colour: str, path: np.ndarray, radii: np.ndarray, flat: float = 1.0, columns: int = 14) -> Piece:
    """A rod with round ends along a path [n, 3] in a plane of constant x; `flat` scales its thickness along x."""
    path, radii = np.asarray(path, float), np.asarray(radii, float)
    tangents = np.gradient(path, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    turn = np.linspace(0.0, np.pi / 2.0, 6)[:-1]
    start = [(path[0] - tangents[0] * radii[0] * np.cos(a), tangents[0], radii[0] * np.sin(a)) for a in turn]
    end = [(path[-1] + tangents[-1] * radii[-1] * np.cos(a), tangents[-1], radii[-1] * np.sin(a)) for a in turn[::-1]]
    stations = [*start, *zip(path, tangents, radii, strict=True), *end]
    angle = np.linspace(0.0, 2.0 * np.pi, columns + 1)
    rings = []
    for point, tangent, radius in stations:
        side = np.cross([1.0, 0.0, 0.0], tangent)
        rings.append(
            point
            + radius * flat * np.cos(angle)[:, None] * np.array([1.0, 0.0, 0.0])
            + radius * np.sin(angle)[:, None] * side
        )
    piece = sheet(colour, np.array(rings))
    return piece


def on_surface(radii: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Points [..., 3] of the front of the skull's kind of surface around 0, at y and z."""
    left = 1.0 - np.abs(y / radii[1]) ** SKULL_POWER - np.abs(z / radii[2]) ** SKULL_POWER
    return np.stack([radii[0] * np.maximum(left, 0.0) ** (1.0 / SKULL_POWER), y, z], axis=-1)


def in_direction(radii: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Points [..., 3] of that surface in directions [..., 3] from its middle."""
    size = (np.abs(direction / radii) ** SKULL_POWER).sum(axis=-1, keepdims=True) ** (1.0 / SKULL_POWER)
    return direction / size


def opening(scale: float = 1.0, columns: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """y and z [columns + 1] of the visor's outline."""
    angle = np.linspace(0.0, 2.0 * np.pi, columns + 1)
    power = 2.0 / OPENING_POWER
    y = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** power * OPENING[0]
    up = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power
    return scale * y, scale * np.where(up > 0.0, up * OPENING[1], up * OPENING[2])


def visor_x(y: float, z: float) -> float:
    """How far in front of CENTRE the visor is."""
    return float(on_surface(VISOR_RADII, np.array(y), np.array(z))[0])


def visor_normal(y: float, z: float) -> np.ndarray:
    """Unit vector [3] out of the visor."""
    place = np.array([visor_x(y, z), y, z])
    normal = np.sign(place) * np.abs(place) ** (SKULL_POWER - 1.0) / VISOR_RADII**SKULL_POWER
    return normal / np.linalg.norm(normal)


# ---- parts, each in the frame of its link ------------------------------------------------------


def skull() -> list[Piece]:
    y, z = opening()
    edge = on_surface(SKULL_RADII, y, z)
    towards = edge / np.linalg.norm(edge, axis=1, keepdims=True)
    back = np.array([-1.0, 0.0, 0.0])
    angle = np.arccos(towards @ back)
    rows = []
    for share in np.linspace(0.0, 1.0, 18):
        direction = np.outer(np.sin((1.0 - share) * angle), back) + np.sin(share * angle)[:, None] * towards
        rows.append(in_direction(SKULL_RADII, direction))
    outward = np.sign(edge) * np.abs(edge / SKULL_RADII) ** (SKULL_POWER - 1.0) / SKULL_RADII
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    inward = -edge * [0.0, 1.0, 1.0]
    inward -= outward * (inward * outward).sum(axis=1, keepdims=True)
    inward /= np.linalg.norm(inward, axis=1, keepdims=True)
    for turn in np.linspace(0.0, np.pi, 9)[1:]:
        rows.append(edge + RIM * (np.sin(turn) * inward + (np.cos(turn) - 1.0) * outward))
    pieces = [sheet("shell", np.array(rows) + CENTRE, around=CENTRE)]
    share = np.linspace(0.0, 1.02, 14)[:, None]
    pieces.append(sheet("visor", on_surface(VISOR_RADII, share * y, share * z) + CENTRE, around=CENTRE))
    # A stripe over the crown: yaw and pitch show on the bare shell, too.
    along = np.radians(np.linspace(47.0, 150.0, 26))[:, None]
    across = np.linspace(-1.0, 1.0, 7)[None]
    for half, lift, colour in ((0.0095, 1.006, "seam"), (0.0070, 1.012, "accent")):
        direction = np.stack(np.broadcast_arrays(np.cos(along), across * half / 0.1, np.sin(along)), axis=-1)
        thin = lift - 0.012 * np.abs(across) ** 6  # its edges go into the shell
        stripe = in_direction(SKULL_RADII, direction) * thin[..., None]
        pieces.append(sheet(colour, stripe + CENTRE, around=CENTRE))
    for side in (1.0, -1.0):
        for profile, colour in (
            (rounded(0.036, 0.098, 0.113, 0.004), "seam"),
            (rounded(0.0335, 0.108, 0.1175, 0.002), "accent"),
            (rounded(0.030, 0.112, 0.1235, 0.005), "shell"),
        ):
            ear = lathe(colour, [(radius, side * out) for radius, out in profile], axis="y")
            pieces.append(moved(ear, CENTRE + [-0.004, 0.0, 0.004]))
    base = CENTRE + [-0.012, 0.0, 0.098]
    pieces.append(moved(lathe("seam", rounded(0.013, -0.004, 0.006, 0.003)), base))
    pieces.append(moved(lathe("seam", rounded(0.0026, 0.0, 0.034, 0.001), columns=16), base))
    pieces.append(ellipsoid("accent", tuple(base + [0.0, 0.0, 0.038]), (0.0085, 0.0085, 0.0085)))
    nose_z = -0.0190
    nose = (visor_x(0.0, nose_z) + CENTRE[0], 0.0, nose_z + CENTRE[2])
    pieces.append(ellipsoid("lid", nose, (0.0065, 0.0080, 0.0058)))
    pieces.append(lathe("graphite", [(0.0, 0.0), (0.030, 0.0), (0.036, 0.012), (0.046, 0.034), (0.0, 0.034)]))
    return pieces


def moved(piece: Piece, by: Vector | np.ndarray) -> Piece:
    return Piece(piece.colour, piece.vertices + np.asarray(by), piece.normals, piece.faces)


def cap(colour: str, radius: float, low: float, high: float, rows: int, centre: Vector = (0.0, 0.0, 0.0)) -> Piece:
    """A zone of a sphere around the x axis, from `low` to `high` degrees off the axis."""
    polar = np.radians(np.linspace(low, high, rows))[:, None]
    turn = np.linspace(0.0, 2.0 * np.pi, 33)[None]
    unit = np.stack([np.cos(polar) + 0.0 * turn, np.sin(polar) * np.cos(turn), np.sin(polar) * np.sin(turn)], axis=-1)
    return sheet(colour, radius * unit + np.array(centre), around=centre)


def eye() -> list[Piece]:
    zones = [("pupil", 0.0, 17.5, 5), ("iris", 17.5, 31.0, 4), ("iris_rim", 31.0, 35.0, 2), ("white", 35.0, 120.0, 12)]
    pieces = [cap(colour, EYE_RADIUS, low, high, rows) for colour, low, high, rows in zones]
    for up, left, size in ((13.0, -11.0, 8.0), (-11.0, 9.0, 4.0)):  # degrees
        (ca, cb), (sa, sb) = np.cos(np.radians([-up, left])), np.sin(np.radians([-up, left]))
        turned = np.array([[cb * ca, -sb, cb * sa], [sb * ca, cb, sb * sa], [-sa, 0.0, ca]])
        glint = cap("white", EYE_RADIUS + 0.0004, 0.0, size, 4)
        pieces.append(Piece("white", glint.vertices @ turned.T, glint.normals @ turned.T, glint.faces))
    return pieces


def lid(open_at: float, upper: bool) -> list[Piece]:
    """A shell around the eye from its edge at elevation `open_at` backwards over (or under) the eye."""
    far = open_at + np.radians(112.0 if upper else -95.0)
    elevation = np.linspace(open_at, far, 14)[:, None]
    side = np.linspace(-1.0, 1.0, 21)[None] * np.pi / 2.0

    def lune(radius: float, at: np.ndarray, across: np.ndarray) -> np.ndarray:
        return radius * np.stack(
            [np.cos(across) * np.cos(at), np.sin(across) + 0.0 * at, np.cos(across) * np.sin(at)], axis=-1
        )

    middle = (0.0, 0.0, 0.0)
    outside = sheet("lid", lune(LID_RADIUS, elevation, side), around=middle)
    edge = lune(1.0, np.array(open_at), side[0])
    turn = np.linspace(0.0, 2.0 * np.pi, 11)
    # The edge is a thin rod along the lid's rim: that line is what shows that an eye is closed.
    up = np.array([-np.sin(open_at), 0.0, np.cos(open_at)])
    thick = 0.0012 * np.sqrt(np.cos(side[0]))[:, None, None]
    rod = edge[:, None] * (LID_RADIUS - 0.0003) + thick * (
        np.cos(turn)[None, :, None] * edge[:, None] + np.sin(turn)[None, :, None] * up
    )
    return [outside, sheet("lash", rod)]


def brow(side: float) -> list[Piece]:
    """From its inner end (thick) to its outer end (thin), curved like a roof."""
    share = np.linspace(0.0, 1.0, 15)
    y = side * (share - 0.5) * 0.034
    z = 0.0034 * (1.0 - (2.0 * share - 1.0) ** 2) - 0.0016
    x = -0.0050 * share**2
    return [tube("lash", np.stack([x, y, z], axis=1), 0.0040 - 0.0020 * share**1.5, flat=0.7)]


def lip_bar(upper: bool) -> list[Piece]:
    y = np.linspace(-BAR_HALF, BAR_HALF, 13)
    share = y / BAR_HALF
    radius = LIP_UPPER_RADIUS if upper else LIP_LOWER_RADIUS
    z = 0.0 * y if upper else 0.0008 * (share**2 - 1.0)
    size = radius * (1.0 + 0.06 * (1.0 - share**2))
    return [tube("lip", np.stack([0.0 * y, y, z], axis=1), size)]


def lip_segment(side: float, upper: bool) -> list[Piece]:
    """From the corner of the mouth inwards, bellied so that corner and bar join in a curve."""
    share = np.linspace(0.0, 1.0, 11)
    belly = (-0.0006 if upper else -0.0016) * np.sin(np.pi * share)
    wide, length = (LIP_UPPER_RADIUS, LIP_UPPER_SEGMENT) if upper else (LIP_LOWER_RADIUS, LIP_LOWER_SEGMENT)
    path = np.stack([0.0 * share, -side * share * length, belly], axis=1)
    return [tube("lip", path, CORNER_RADIUS + (wide - CORNER_RADIUS) * share)]


def mouth_dome() -> list[Piece]:
    """What is in an open mouth; lies under the visor and comes up through it."""
    return [
        ellipsoid("mouth", (0.0, 0.0, 0.0), (0.0060, 0.0215, 0.0150), 16, 32),
        ellipsoid("tongue", (-0.0006, 0.0, -0.0080), (0.0058, 0.0125, 0.0066)),
        ellipsoid("white", (0.0006, 0.0, 0.0092), (0.0056, 0.0135, 0.0034)),
    ]


def cheek() -> list[Piece]:
    return [ellipsoid("blush", (0.0, 0.0, 0.0), (0.0030, 0.0125, 0.0085))]


def torso() -> list[Piece]:
    bust = [(0.0, 0.0), (0.108, 0.0), (0.114, 0.004), (0.1135, 0.018), (0.106, 0.044), (0.090, 0.068), (0.066, 0.086)]
    bust += [(0.056, 0.0905), (0.052, 0.0905), (0.0, 0.0905)]
    return [
        lathe("shell", smooth(bust, 2)),
        lathe("accent", rounded(0.0535, 0.086, 0.0945, 0.002)),
        lathe("graphite", rounded(0.1155, -0.004, 0.006, 0.003)),
    ]


def smooth(profile: Sequence[tuple[float, float]], times: int) -> list[tuple[float, float]]:
    """Chaikin's corner cutting; both ends stay."""
    points = np.array(profile)
    for _ in range(times):
        cut = np.stack([0.75 * points[:-1] + 0.25 * points[1:], 0.25 * points[:-1] + 0.75 * points[1:]], axis=1)
        points = np.concatenate([points[:1], cut.reshape(-1, 2), points[-1:]])
    return [tuple(point) for point in points]


def bellows() -> list[Piece]:
    """The neck's lower part: rings around a rod."""
    height = np.linspace(0.0, 0.046, 33)
    radius = 0.0375 + 0.0030 * np.cos(2.0 * np.pi * height / 0.0115)
    return [lathe("graphite", [(0.0, 0.0), *zip(radius, height, strict=True), (0.0, 0.046)])]


def neck_ball() -> list[Piece]:
    return [ellipsoid("seam", (0.0, 0.0, 0.0), (0.0340, 0.0340, 0.0260))]


MESHES: dict[str, Callable[[], list[Piece]]] = {
    "torso": torso,
    "neck": bellows,
    "neck_ball": neck_ball,
    "skull": skull,
    "eye": eye,
    "lid_upper": lambda: lid(LID_UPPER_OPEN, upper=True),
    "lid_lower": lambda: lid(LID_LOWER_OPEN, upper=False),
    "brow_left": lambda: brow(1.0),
    "brow_right": lambda: brow(-1.0),
    "cheek": cheek,
    "mouth": mouth_dome,
    "lip_upper": lambda: lip_bar(upper=True),
    "lip_lower": lambda: lip_bar(upper=False),
    "mouth_corner": lambda: [ellipsoid("lip", (0.0, 0.0, 0.0), (CORNER_RADIUS,) * 3, 12, 18)],
    "lip_upper_left": lambda: lip_segment(1.0, upper=True),
    "lip_upper_right": lambda: lip_segment(-1.0, upper=True),
    "lip_lower_left": lambda: lip_segment(1.0, upper=False),
    "lip_lower_right": lambda: lip_segment(-1.0, upper=False),
}


# ---- files -------------------------------------------------------------------------------------


def obj(pieces: Sequence[Piece]) -> str:
    """Wavefront OBJ with normals; colours are in head.mtl."""
    lines = ["# Made by timar_ros.view.head_model; Apache-2.0.", "mtllib head.mtl"]
    first = 1
    for piece in pieces:
        lines.append(f"usemtl {piece.colour}")
        lines += ["v " + " ".join(f"{1.0 * c:.5f}" for c in vertex) for vertex in piece.vertices + 0.0]
        lines += ["vn " + " ".join(f"{c:.3f}" for c in normal) for normal in piece.normals.round(3) + 0.0]
        lines += ["f " + " ".join(f"{i}//{i}" for i in face) for face in piece.faces + first]
        first += len(piece.vertices)
    return "\n".join(lines).replace("-0.00000", "0.00000") + "\n"


def mtl() -> str:
    lines = ["# Made by timar_ros.view.head_model; Apache-2.0."]
    for name, colour in COLOURS.items():
        shade = " ".join(f"{c:g}" for c in colour)
        lines += [f"newmtl {name}", f"Ka {shade}", f"Kd {shade}", "Ks 0.1 0.1 0.1", "Ns 40", "d 1", "illum 2"]
    return "\n".join(lines) + "\n"


class Urdf:
    """Collects links and joints as URDF text."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def link(self, name: str, mesh: str = "", mass: float = 0.0, extra: str = "") -> None:
        """A link with the mesh of that name; mass in kg, its inertia that of a ball of 2 cm."""
        inside = ""
        if mesh:
            inside += f'\n    <visual><geometry><mesh filename="package://timar_ros/urdf/meshes/{mesh}.obj"/></geometry></visual>'
        inside += extra
        if mass:
            inertia = 0.4 * mass * 0.02**2
            inside += (
                f'\n    <inertial><mass value="{mass:g}"/><inertia ixx="{inertia:.3g}" iyy="{inertia:.3g}" '
                f'izz="{inertia:.3g}" ixy="0" ixz="0" iyz="0"/></inertial>'
            )
        self._lines.append(f'  <link name="{name}">{inside}\n  </link>' if inside else f'  <link name="{name}"/>')

    def joint(
        self,
        name: str,
        parent: str,
        child: str,
        at: Sequence[float] = (0.0, 0.0, 0.0),
        axis: Vector | None = None,
        limits: tuple[float, float] = (0.0, 0.0),
        velocity: float = 0.0,
        slides: bool = False,
        rpy: Vector | None = None,
    ) -> None:
        """A joint at a place in the parent's frame; fixed without an axis, prismatic when it slides."""
        kind = "fixed" if axis is None else "prismatic" if slides else "revolute"
        text = [f'  <joint name="{name}" type="{kind}">', f'    <parent link="{parent}"/><child link="{child}"/>']
        turned = "" if rpy is None else f' rpy="{" ".join(f"{c:.4g}" for c in rpy)}"'
        text.append(f'    <origin xyz="{" ".join(f"{c + 0.0:.5g}" for c in np.round(at, 6))}"{turned}/>')
        if axis is not None:
            text.append(f'    <axis xyz="{" ".join(f"{c:.5g}" for c in axis)}"/>')
            effort = 2.0 if name.startswith("neck") else 0.2
            text.append(
                f'    <limit lower="{limits[0]:g}" upper="{limits[1]:g}" velocity="{velocity:g}" effort="{effort:g}"/>'
            )
        self._lines += [*text, "  </joint>"]

    def text(self) -> str:
        head = [
            '<?xml version="1.0"?>',
            "<!-- A friendly robot's head: chest, three neck joints in series, a face of joints. Made by",
            "     timar_ros.view.head_model, which is the file to change. REP-103: x forward, y left, z up; m, rad.",
            "     Positive yaw turns left, positive pitch nods down, positive roll tilts to the right shoulder.",
            "     config/robots/generic.yaml has the same neck; config/faces/head.yaml moves the face. -->",
            '<robot name="timar_head">',
        ]
        return "\n".join([*head, *self._lines, "</robot>"]) + "\n"


def urdf() -> str:
    u = Urdf()
    x, y, z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
    ball = '\n    <collision><origin xyz="{}"/><geometry><sphere radius="{}"/></geometry></collision>'
    u.link("base_link")
    u.joint("base_to_torso", "base_link", "torso")
    u.link("torso", "torso", 1.2, ball.format("0 0 0.02", 0.1))
    u.joint("neck_yaw", "torso", "neck_yaw_link", (0, 0, 0.0930), z, (-1.2, 1.2), 3.0)
    u.link("neck_yaw_link", "neck", 0.1)
    u.joint("neck_pitch", "neck_yaw_link", "neck_pitch_link", (0, 0, 0.050), y, (-0.6, 0.7), 3.0)
    u.link("neck_pitch_link", "neck_ball", 0.08)
    u.joint("neck_roll", "neck_pitch_link", "head", (0, 0, 0.004), x, (-0.5, 0.5), 3.0)
    u.link("head", "skull", 0.55, ball.format(" ".join(f"{c:g}" for c in CENTRE), 0.11))

    eye_x = visor_x(EYE_Y, EYE_Z) - EYE_DEPTH
    for side, name in ((1.0, "left"), (-1.0, "right")):
        at = CENTRE + [eye_x, side * EYE_Y, EYE_Z]
        u.joint(f"eye_{name}_yaw", "head", f"eye_{name}_gimbal", at, z, (-0.6, 0.6), 12.0)
        u.link(f"eye_{name}_gimbal")
        u.joint(f"eye_{name}_pitch", f"eye_{name}_gimbal", f"eye_{name}", axis=y, limits=(-0.5, 0.5), velocity=12.0)
        u.link(f"eye_{name}", "eye", 0.02)
        # Positive closes.
        u.joint(f"lid_upper_{name}", "head", f"lid_upper_{name}", at, y, (-0.35, 1.15), 30.0)
        u.link(f"lid_upper_{name}", "lid_upper", 0.005)
        u.joint(f"lid_lower_{name}", "head", f"lid_lower_{name}", at, (0.0, -1.0, 0.0), (-0.15, 0.95), 30.0)
        u.link(f"lid_lower_{name}", "lid_lower", 0.005)
        # Positive raises; positive tilt lifts the inner end.
        place = CENTRE + [visor_x(BROW_Y, BROW_Z) + 0.0035, side * BROW_Y, BROW_Z]
        u.joint(f"brow_{name}_raise", "head", f"brow_{name}_slide", place, z, (-0.012, 0.014), 0.2, slides=True)
        u.link(f"brow_{name}_slide")
        tilt = (-side, 0.0, 0.0)
        u.joint(f"brow_{name}_tilt", f"brow_{name}_slide", f"brow_{name}", axis=tilt, limits=(-0.55, 0.5), velocity=6.0)
        u.link(f"brow_{name}", f"brow_{name}", 0.005)
        # Out of the visor by its position: at 0 its top is level with the visor.
        under = CENTRE + [visor_x(CHEEK_Y, CHEEK_Z) - 0.0031, side * CHEEK_Y, CHEEK_Z]
        ahead, across, _ = visor_normal(CHEEK_Y, CHEEK_Z)
        turned = (0.0, 0.0, side * float(np.arctan2(across, ahead)))
        u.joint(f"cheek_{name}", "head", f"cheek_{name}", under, x, (0.0, 0.006), 0.1, slides=True, rpy=turned)
        u.link(f"cheek_{name}", "cheek", 0.005)

    front = visor_x(0.0, MOUTH_Z) + 0.0030
    mouth = CENTRE + [front, 0.0, MOUTH_Z]
    u.joint("jaw", "head", "jaw", mouth - [JAW_ARM, 0.0, 0.0], y, (0.0, 0.30), 6.0)
    u.link("jaw", mass=0.02)
    u.joint("lip_lower", "jaw", "lip_lower", (JAW_ARM, 0.0, LIP_LOWER_Z), z, (-0.010, 0.026), 0.3, slides=True)
    u.link("lip_lower", "lip_lower", 0.005)
    u.joint("lip_upper", "head", "lip_upper", mouth + [0.0, 0.0, LIP_UPPER_Z], z, (-0.008, 0.008), 0.3, slides=True)
    u.link("lip_upper", "lip_upper", 0.005)
    # The dome lies flat under the visor between the open lips, and comes up as it goes down.
    facing = visor_normal(0.0, MOUTH_Z - 0.013)
    under = CENTRE + on_surface(VISOR_RADII, np.array(0.0), np.array(MOUTH_Z - 0.006)) - MOUTH_DEPTH * facing
    pitch = float(-np.arcsin(facing[2]))
    axis = np.array([MOUTH_TRAVEL[0], 0.0, -MOUTH_TRAVEL[1]]) / np.hypot(*MOUTH_TRAVEL)
    travel = round(1.1 * float(np.hypot(*MOUTH_TRAVEL)), 4)
    u.joint("mouth", "head", "mouth", under, tuple(axis.tolist()), (0.0, travel), 0.4, slides=True, rpy=(0, pitch, 0))
    u.link("mouth", "mouth", 0.005)
    for side, name in ((1.0, "left"), (-1.0, "right")):
        # Positive widens; positive raises.
        corner = mouth + [0.0, side * CORNER_Y, 0.0]
        u.joint(
            f"mouth_{name}_width", "head", f"mouth_{name}_slide", corner, (0.0, side, 0.0), (-0.016, 0.009), 0.3, True
        )
        u.link(f"mouth_{name}_slide")
        u.joint(
            f"mouth_{name}_corner", f"mouth_{name}_slide", f"mouth_corner_{name}", axis=z, limits=(-0.016, 0.016),
            velocity=0.3, slides=True,
        )  # fmt: skip
        u.link(f"mouth_corner_{name}", "mouth_corner", 0.005)
        # Positive turns the inner end down.
        for which in ("upper", "lower"):
            link = f"lip_{which}_{name}"
            u.joint(link, f"mouth_corner_{name}", link, axis=(side, 0.0, 0.0), limits=(-0.9, 1.4), velocity=10.0)
            u.link(link, link, 0.003)

    # Between the eyes, looking along x: what a gaze target or a camera is given in.
    u.joint("head_to_eyes", "head", "eyes", CENTRE + [eye_x + EYE_RADIUS, 0.0, EYE_Z])
    u.link("eyes")
    return u.text()


def write(folder: Path) -> None:
    """Write head.urdf and meshes/ into a folder."""
    meshes = folder / "meshes"
    meshes.mkdir(parents=True, exist_ok=True)
    (folder / "head.urdf").write_text(urdf(), encoding="utf-8")
    (meshes / "head.mtl").write_text(mtl(), encoding="utf-8")
    for name, make in MESHES.items():
        (meshes / f"{name}.obj").write_text(obj(make()), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else share_path("urdf"))
