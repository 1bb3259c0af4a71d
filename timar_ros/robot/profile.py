"""What the software must know of one robot's head: its joints, their limits, how it is commanded.

A profile is a YAML file. Those that come with the package lie in `config/robots/`; `generic.yaml`
there shows and explains every key. A new robot is a new file, no code, as long as its head is a
chain of one to three joints about different axes and takes a kind of command in `COMMAND_KINDS`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from timar_ros.errors import TimarError
from timar_ros.resources import share_path

AXES = ("roll", "pitch", "yaw")
COMMAND_KINDS = ("joint_trajectory",)


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
    """How the head takes commands: one of `COMMAND_KINDS`, the topic, and what else that needs."""

    kind: str
    topic: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RobotProfile:
    """One robot's head. `joints` are in chain order, from the base to the head."""

    name: str
    joints: tuple[Joint, ...]
    command: Command
    description: str = ""

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
        top.allow("name", "description", "command", "joints")
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
        return cls(
            name=top.text("name"),
            joints=joints,
            command=_command(_Section(top.get("command"), f"{source}: command")),
            description=top.text("description", default=""),
        )


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path).expanduser()
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if not path.is_file():
            raise TimarError(f"Robot profile {path} does not exist; expected a YAML file. Check the path.")
        return path
    folder = Path(share_path("config", "robots"))
    found = folder / f"{name_or_path}.yaml"
    if not found.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
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

    def number(self, key: str, default: float | None = None, positive: bool = False) -> float:
        value = self.get(key) if default is None else self.content.get(key, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or (positive and value <= 0):
            wanted = "a number above 0" if positive else "a finite number"
            raise TimarError(f"{self.place}: {key} is {value!r}; expected {wanted} (in rad and seconds). Correct it.")
        return float(value)

    def section(self, key: str) -> "_Section":
        return _Section(self.get(key), f"{self.place}: {key}")


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
    limits = section.section("limits")
    limits.allow("position", "velocity", "acceleration", "jerk")
    position = limits.section("position")
    position.allow("min", "max")
    lower, upper = position.number("min"), position.number("max")
    if lower >= upper:
        raise TimarError(
            f"{position.place}: min is {lower:g} and max is {upper:g} rad; expected min below max. "
            "Exchange or correct them."
        )
    offset = section.number("offset", default=0.0)
    if not lower <= offset <= upper:
        raise TimarError(
            f"{section.place}: offset is {offset:g} rad; expected a position within {lower:g} to "
            f"{upper:g} rad, as it is where the head looks straight ahead. Correct it."
        )
    return Joint(
        name=name,
        axis=section.choice("axis", AXES),
        sign=sign,
        gain=section.number("gain", default=1.0, positive=True),
        offset=offset,
        limits=JointLimits(
            lower=lower,
            upper=upper,
            velocity=limits.number("velocity", positive=True),
            acceleration=limits.number("acceleration", positive=True),
            jerk=limits.number("jerk", positive=True),
        ),
    )


def _command(section: _Section) -> Command:
    options = {k: v for k, v in section.content.items() if k not in ("kind", "topic")}
    return Command(kind=section.choice("kind", COMMAND_KINDS), topic=section.text("topic"), options=options)
