"""What the software must know of one robot's head: its joints, their limits, how it is commanded.

A profile is a YAML file. Those that come with the package lie in `config/robots/`; `generic.yaml`
there shows and explains the usual keys, docs/robots.md all of them. A new robot is a new file, no
code, as long as its head is a chain of one to three joints about different axes and takes a kind of
command in `COMMAND_KINDS`.
docs/robots.md says how to write one; `timar robot check FILE` explains one and finds what is wrong.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from timar_ros.channels import ARKIT_BLENDSHAPES
from timar_ros.errors import TimarError
from timar_ros.resources import share_path

AXES = ("roll", "pitch", "yaw")
# How necks take commands: trajectory_msgs/JointTrajectory of a joint_trajectory_controller,
# std_msgs/Float64MultiArray of a forward_command_controller, naoqi_bridge_msgs/JointAnglesWithSpeed.
COMMAND_KINDS = ("joint_trajectory", "forward_command", "joint_angles_with_speed")
# Faces: as above, or sensor_msgs/JointState with names and positions, as many servo drivers take it.
FACE_COMMAND_KINDS = ("joint_trajectory", "forward_command", "joint_state")


@dataclass(frozen=True)
class JointLimits:
    """What one joint may do: position in [lower, upper] rad; |velocity| rad/s, |acceleration|
    rad/s^2 and |jerk| rad/s^3 at most the values given, which are positive."""

    lower: float
    upper: float
    velocity: float
    acceleration: float
    jerk: float


@dataclass(frozen=True)
class Joint:
    """One joint of the neck: position = sign * gain * (rotation about `axis`) + offset, in rad.

    `offset` is the position in which the head looks straight ahead; `gain` scales the motion.
    """

    name: str
    axis: str
    limits: JointLimits
    sign: float = 1.0
    gain: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class Command:
    """How the head takes commands: one of `COMMAND_KINDS`, the topic, and what else that needs.

    `options` holds, of joint_trajectory, `stamp` where it is given (timeline or zero); of the other kinds
    `rate_hz`, how often positions are sent, and `order`, the joints in the order of the message; of
    joint_angles_with_speed `full_speed`, the rad/s of each joint that a speed of 1 stands for.
    """

    kind: str
    topic: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FaceJoint:
    """One servo of the face: position = rest + sum of rad per unit of weight * blendshape's weight, in rad."""

    name: str
    limits: JointLimits
    blendshapes: Mapping[str, float]
    rest: float = 0.0


@dataclass(frozen=True)
class Face:
    """A face that moves: its servos in the order of the command's message."""

    joints: tuple[FaceJoint, ...]
    command: Command


@dataclass(frozen=True)
class RobotProfile:
    """One robot's head. `joints` are in chain order, from the base to the head.

    Gaze targets are given in `base_frame`, the link that the neck stands on; `pivot` is the place in it, m, that the
    head turns about.
    """

    name: str
    joints: tuple[Joint, ...]
    command: Command
    description: str = ""
    face: Face | None = None
    base_frame: str = "base_link"
    pivot: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def joint_names(self) -> tuple[str, ...]:
        """The joints' names in chain order, which is the order of every [n, J] array."""
        return tuple(joint.name for joint in self.joints)

    @property
    def lower(self) -> np.ndarray:
        """[J] rad, lowest positions."""
        return np.array([joint.limits.lower for joint in self.joints])

    @property
    def upper(self) -> np.ndarray:
        """[J] rad, highest positions."""
        return np.array([joint.limits.upper for joint in self.joints])

    def turns(self, axis: str) -> tuple[float, float]:
        """How far the head turns about an axis of `AXES`: lowest and highest rotation, rad; zeros without a joint."""
        for joint in self.joints:
            if joint.axis == axis:
                ends = (joint.limits.lower, joint.limits.upper)
                lowest, highest = sorted((end - joint.offset) / (joint.sign * joint.gain) for end in ends)
                return lowest, highest
        return 0.0, 0.0

    def with_limits(self, limits: Mapping[str, JointLimits]) -> "RobotProfile":
        """The same robot with other limits of the joints that are named, in neck and face."""
        joints = tuple(replace(joint, limits=limits.get(joint.name, joint.limits)) for joint in self.joints)
        face = self.face
        if face is not None:
            face = replace(face, joints=tuple(replace(j, limits=limits.get(j.name, j.limits)) for j in face.joints))
        return replace(self, joints=joints, face=face)

    def taking_trajectories(self) -> "RobotProfile":
        """The same robot, its neck commanded by joint trajectories, as a simulated head takes them for any robot."""
        if self.command.kind == "joint_trajectory":
            return self
        return replace(self, command=Command("joint_trajectory", "head_controller/joint_trajectory"))

    @classmethod
    def load(cls, name_or_path: str | Path) -> "RobotProfile":
        """The profile of a robot that comes with the package, by name, or of a YAML file, by path.

        Raises:
            TimarError: no such robot or file, or the file breaks a rule; the sentence names both.
        """
        path = _find(name_or_path)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise TimarError(f"Robot profile {path} cannot be read: {error}. Give a YAML file you may read.") from error
        except yaml.YAMLError as error:
            raise TimarError(
                f"Robot profile {path} is not YAML: {error}. Compare it with config/robots/generic.yaml."
            ) from error
        return cls.from_dict(content, source=str(path))

    @classmethod
    def from_dict(cls, content: Any, source: str = "robot profile") -> "RobotProfile":
        """The profile that a YAML file's content describes; `source` names it in errors.

        Raises:
            TimarError: a key is missing, unknown or holds what it must not.
        """
        top = _Section(content, source)
        top.allow("name", "description", "base_frame", "pivot", "command", "joints", "face")
        entries = top.get("joints")
        if not isinstance(entries, list) or not 1 <= len(entries) <= len(AXES):
            raise TimarError(
                f"{source}: joints holds {entries!r}; expected a list of one to three joints from "
                "the base to the head. List those of the neck that turn the head."
            )
        joints = tuple(_joint(_Section(e, f"{source}: joint {i}")) for i, e in enumerate(entries))
        for what in ("name", "axis"):
            values = [getattr(joint, what) for joint in joints]
            if len(set(values)) < len(values):
                raise TimarError(
                    f"{source}: joints have the {what} {', '.join(values)}; expected each {what} "
                    f"once. Give every joint its own {what}."
                )
        names = tuple(joint.name for joint in joints)
        return cls(
            name=top.text("name"),
            joints=joints,
            command=_command(top.section("command"), COMMAND_KINDS, names),
            description=top.text("description", default=""),
            face=_face(top.section("face"), names) if top.content.get("face") is not None else None,
            base_frame=top.text("base_frame", default="base_link"),
            pivot=top.place_in_space("pivot"),
        )


def profile_names() -> list[str]:
    """The robots that come with the package."""
    return sorted(file.stem for file in Path(share_path("config", "robots")).glob("*.yaml"))


def controller_remappings(robot: str, controller: str) -> list[tuple[str, str]]:
    """What brings a neck's trajectories to another joint_trajectory_controller than the one its profile names.

    Args:
        robot: a profile's name or path; empty: generic.
        controller: the controller's name; empty: the profile's.

    Returns:
        (topic, topic instead); empty where the controller is the profile's.

    Raises:
        TimarError: as `RobotProfile.load`.
    """
    if not controller:
        return []
    topic = RobotProfile.load(robot or "generic").taking_trajectories().command.topic
    return [(topic, f"{controller}/joint_trajectory")]


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path).expanduser()
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if not path.is_file():
            raise TimarError(f"Robot profile {path} does not exist; expected a YAML file. Check the path.")
        return path
    folder = Path(share_path("config", "robots"))
    found = folder / f"{name_or_path}.yaml"
    if not found.is_file():
        known = ", ".join(profile_names()) or "none"
        raise TimarError(
            f"There is no robot profile named {str(name_or_path)!r}; expected one of: {known}, or "
            "the path of a YAML file. Choose one, or write a file after generic.yaml."
        )
    return found


class _Section:
    """A mapping of the file, whose values are fetched with their type and place checked."""

    def __init__(self, content: Any, place: str) -> None:
        if not isinstance(content, dict):
            raise TimarError(
                f"{place} holds {content!r}; expected keys with values. Compare it with config/robots/generic.yaml."
            )
        self.content = content
        self.place = place

    def allow(self, *keys: str) -> None:
        unknown = [str(key) for key in self.content if key not in keys]
        if unknown:
            raise TimarError(
                f"{self.place} has the unknown key {', '.join(unknown)}; expected only "
                f"{', '.join(keys)}. Correct or remove it."
            )

    def get(self, key: str) -> Any:
        if self.content.get(key) is None:
            raise TimarError(f"{self.place} lacks {key}. Add it as in config/robots/generic.yaml.")
        return self.content[key]

    def text(self, key: str, default: str | None = None) -> str:
        value = self.content.get(key, default) if default is not None else self.get(key)
        if not isinstance(value, str) or not (value or default == ""):
            raise TimarError(f"{self.place}: {key} is {value!r}; expected text. Write some text.")
        return value

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self.get(key)
        if value not in allowed:
            raise TimarError(
                f"{self.place}: {key} is {value!r}; expected one of {', '.join(allowed)}. Choose one of these."
            )
        return value

    def place_in_space(self, key: str) -> tuple[float, float, float]:
        value = self.content.get(key, [0.0, 0.0, 0.0])
        if not isinstance(value, list) or len(value) != 3 or not all(_is_number(v) for v in value):
            raise TimarError(f"{self.place}: {key} is {value!r}; expected [x, y, z] in m. Write three numbers.")
        return tuple(float(v) for v in value)

    def number(self, key: str, default: float | None = None, positive: bool = False) -> float:
        value = self.get(key) if default is None else self.content.get(key, default)
        if not _is_number(value) or (positive and value <= 0):
            wanted = "a number above 0" if positive else "a finite number"
            raise TimarError(f"{self.place}: {key} is {value!r}; expected {wanted} (in rad and seconds). Correct it.")
        return float(value)

    def section(self, key: str) -> "_Section":
        return _Section(self.get(key), f"{self.place}: {key}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _joint(section: _Section) -> Joint:
    section.allow("name", "axis", "sign", "gain", "offset", "limits")
    name = section.text("name")
    section.place += f" ({name})"
    sign = section.number("sign", default=1.0)
    if abs(sign) != 1.0:
        raise TimarError(
            f"{section.place}: sign is {sign:g}; expected 1 or -1. "
            "Put the direction into sign and any factor into gain."
        )
    limits = _limits(section.section("limits"))
    return Joint(
        name=name,
        axis=section.choice("axis", AXES),
        sign=sign,
        gain=section.number("gain", default=1.0, positive=True),
        offset=_within(section, "offset", limits, "where the head looks straight ahead"),
        limits=limits,
    )


def _limits(section: _Section) -> JointLimits:
    section.allow("position", "velocity", "acceleration", "jerk")
    position = section.section("position")
    position.allow("min", "max")
    lower, upper = position.number("min"), position.number("max")
    if lower >= upper:
        raise TimarError(
            f"{position.place}: min is {lower:g} and max is {upper:g} rad; expected min below max. "
            "Exchange or correct them."
        )
    return JointLimits(
        lower=lower,
        upper=upper,
        velocity=section.number("velocity", positive=True),
        acceleration=section.number("acceleration", positive=True),
        jerk=section.number("jerk", positive=True),
    )


def _within(section: _Section, key: str, limits: JointLimits, what: str) -> float:
    position = section.number(key, default=0.0)
    if not limits.lower <= position <= limits.upper:
        raise TimarError(
            f"{section.place}: {key} is {position:g} rad; expected a position within {limits.lower:g} to "
            f"{limits.upper:g} rad, as it is {what}. Correct it."
        )
    return position


def _command(section: _Section, kinds: tuple[str, ...], joints: tuple[str, ...]) -> Command:
    kind, topic = section.choice("kind", kinds), section.text("topic")
    if kind == "joint_trajectory":
        section.allow("kind", "topic", "stamp")
        options = {"stamp": section.choice("stamp", ("timeline", "zero"))} if "stamp" in section.content else {}
        return Command(kind, topic, options)
    if kind == "joint_state":
        section.allow("kind", "topic")
        return Command(kind, topic)
    options = {"rate_hz": section.number("rate_hz", default=_RATE_HZ[kind], positive=True)}
    options["order"] = tuple(section.content.get("order") or joints)
    if sorted(map(str, options["order"])) != sorted(joints):
        raise TimarError(
            f"{section.place}: order is {', '.join(map(str, options['order']))}; expected each of "
            f"{', '.join(joints)} once, in the order in which the controller lists its joints."
        )
    if kind == "forward_command":
        section.allow("kind", "topic", "rate_hz", "order")
        return Command(kind, topic, options)
    section.allow("kind", "topic", "rate_hz", "order", "full_speed")
    speeds = section.section("full_speed")
    speeds.allow(*joints)
    options["full_speed"] = {joint: speeds.number(joint, positive=True) for joint in joints}
    return Command(kind, topic, options)


# A forward command controller jumps from one value to the next, so they come often; NAOqi plans between its own.
_RATE_HZ = {"forward_command": 100.0, "joint_angles_with_speed": 25.0}


def _face(section: _Section, neck: tuple[str, ...]) -> Face:
    section.allow("command", "joints")
    entries = section.get("joints")
    if not isinstance(entries, list) or not entries:
        raise TimarError(
            f"{section.place}: joints holds {entries!r}; expected a list of the face's servos. "
            "List them, or leave face out for a robot without one."
        )
    joints = tuple(_face_joint(_Section(e, f"{section.place}: joint {i}")) for i, e in enumerate(entries))
    names = tuple(joint.name for joint in joints)
    if doubled := sorted({name for name in names if (*neck, *names).count(name) > 1}):
        raise TimarError(
            f"{section.place}: the joint {', '.join(doubled)} is named twice in neck and face; expected each once. "
            "Remove one."
        )
    return Face(joints, _command(section.section("command"), FACE_COMMAND_KINDS, names))


def _face_joint(section: _Section) -> FaceJoint:
    section.allow("name", "rest", "limits", "blendshapes")
    name = section.text("name")
    section.place += f" ({name})"
    weights = section.section("blendshapes")
    unknown = sorted(map(str, set(weights.content) - set(ARKIT_BLENDSHAPES)))
    if unknown:
        raise TimarError(
            f"{weights.place}: {', '.join(unknown)} is no ARKit blendshape; expected names such as jawOpen, "
            "eyeBlinkLeft or browInnerUp (timar_ros/channels.py lists all 52). Correct it."
        )
    limits = _limits(section.section("limits"))
    return FaceJoint(
        name,
        limits,
        {shape: weights.number(shape) for shape in weights.content},
        _within(section, "rest", limits, "where the servo rests"),
    )
