"""The head in urdf/: made by its script, moved by its joints as the face map says."""

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import trimesh
import viser

from timar_ros.channels import ARKIT_BLENDSHAPES
from timar_ros.resources import share_path
from timar_ros.robot.face_map import FaceMap, weights_by_name
from timar_ros.robot.profile import RobotProfile
from timar_ros.view import head_model
from timar_ros.view.robot_scene import RobotScene, load_urdf

URDF = share_path("urdf", "head.urdf")
FACE = FaceMap.load("head")


@pytest.fixture(scope="module")
def robot():
    return load_urdf(URDF)


def pose(robot, neck=None, **weights: float):
    """Put the robot into a face; weights without a side hold for both sides."""
    names, values = [], []
    for name, value in weights.items():
        sided = [name + side for side in ("Left", "Right")]
        found = sided if sided[0] in ARKIT_BLENDSHAPES else [name]
        names += found
        values += [value] * len(found)
    joints = dict(zip(FACE.joint_names, FACE.joints(weights_by_name(names, values)).tolist(), strict=True))
    robot.update_cfg({**dict.fromkeys(robot.actuated_joint_names, 0.0), **joints, **(neck or {})})
    return robot


def place(robot, link: str, point=(0.0, 0.0, 0.0), frame: str = "base_link") -> np.ndarray:
    return (robot.get_transform(link, frame) @ np.array([*point, 1.0]))[:3]


def test_what_lies_in_urdf_is_what_the_script_makes(tmp_path):
    head_model.write(tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    there = sorted(path.relative_to(URDF.parent) for path in URDF.parent.rglob("*.*") if path.is_file())
    assert made == there
    assert (tmp_path / "head.urdf").read_text() == URDF.read_text(), "run python -m timar_ros.view.head_model"
    for path in made:
        if path.suffix == ".obj":  # the last digit may differ from machine to machine
            first, second = (_numbers(folder / path) for folder in (tmp_path, URDF.parent))
            np.testing.assert_allclose(first, second, atol=2e-3, err_msg=str(path))


def _numbers(path) -> np.ndarray:
    lines = [line.split()[1:] for line in path.read_text().splitlines() if line.startswith(("v ", "vn "))]
    return np.array(lines, float)


def test_the_files_are_small():
    assert sum(path.stat().st_size for path in URDF.parent.rglob("*.*")) < 2_000_000


def test_surfaces_face_outwards():
    """Or RViz and browsers would light them from the wrong side."""
    for name, make in head_model.MESHES.items():
        for piece in make():
            mesh = trimesh.Trimesh(piece.vertices, piece.faces, process=False)
            agree = np.einsum("ij,ij->i", mesh.face_normals, piece.normals[piece.faces].mean(axis=1))
            assert (agree > 0.0).mean() > 0.98, (name, piece.colour)
            if mesh.is_watertight:
                assert mesh.volume > 0.0, (name, piece.colour)


def test_every_mesh_has_colours_of_the_table_and_the_urdf_none_of_its_own():
    """Some versions of RViz let a URDF's colour win over those of the mesh, others do not."""
    assert not ET.parse(URDF).getroot().findall(".//material")
    for path in (URDF.parent / "meshes").glob("*.obj"):
        used = {line.split()[1] for line in path.read_text().splitlines() if line.startswith("usemtl")}
        assert used and used <= set(head_model.COLOURS)


def test_the_face_map_moves_joints_of_the_urdf_within_their_limits(robot):
    for name, lower, upper in zip(FACE.joint_names, FACE.lower, FACE.upper, strict=True):
        limit = robot.joint_map[name].limit
        assert limit.lower <= lower + 1e-9 and upper <= limit.upper + 1e-9, name
    neck = set(RobotProfile.load("generic").joint_names)
    assert set(robot.actuated_joint_names) == neck | set(FACE.joint_names)


def test_the_neck_turns_left_nods_down_and_tilts_to_the_right(robot):
    straight = place(pose(robot), "eyes")
    assert place(pose(robot, {"neck_yaw": 0.3}), "eyes")[1] > straight[1] + 0.01
    assert place(pose(robot, {"neck_pitch": 0.3}), "eyes")[2] < straight[2] - 0.01
    assert place(pose(robot, {"neck_roll": 0.3}), "eyes")[1] < straight[1] - 0.01


def test_eyes_look_where_their_blendshapes_say(robot):
    def gaze(eye, **weights):
        looking = pose(robot, **weights)
        return place(looking, f"eye_{eye}", (1.0, 0.0, 0.0)) - place(looking, f"eye_{eye}")

    for eye in ("left", "right"):
        assert gaze(eye, eyeLookUp=1.0)[2] > 0.3 and gaze(eye, eyeLookDown=1.0)[2] < -0.3
    left = {"eyeLookOutLeft": 1.0, "eyeLookInRight": 1.0}
    assert gaze("left", **left)[1] > 0.4 and gaze("right", **left)[1] > 0.4


def test_a_blink_closes_the_lids_and_open_eyes_are_open(robot):
    def gap(side, **weights):
        """Between the lids' edges, as seen from the eye, deg."""
        radius, edges = head_model.LID_RADIUS, []
        blinking = pose(robot, **weights)
        for lid, open_at in (("upper", head_model.LID_UPPER_OPEN), ("lower", head_model.LID_LOWER_OPEN)):
            edge = (radius * np.cos(open_at), 0.0, radius * np.sin(open_at))
            link = f"lid_{lid}_{side}"
            x, _, z = place(blinking, link, edge, "head") - place(blinking, link, frame="head")
            edges.append(np.degrees(np.arctan2(z, x)))
        return edges[0] - edges[1]

    for side in ("left", "right"):
        assert gap(side) > 90.0
        assert gap(side, eyeBlink=1.0) < 4.0
        assert gap(side, eyeBlink=0.5) < 0.6 * gap(side)
        assert gap(side, eyeWide=1.0) > gap(side) + 10.0 and gap(side, eyeSquint=1.0) < gap(side) - 20.0


def test_brows_rise_and_tilt(robot):
    def ends(**weights):
        brow = pose(robot, **weights)
        return tuple(place(brow, "brow_left", (0.0, y, 0.0), "head")[2] for y in (-0.017, 0.017))

    inner, outer = ends()
    worried, angry, surprised = ends(browInnerUp=1.0), ends(browDown=1.0), ends(browInnerUp=1.0, browOuterUp=1.0)
    assert worried[0] - inner > 0.008 and worried[0] - inner > worried[1] - outer + 0.005
    assert angry[0] - inner < -0.008 and angry[1] > angry[0] + 0.008
    assert min(surprised[0] - inner, surprised[1] - outer) > 0.008


def test_the_jaw_opens_the_mouth_and_a_smile_lifts_its_corners(robot):
    def opening(**weights):
        mouth = pose(robot, **weights)
        return place(mouth, "lip_upper", frame="head")[2] - place(mouth, "lip_lower", frame="head")[2]

    assert opening(jawOpen=1.0) > opening() + 0.022
    assert opening(jawOpen=1.0, mouthClose=1.0) < opening() + 0.003

    def corner(**weights):
        return place(pose(robot, **weights), "mouth_corner_left", frame="head")[2]

    assert corner(mouthSmile=1.0) > corner() + 0.008 and corner(mouthFrown=1.0) < corner() - 0.008


FACES = (
    {},
    {"jawOpen": 0.3},
    {"jawOpen": 0.7},
    {"jawOpen": 1.0},
    {"mouthSmile": 1.0},
    {"mouthSmile": 0.7, "jawOpen": 0.4},
    {"mouthFrown": 1.0},
    {"mouthPucker": 1.0},
    {"mouthFunnel": 0.8, "jawOpen": 0.3},
    {"mouthStretch": 0.8, "jawOpen": 0.2},
    {"mouthUpperUp": 0.8, "mouthLowerDown": 0.8},
)


@pytest.mark.parametrize("face", FACES, ids=lambda face: "+".join(face) or "rest")
def test_lips_stay_in_one_piece(robot, face):
    """The inner ends of the corners' segments meet the bars in the middle: no gap wider than the lips are thick."""
    mouth = pose(robot, **face)
    for which, length, radius in (
        ("upper", head_model.LIP_UPPER_SEGMENT, head_model.LIP_UPPER_RADIUS),
        ("lower", head_model.LIP_LOWER_SEGMENT, head_model.LIP_LOWER_RADIUS),
    ):
        for side, name in ((1.0, "left"), (-1.0, "right")):
            tip = place(mouth, f"lip_{which}_{name}", (0.0, -side * length, 0.0), f"lip_{which}")
            along = np.clip(tip[1], -head_model.BAR_HALF, head_model.BAR_HALF)
            gap = np.hypot(tip[1] - along, tip[2])
            assert gap < 2.0 * radius, f"{which} {name}: {gap * 1e3:.1f} mm"


MINE = """<robot name="mine">
  <material name="blue"><color rgba="0 0 1 1"/></material>
  <link name="base"><visual><geometry><box size="0.1 0.1 0.1"/></geometry><material name="blue"/></visual></link>
  <link name="neck"><visual><geometry><cylinder radius="0.02" length="0.1"/></geometry></visual></link>
  <link name="head"><visual><origin xyz="0 0 0.1"/><geometry><sphere radius="0.05"/></geometry></visual></link>
  <link name="brow"/>
  <joint name="pan" type="revolute"><parent link="base"/><child link="neck"/>
    <origin xyz="0.1 0 0.2" rpy="0.3 0 1.5708"/><axis xyz="0 0 1"/>
    <limit lower="-1" upper="1" velocity="1" effort="1"/></joint>
  <joint name="tilt" type="continuous"><parent link="neck"/><child link="head"/><origin xyz="0 0 0.1"/>
    <axis xyz="0 1 0"/></joint>
  <joint name="lift" type="prismatic"><parent link="head"/><child link="brow"/><origin xyz="0 0 0.1" rpy="0 0.4 0"/>
    <axis xyz="0 0 1"/><limit lower="0" upper="1" velocity="1" effort="1"/>
    <mimic joint="tilt" multiplier="0.1" offset="0.02"/></joint>
</robot>"""


@pytest.mark.parametrize("urdf", ["robot.urdf", "my_robot/urdf/robot.urdf", "elsewhere/urdf/robot.urdf"])
def test_without_ros_a_package_is_found_around_the_urdf(tmp_path, monkeypatch, urdf):
    meshes = tmp_path / "my_robot" / "meshes"
    meshes.mkdir(parents=True)
    trimesh.creation.box((0.1, 0.2, 0.3)).export(meshes / "box.stl")
    file = tmp_path / urdf
    file.parent.mkdir(parents=True, exist_ok=True)
    mesh = '<mesh filename="package://my_robot/meshes/box.stl"/>'
    file.write_text(f'<robot name="r"><link name="a"><visual><geometry>{mesh}</geometry></visual></link></robot>')
    monkeypatch.chdir(file.parent)
    np.testing.assert_allclose(np.ptp(load_urdf(Path("robot.urdf")).scene.bounds, axis=0), (0.1, 0.2, 0.3))


@pytest.mark.parametrize("text", [MINE, URDF.read_text()], ids=["mine", "head"])
def test_the_browser_places_every_link_where_the_urdf_has_it(tmp_path, text):
    """Against yourdfpy's own kinematics, for a robot of boxes with a joint that mimics another, and for our head."""
    file = tmp_path / "robot.urdf"
    file.write_text(text)
    server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
    try:
        scene, robot = RobotScene(server, file), load_urdf(file)
        positions = {name: 0.01 * (1 + i % 5) for i, name in enumerate(scene.joint_names, 1)}
        assert scene.show(positions | {"of another robot": 1.0}) == len(positions)
        assert scene.show(dict.fromkeys(positions, float("nan"))) == 0
        assert scene.show(positions) == 0, "what did not move is not sent again"
        robot.update_cfg(positions)
        for name, joint in robot.joint_map.items():
            frame = scene._frames[name]
            placed = trimesh.transformations.quaternion_matrix(frame.wxyz)
            placed[:3, 3] = frame.position
            np.testing.assert_allclose(placed, robot.get_transform(joint.child, joint.parent), atol=1e-6, err_msg=name)
    finally:
        server.stop()
