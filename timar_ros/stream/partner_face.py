"""The partner's face, when a tracker publishes it: the newest head pose and blendshapes for a frame's time."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from timar_ros.channels import CHANNELS, HEAD_CHANNELS, MOTION_DIM, rpy_from_quaternion

# A tracker at 10 Hz with a lost picture or two still counts as seen.
LONGEST_AGE_NS = 300_000_000
_KEPT = 64
_PLACE = {name: i for i, name in enumerate(CHANNELS)}


class PartnerFace:
    """Collects what trackers publish; `at` gives what is known at a time."""

    def __init__(self) -> None:
        self._poses: deque[tuple[int, np.ndarray]] = deque(maxlen=_KEPT)
        self._faces: deque[tuple[int, np.ndarray]] = deque(maxlen=_KEPT)

    def push_blendshapes(self, stamp_ns: int, names: Sequence[str], weights: Sequence[float]) -> None:
        """Weights in [0, 1] by ARKit name; unknown names and numbers that are not finite are left out."""
        face = np.full(MOTION_DIM, np.nan, np.float32)
        for name, weight in zip(names, weights, strict=False):
            place = _PLACE.get(name)
            if place is not None and place >= len(HEAD_CHANNELS) and np.isfinite(weight):
                face[place] = min(max(weight, 0.0), 1.0)
        if not np.isnan(face).all():
            self._faces.append((stamp_ns, face))

    def push_pose(self, stamp_ns: int, quaternion: Sequence[float]) -> None:
        """Head rotation as x, y, z, w in REP-103's axes; one that is no rotation is left out."""
        quaternion = np.asarray(quaternion, float)
        norm = np.linalg.norm(quaternion)
        if np.isfinite(norm) and norm > 0.5:
            self._poses.append((stamp_ns, rpy_from_quaternion(quaternion / norm).astype(np.float32)))

    def at(self, time_ns: int) -> np.ndarray | None:
        """Motion [55] as of `time_ns`, NaN where a channel is not known; None when nothing is."""
        pose, face = _newest(self._poses, time_ns), _newest(self._faces, time_ns)
        if pose is None and face is None:
            return None
        motion = np.full(MOTION_DIM, np.nan, np.float32) if face is None else face.copy()
        if pose is not None:
            motion[: len(HEAD_CHANNELS)] = pose
        return motion


def _newest(entries: deque[tuple[int, np.ndarray]], time_ns: int) -> np.ndarray | None:
    for stamp_ns, values in reversed(entries):
        if stamp_ns <= time_ns:
            return values if time_ns - stamp_ns <= LONGEST_AGE_NS else None
    return None
