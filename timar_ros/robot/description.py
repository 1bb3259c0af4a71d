"""What a robot's URDF (a file, or the topic `robot_description`) says of the joints of its head."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from timar_ros.errors import TimarError
from timar_ros.robot.profile import JointLimits, RobotProfile


@dataclass(frozen=True)
class DescribedJoint:
    """One joint: its limits, infinite where there is none, and its axis [3] in the robot's root frame at zero."""

    limits: JointLimits
    axis: np.ndarray


def read_description(urdf: str) -> dict[str, DescribedJoint]:
    """The joints of a URDF that turn, by name.

    Limits of position are the soft ones of `safety_controller` where they are tighter; acceleration and jerk are read
    from `limit` where it has them. A speed, acceleration or jerk that is not above zero counts as not given.

    Raises:
        TimarError: this is no URDF, or one with a limit that is no number, or an axis or origin that is not three.
    """
    try:
        root = ET.fromstring(urdf)
    except ET.ParseError as error:
        raise TimarError(f"robot_description is no XML ({error}); expected a URDF. Check what publishes it.") from error
    if root.tag != "robot":
        raise TimarError(f"robot_description begins with <{root.tag}>; expected the <robot> of a URDF.")
    elements = {joint.get("name", ""): joint for joint in root.findall("joint")}
    parents = {_link(joint, "child"): joint for joint in elements.values()}
    turning = ("revolute", "continuous")
    return {name: _described(name, j, parents) for name, j in elements.items() if j.get("type") in turning}


def read_description_file(path: Path) -> dict[str, DescribedJoint]:
    """As `read_description`, of a file.

    Raises:
        TimarError: it cannot be read, and as `read_description`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TimarError(
            f"{path} cannot be read ({error}); give a URDF file (of a xacro: what xacro prints)"
        ) from error
    return read_description(text)


def tightened(
    profile: RobotProfile, described: Mapping[str, DescribedJoint]
) -> tuple[RobotProfile, list[str], list[str]]:
    """The profile with the tighter of its own and the described limits, what that changed, and what is wrong, in words.

    A joint whose described range does not overlap the profile's, or leaves out its rest position, keeps its own.
    """
    limits, changes, faults = {}, [], []
    for joint in profile.joints:
        if joint.name not in described:
            faults.append(f"{joint.name} is no joint of robot_description, so its limits are the profile's alone")
            continue
        own, other = joint.limits, described[joint.name].limits
        both = JointLimits(
            max(own.lower, other.lower),
            min(own.upper, other.upper),
            min(own.velocity, other.velocity),
            min(own.acceleration, other.acceleration),
            min(own.jerk, other.jerk),
        )
        if not both.lower < both.upper or not both.lower <= joint.offset <= both.upper:
            faults.append(
                f"{joint.name} may go from {other.lower:.3f} to {other.upper:.3f} rad by robot_description, which "
                f"leaves out where the head looks straight ahead ({joint.offset:.3f} rad); the profile's range is kept"
            )
            both = replace(both, lower=own.lower, upper=own.upper)
        limits[joint.name] = both
        changes += [
            f"{joint.name}: {name} {getattr(own, name):.4g} -> {getattr(both, name):.4g}"
            for name in ("lower", "upper", "velocity", "acceleration", "jerk")
            if getattr(own, name) != getattr(both, name)
        ]
    return profile.with_limits(limits), changes, faults


def _described(name: str, joint: ET.Element, parents: Mapping[str, ET.Element]) -> DescribedJoint:
    limit = joint.find("limit")
    soft = joint.find("safety_controller")
    ranged = joint.get("type") == "revolute"

    def number(element: ET.Element | None, key: str, missing: float) -> float:
        if element is None or element.get(key) is None:
            return missing
        try:
            return float(element.get(key))
        except ValueError as error:
            raise TimarError(
                f"robot_description: joint {name} has {key}={element.get(key)!r}; expected a number. Correct the URDF."
            ) from error

    def bound(key: str, worst: float) -> float:
        return number(limit, key, 0.0) if ranged and limit is not None else worst

    def highest(key: str) -> float:
        value = number(limit, key, np.inf)
        return value if value > 0 else np.inf

    return DescribedJoint(
        JointLimits(
            max(bound("lower", -np.inf), number(soft, "soft_lower_limit", -np.inf)),
            min(bound("upper", np.inf), number(soft, "soft_upper_limit", np.inf)),
            highest("velocity"),
            min(highest("acceleration"), highest("deceleration")),
            highest("jerk"),
        ),
        _axis_in_root(joint, parents),
    )


def _axis_in_root(joint: ET.Element, parents: Mapping[str, ET.Element]) -> np.ndarray:
    direction = np.array(_three(joint, "axis", "xyz") or [1.0, 0.0, 0.0])
    above: ET.Element | None = joint
    passed: set[str] = set()
    while above is not None:
        link = _link(above, "parent")
        if link in passed:
            raise TimarError(f"robot_description: the link {link} is above itself; expected a tree. Correct the URDF.")
        passed.add(link)
        direction = Rotation.from_euler("xyz", _three(above, "origin", "rpy") or [0.0] * 3).apply(direction)
        above = parents.get(link)
    return direction / (np.linalg.norm(direction) or 1.0)


def _three(joint: ET.Element, tag: str, key: str) -> list[float] | None:
    element = joint.find(tag)
    text = None if element is None else element.get(key)
    if not text:
        return None
    try:
        numbers = [float(number) for number in text.split()]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not np.isfinite(numbers).all():
        raise TimarError(
            f"robot_description: joint {joint.get('name')} has an {tag} with {key}={text!r}; expected three numbers. "
            "Correct the URDF."
        )
    return numbers


def _link(joint: ET.Element, role: str) -> str:
    element = joint.find(role)
    return "" if element is None else element.get("link", "")
