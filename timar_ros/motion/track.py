"""Motion of one party, 25 frames a second, of either kind: ARKit-52 with head rotation, or FLAME-56."""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from timar_ros.channels import CHANNELS, HEAD_CHANNELS, MOTION_DIM
from timar_ros.errors import TimarError
from timar_ros.motion import flame

ARKIT, FLAME = "arkit", "flame"
GROUPS = ("exp", "jaw", "pose")
UNREADABLE = (
    OSError, ValueError, KeyError, AttributeError, EOFError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
"""What numpy raises on a `.npz` that breaks off, is damaged, or is something else."""
# Weights are in [0, 1]; trackers and noise pass a little beyond.
MOST_WEIGHT = 3.0
_JAW_CHANNELS = ("jawForward", "jawLeft", "jawRight", "jawOpen")
_JAW = [CHANNELS.index(name) for name in _JAW_CHANNELS]
_FACE = [i for i in range(len(HEAD_CHANNELS), MOTION_DIM) if i not in _JAW]
_JAW_OPEN = CHANNELS.index("jawOpen")


@dataclass(frozen=True)
class MotionTrack:
    """Motion of one party.

    Attributes:
        values: [n, 55] (channels of channels.py) or [n, 56] (motion/flame.py).
        kind: "arkit" or "flame".
    """

    values: np.ndarray
    kind: str = ARKIT

    def __len__(self) -> int:
        return len(self.values)

    def cut(self, frames: int) -> MotionTrack:
        """The first frames."""
        return MotionTrack(self.values[:frames], self.kind)

    def group(self, name: str) -> np.ndarray:
        """[n, k] of one group of the published metrics.

        `pose` is the neck's FLAME rotation vector (rad) for both kinds. `exp` and `jaw` are FLAME's 50 and 3, or the
        ARKit weights: the four of the jaw, and the other 48.
        """
        if self.kind == FLAME:
            return self.values[:, {"exp": flame.EXPRESSION, "jaw": flame.JAW, "pose": flame.NECK}[name]]
        if name == "pose":
            return flame.neck_from_rpy(self.values[:, : len(HEAD_CHANNELS)])
        return self.values[:, _FACE if name == "exp" else _JAW]

    def comparable(self, other: MotionTrack, name: str) -> bool:
        """Whether a group means the same in both: the pose always does."""
        return name == "pose" or self.kind == other.kind

    def rpy(self) -> np.ndarray:
        """[n, 3] roll, pitch, yaw of the head, rad, without jumps of a whole turn."""
        if self.kind == FLAME:
            return np.unwrap(flame.rpy_from_neck(self.values[:, flame.NECK]), axis=0)
        return np.unwrap(np.asarray(self.values[:, : len(HEAD_CHANNELS)], np.float64), axis=0)

    def mouth(self) -> np.ndarray:
        """[n] opening of the mouth: the weight of jawOpen, or the jaw's pitch over that of a wide-open mouth."""
        if self.kind == FLAME:
            return self.values[:, flame.JAW.start] / flame.WIDE_OPEN_JAW_RAD
        return self.values[:, _JAW_OPEN]

    def channel(self, name: str) -> np.ndarray | None:
        """[n] of one ARKit channel, None where this kind does not have it."""
        return self.values[:, CHANNELS.index(name)] if self.kind == ARKIT else None

    def shown(self) -> np.ndarray:
        """[n, 55] as the drawn head shows it: of FLAME motion the head's rotation and the jaw."""
        if self.kind == ARKIT:
            return np.asarray(self.values, np.float64)
        drawn = np.zeros((len(self), MOTION_DIM))
        drawn[:, : len(HEAD_CHANNELS)] = self.rpy()
        drawn[:, _JAW_OPEN] = np.clip(self.mouth(), 0.0, 1.0)
        return drawn


def track_of(values: np.ndarray) -> MotionTrack:
    """A policy's or a file's motion [n, 55] or [n, 56]; the width tells the kind.

    Raises:
        TimarError: another shape, nothing in it, or numbers that are not finite.
    """
    if values.ndim != 2 or values.shape[1] not in (MOTION_DIM, flame.FLAME_DIM) or not len(values):
        raise TimarError(
            f"motion has the shape {list(values.shape)}; expected [frames, {MOTION_DIM}] (head rotation and ARKit-52) "
            f"or [frames, {flame.FLAME_DIM}] (FLAME: expression, jaw, neck)"
        )
    if not np.isfinite(values).all():
        raise TimarError("motion holds numbers that are not finite; repair or cut the recording")
    return MotionTrack(values, FLAME if values.shape[1] == flame.FLAME_DIM else ARKIT)


def load_motion(path: str | Path) -> MotionTrack:
    """A `.npz` with `exp` [n, 50] and `pose` [n, 6] (DualTalk: neck, jaw), or with `motion` [n, 55 or 56].

    Where `motion` comes with `channels`, they are put in the package's order.

    Raises:
        TimarError: it is not there or of neither form.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            held = {name: arrays[name] for name in arrays.files}
    except UNREADABLE as error:
        raise TimarError(f"{path} cannot be read as motion ({error}); give a .npz file") from error
    try:
        if {"exp", "pose"} <= held.keys():
            expression, pose = held["exp"], held["pose"]
            if expression.shape[1:] != (50,) or pose.shape[1:] != (6,) or len(expression) != len(pose):
                raise TimarError(
                    f"`exp` has the shape {list(expression.shape)} and `pose` {list(pose.shape)}; "
                    "expected [frames, 50] and [frames, 6]"
                )
            return track_of(np.concatenate([expression, pose[:, 3:6], pose[:, 0:3]], axis=1))
        if "motion" in held:
            return _in_units(track_of(_in_order(held["motion"], held.get("channels"))))
    except TimarError as error:
        raise TimarError(f"{path}: {error}") from error
    raise TimarError(
        f"{path} holds {', '.join(sorted(held)) or 'nothing'}; expected `exp` and `pose` (FLAME, as in DualTalk) or "
        "`motion`, at 25 frames a second"
    )


def _in_units(track: MotionTrack) -> MotionTrack:
    """The same; refused where its numbers can be neither rad nor weights, as in degrees or percent."""
    if track.kind == ARKIT and len(track):
        rotation, weights = np.split(track.values, [len(HEAD_CHANNELS)], axis=1)
        if np.abs(rotation).max() > 2 * np.pi or np.abs(weights).max() > MOST_WEIGHT:
            raise TimarError(
                f"`motion` holds rotations of up to {np.abs(rotation).max():.3g} and weights of up to "
                f"{np.abs(weights).max():.3g}; rad and weights in [0, 1] are expected"
            )
    return track


def _in_order(motion: np.ndarray, channels: np.ndarray | None) -> np.ndarray:
    names = [] if channels is None else [str(name) for name in channels]
    if lacking := [name for name in CHANNELS if name not in names]:
        if names and np.ndim(motion) == 2 and motion.shape[1] == len(CHANNELS):
            raise TimarError(f"`channels` lacks {', '.join(lacking[:5])}; expected the names of timar_ros/channels.py")
        return motion
    if motion.ndim != 2 or motion.shape[1] != len(names):
        raise TimarError(f"`motion` has the shape {list(motion.shape)} but `channels` {len(names)} names")
    return motion[:, [names.index(name) for name in CHANNELS]]
