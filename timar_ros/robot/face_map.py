"""What ARKit blendshapes do to the joints of a face: one linear map, for simulated and real faces alike.

    position = rest + sum of (gain * weight), kept within the joint's limits

A face map is a YAML file, its joints written as those of the face in a robot's profile. `config/faces/head.yaml` is
that of `urdf/head.urdf`, and the pattern for others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from timar_ros.channels import ARKIT_BLENDSHAPES
from timar_ros.errors import TimarError
from timar_ros.resources import share_path

_COMPARE = "Compare it with config/faces/head.yaml."


@dataclass(frozen=True)
class FaceMap:
    """Joints of a face (J) and what the 52 blendshapes do to them; rad, or m for joints that slide."""

    name: str
    joint_names: tuple[str, ...]
    gains: np.ndarray  # float64 [J, 52], per unit of weight
    rest: np.ndarray  # float64 [J], where the face is at rest
    lower: np.ndarray  # float64 [J]
    upper: np.ndarray  # float64 [J]

    def joints(self, weights: np.ndarray) -> np.ndarray:
        """Joint positions of a face.

        Args:
            weights: [..., 52] in the order of `ARKIT_BLENDSHAPES`; what is not finite counts as 0, and what is
                outside [0, 1] is cut.

        Returns:
            float64 [..., J], within the limits.
        """
        weights = np.clip(np.nan_to_num(np.asarray(weights, np.float64), posinf=1.0, neginf=0.0), 0.0, 1.0)
        return np.clip(weights @ self.gains.T + self.rest, self.lower, self.upper)

    @classmethod
    def load(cls, name_or_path: str | Path) -> FaceMap:
        """The face map under config/faces of that name, or a YAML file by its path.

        Raises:
            TimarError: no such face or file, or the file breaks a rule; the sentence names both.
        """
        path = Path(name_or_path).expanduser()
        if path.suffix not in (".yaml", ".yml") and len(path.parts) == 1:
            folder = share_path("config", "faces")
            path = folder / f"{name_or_path}.yaml"
            if not path.is_file():
                known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
                raise TimarError(
                    f"There is no face map named {str(name_or_path)!r}; expected one of: {known}, or the path of a "
                    "YAML file. Choose one, or write a file after config/faces/head.yaml."
                )
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise TimarError(f"Face map {path} cannot be read: {error}. Give a YAML file you may read.") from error
        except yaml.YAMLError as error:
            raise TimarError(f"Face map {path} is not YAML: {error}. {_COMPARE}") from error
        return cls.from_dict(content, source=str(path))

    @classmethod
    def from_dict(cls, content: Any, source: str = "face map") -> FaceMap:
        """The face map that a YAML file's content describes; `source` names it in errors.

        Raises:
            TimarError: a key is missing, unknown or holds what it must not.
        """
        top = _mapping(content, source, ("name", "joints"))
        entries = top["joints"]
        if not isinstance(entries, list) or not entries:
            raise TimarError(f"{source}: joints holds {entries!r}; expected a list. {_COMPARE}")
        names: list[str] = []
        gains, numbers = np.zeros((len(entries), len(ARKIT_BLENDSHAPES))), np.zeros((3, len(entries)))
        for row, entry in enumerate(entries):
            place = f"{source}: joint {row}"
            fields = _mapping(entry, place, ("name", "blendshapes", "limits"), ("rest",))
            name = str(fields["name"])
            place += f" ({name})"
            if name in names:
                raise TimarError(f"{place} is listed twice; expected each joint once. Remove one.")
            limits = _mapping(fields["limits"], f"{place}: limits").get("position")
            limits = _mapping(limits, f"{place}: limits: position", ("min", "max"))
            lower, upper = (_number(limits[key], f"{place}: limits: {key}") for key in ("min", "max"))
            rest = _number(fields.get("rest", 0.0), f"{place}: rest")
            if not lower <= rest <= upper or lower == upper:
                raise TimarError(
                    f"{place}: rest is {rest:g} with limits from {lower:g} to {upper:g}; expected min below max and "
                    "the position at rest between them. Correct it."
                )
            for blendshape, gain in _mapping(fields["blendshapes"], f"{place}: blendshapes").items():
                if blendshape not in ARKIT_BLENDSHAPES:
                    raise TimarError(
                        f"{place}: {blendshape} is no ARKit blendshape; expected a name such as jawOpen or "
                        "mouthSmileLeft (all are in timar_ros/channels.py). Correct it."
                    )
                gains[row, ARKIT_BLENDSHAPES.index(blendshape)] = _number(gain, f"{place}: {blendshape}")
            names.append(name)
            numbers[:, row] = rest, lower, upper
        return cls(str(top["name"]), tuple(names), gains, *numbers)


def weights_by_name(names: Sequence[str], values: Sequence[float]) -> np.ndarray:
    """float64 [52]: blendshapes as a JointState message names them, in the order of `ARKIT_BLENDSHAPES`.

    Names that are no blendshapes are passed over; those that are not named are 0.
    """
    given = dict(zip(names, values, strict=False))
    return np.array([given.get(name, 0.0) for name in ARKIT_BLENDSHAPES])


def _mapping(value: Any, place: str, required: tuple[str, ...] = (), optional: tuple[str, ...] = ()) -> dict:
    """`value` where it is a filled mapping, with these keys and no others where any are given."""
    if not isinstance(value, dict) or not value:
        raise TimarError(f"{place} holds {value!r}; expected a mapping. {_COMPARE}")
    missing = [key for key in required if key not in value]
    unknown = [str(key) for key in value if required and key not in required + optional]
    if missing or unknown:
        wrong = f"lacks {', '.join(missing)}" if missing else f"has the unknown key {', '.join(unknown)}"
        raise TimarError(f"{place} {wrong}; expected {', '.join(required + optional)}. {_COMPARE}")
    return value


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TimarError(
            f"{place} is {value!r}; expected a finite number (rad, or m where the joint slides). Correct it."
        )
    return float(value)
