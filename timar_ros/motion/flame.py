"""FLAME motion (Li et al. 2017) as head rotation and ARKit blendshapes, and back.

A frame of FLAME motion is 56 numbers: 50 of expression, the jaw's and the neck's rotation vectors (axis-angle, rad)
about FLAME's axes: x to the subject's left, y up, z out of the face. The neck becomes the head's rotation and the
jaw's pitch `jawOpen` exactly. Expression has no names: which blendshapes it is follows from a matrix that the user
gives as a CSV file with the columns `blendshape`, `bias`, `expression0` ... `expression49`, one row a blendshape.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from timar_ros.channels import (
    ARKIT_BLENDSHAPES,
    HEAD_CHANNELS,
    MOTION_DIM,
    quaternion_from_rpy,
    rpy_from_quaternion,
)
from timar_ros.errors import TimarError

EXPRESSION, JAW, NECK = slice(0, 50), slice(50, 53), slice(53, 56)
FLAME_DIM = 56
FLAME_CHANNELS = (
    *(f"expression{i}" for i in range(50)),
    *(f"jaw_{axis}" for axis in "xyz"),
    *(f"neck_{axis}" for axis in "xyz"),
)
WIDE_OPEN_JAW_RAD = 0.35
# The expression map's name in a policy's folder.
EXPRESSION_FILE = "expression.csv"
_FACE = len(HEAD_CHANNELS)
_JAW_OPEN = _FACE + ARKIT_BLENDSHAPES.index("jawOpen")


@dataclass(frozen=True)
class ExpressionMap:
    """blendshapes = bias + matrix @ expression, for the rows it has; matrix [52, 50], bias [52]."""

    matrix: np.ndarray
    bias: np.ndarray

    @classmethod
    def load(cls, path: Path) -> ExpressionMap:
        """Read the CSV file.

        Raises:
            TimarError: it cannot be read, or a row is not a blendshape's name and 51 numbers.
        """
        wanted = ["blendshape", "bias", *FLAME_CHANNELS[EXPRESSION]]
        try:
            with path.open(newline="", encoding="utf-8") as file:
                header, *rows = list(csv.reader(file))
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise TimarError(f"{path} cannot be read as CSV ({error}); its first line must be the header") from error
        if header != wanted:
            raise TimarError(f"{path}: the header must be {','.join(wanted[:3])},...,{wanted[-1]}")
        matrix, bias = np.zeros((len(ARKIT_BLENDSHAPES), 50)), np.zeros(len(ARKIT_BLENDSHAPES))
        for line, (name, *numbers) in enumerate((row for row in rows if row), start=2):
            if name not in ARKIT_BLENDSHAPES:
                raise TimarError(f"{path}, line {line}: {name!r} is no ARKit blendshape; see ARFaceAnchor's names")
            try:
                values = np.array([float(number) for number in numbers])
            except ValueError as error:
                raise TimarError(f"{path}, line {line}: {error}; 51 numbers must follow the name") from error
            if values.shape != (51,) or not np.isfinite(values).all():
                raise TimarError(f"{path}, line {line}: 51 finite numbers must follow the name; {len(values)} do")
            row = ARKIT_BLENDSHAPES.index(name)
            bias[row], matrix[row] = values[0], values[1:]
        return cls(matrix, bias)


def rpy_from_neck(neck: np.ndarray) -> np.ndarray:
    """The neck's rotation vectors [n, 3] -> roll, pitch, yaw [n, 3] in rad (REP-103)."""
    x, y, z = np.asarray(neck, np.float64).T
    return rpy_from_quaternion(Rotation.from_rotvec(np.stack([z, x, y], axis=1)).as_quat())


def neck_from_rpy(rpy: np.ndarray) -> np.ndarray:
    """Roll, pitch, yaw [n, 3] in rad (REP-103) -> the neck's rotation vectors [n, 3]."""
    z, x, y = Rotation.from_quat(quaternion_from_rpy(rpy)).as_rotvec().T
    return np.stack([x, y, z], axis=1)


def from_flame(motion: np.ndarray, expression: ExpressionMap | None = None) -> np.ndarray:
    """FLAME motion [n, 56] -> [n, 55]: roll, pitch, yaw in rad (REP-103) and ARKit weights in [0, 1].

    Without an expression map only the jaw is known of the face; other weights are 0.
    """
    motion = np.asarray(motion, np.float64)
    result = np.zeros((len(motion), MOTION_DIM))
    result[:, :_FACE] = rpy_from_neck(motion[:, NECK])
    if expression is not None:
        result[:, _FACE:] = motion[:, EXPRESSION] @ expression.matrix.T + expression.bias
    result[:, _JAW_OPEN] = motion[:, JAW.start] / WIDE_OPEN_JAW_RAD
    result[:, _FACE:] = result[:, _FACE:].clip(0.0, 1.0)
    return result.astype(np.float32)


def to_flame(motion: np.ndarray, expression: ExpressionMap) -> np.ndarray:
    """[n, 55] -> FLAME [n, 56], the inverse where there is one: expression by least squares."""
    motion = np.asarray(motion, np.float64)
    result = np.zeros((len(motion), FLAME_DIM))
    result[:, NECK] = neck_from_rpy(motion[:, :_FACE])
    result[:, JAW.start] = motion[:, _JAW_OPEN] * WIDE_OPEN_JAW_RAD
    result[:, EXPRESSION] = (motion[:, _FACE:] - expression.bias) @ np.linalg.pinv(expression.matrix).T
    return result.astype(np.float32)
