"""A robot from its URDF in a viser scene, moved joint by joint: only what changed is sent to browsers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import trimesh
import viser
import yourdfpy

from timar_ros.errors import TimarError
from timar_ros.resources import PACKAGE, share_path

STEP = 2e-4
"""The least change of a joint that is worth sending: rad or m."""


class RobotScene:
    """The meshes of a URDF under `/robot`, one frame for each joint that moves.

    Raises:
        TimarError: the file is not there or no URDF, or a mesh is not found.
    """

    def __init__(self, server: viser.ViserServer, urdf: Path) -> None:
        robot = load_urdf(urdf)
        self._shown: dict[str, float] = {}
        self._frames: dict[str, viser.FrameHandle] = {}
        self._joints: dict[str, yourdfpy.Joint] = {}
        self._mimics: dict[str, list[yourdfpy.Joint]] = {}
        names = {robot.base_link: "/robot"}
        server.scene.add_frame("/robot", show_axes=False)
        waiting = list(robot.joint_map.values())
        while waiting:
            joint = next(joint for joint in waiting if joint.parent in names)  # a URDF is a tree
            waiting.remove(joint)
            names[joint.child] = f"{names[joint.parent]}/{joint.child}"
            self._frames[joint.name] = server.scene.add_frame(names[joint.child], show_axes=False)
            self._joints[joint.name] = joint
            origin = np.eye(4) if joint.origin is None else joint.origin
            self._frames[joint.name].position = origin[:3, 3]
            self._frames[joint.name].wxyz = trimesh.transformations.quaternion_from_matrix(origin)
            if joint.mimic is not None:
                self._mimics.setdefault(joint.mimic.joint, []).append(joint)
                self._place(joint, joint.mimic.offset)
        for mesh_name, mesh in robot.scene.geometry.items():
            link = robot.scene.graph.transforms.parents[mesh_name]
            shape = mesh.copy()
            shape.apply_transform(robot.get_transform(mesh_name, link))
            shape.vertex_normals  # noqa: B018  (only what was asked for is exported; without them facets show)
            server.scene.add_mesh_trimesh(f"{names[link]}/{mesh_name}", shape)

        self.bounds = np.asarray(robot.scene.bounds)  # [2, 3] m, lowest and highest corner

    @property
    def joint_names(self) -> tuple[str, ...]:
        """The joints that can be moved, without those that mimic others."""
        return tuple(n for n, j in self._joints.items() if j.type != "fixed" and j.mimic is None)

    @property
    def positions(self) -> dict[str, float]:
        """Where the joints were shown last; those never moved are left out."""
        return dict(self._shown)

    def show(self, positions: Mapping[str, float]) -> int:
        """Move joints (rad, or m); names that the robot does not have are passed over. The number that moved."""
        moved = 0
        for name, position in positions.items():
            joint = self._joints.get(name)
            if joint is None or joint.type == "fixed" or not math.isfinite(position):
                continue
            if abs(position - self._shown.get(name, 0.0)) < STEP:
                continue
            self._shown[name] = float(position)
            self._place(joint, float(position))
            for mimic in self._mimics.get(name, ()):
                self._place(mimic, mimic.mimic.multiplier * float(position) + mimic.mimic.offset)
            moved += 1
        return moved

    def _place(self, joint: yourdfpy.Joint, position: float) -> None:
        """Set what the joint changes of its frame, and only that."""
        frame = self._frames[joint.name]
        origin = np.eye(4) if joint.origin is None else joint.origin
        if joint.type == "prismatic":
            frame.position = origin[:3, 3] + origin[:3, :3] @ (joint.axis * position)
        else:
            turned = trimesh.transformations.quaternion_about_axis(position, joint.axis)
            start = trimesh.transformations.quaternion_from_matrix(origin)
            frame.wxyz = trimesh.transformations.quaternion_multiply(start, turned)


def load_urdf(path: Path) -> yourdfpy.URDF:
    """A URDF with its meshes; `package://` is looked for in this package, in ROS's index and around the file.

    Raises:
        TimarError: the file is not there or no URDF, or a mesh is not found.
    """
    if not path.is_file():
        raise TimarError(f"there is no robot description at {path}; expected a URDF file; check the path")
    try:
        return yourdfpy.URDF.load(str(path), filename_handler=partial(find_mesh, folder=path.resolve().parent))
    except TimarError:
        raise
    except Exception as error:  # lxml, trimesh and yourdfpy raise many kinds
        raise TimarError(
            f"{path} cannot be shown ({error}); expected a URDF file whose meshes are OBJ, STL, DAE or glTF; "
            "check it with `check_urdf`, or leave --urdf out for the head that comes with the package"
        ) from error


def find_mesh(fname: str, folder: Path) -> str:
    """The path of a mesh that a URDF in `folder` names.

    Raises:
        TimarError: its package is not known here.
    """
    if fname.startswith("package://"):
        package, _, rest = fname.removeprefix("package://").partition("/")
        if package == PACKAGE:
            return str(share_path(*rest.split("/")))
        try:
            from ament_index_python.packages import get_package_share_directory

            return str(Path(get_package_share_directory(package)) / rest)
        except (ImportError, LookupError, OSError) as error:
            for place in (folder, *folder.parents):
                root = place if place.name == package else place / package
                if (root / rest).is_file():
                    return str(root / rest)
            raise TimarError(
                f"the robot description names {fname}, and the package {package} was not found; "
                "source the workspace that holds it, or put its folder beside the URDF"
            ) from error
    path = Path(fname.removeprefix("file://"))
    return str(path if path.is_absolute() else folder / path)
