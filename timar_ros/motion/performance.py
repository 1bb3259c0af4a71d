"""What the head shows: the policy's motion, idle life where nobody speaks, and the gaze beneath both."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from timar_ros.channels import HEAD_CHANNELS
from timar_ros.motion.gaze import Gaze
from timar_ros.motion.idle import IdleLife
from timar_ros.motion.retarget import head_rotations
from timar_ros.rates import FRAME_S

_HEAD = len(HEAD_CHANNELS)
# Sound that no voice sent for this long is stale: the policy's motion, which rests on it, fades.
STALE_S = 0.5
# Silence of both that is no pause between turns any more.
_QUIET_S = 1.0
# A voice that comes back finds the lips moving at once; all else goes over slowly.
_FADE_IN_S = 0.2
_FADE_S = 1.0


@dataclass(frozen=True)
class Shown:
    """What the head is to show in some frames: `rotations` [n, 4] (x, y, z, w), `face` [n, 52] weights in [0, 1]."""

    rotations: np.ndarray
    face: np.ndarray


class Performance:
    """Mixes motion frame after frame; call `step` for every hop, in order."""

    def __init__(self, seed: int = 0) -> None:
        self.gaze = Gaze()
        self._idle = IdleLife(seed)
        self._policy_fade = 0.0
        self._idle_fade = 0.0
        self._unheard_s = np.inf
        self._quiet_s = np.inf

    @property
    def stale(self) -> bool:
        """Whether no sound has come for half a second."""
        return self._unheard_s >= STALE_S

    def step(
        self,
        motion: np.ndarray,
        heard: Sequence[bool],
        quiet: Sequence[bool],
        times_s: np.ndarray,
        intensity: float = 1.0,
        idle_life: bool = True,
    ) -> Shown:
        """The next frames.

        Args:
            motion: [n, 55] the policy's.
            heard: for each frame, whether sound came of either voice.
            quiet: for each frame, whether nobody has the floor.
            times_s: [n] s, the frames' times on a clock that goes on; idle life is a function of it.
            intensity: factor on the head's rotation, except for the gaze.
            idle_life: whether the head shows any.
        """
        weights = np.array([self._weights(*frame, idle_life) for frame in zip(heard, quiet, strict=True)])
        policy, idle = smooth(weights).T[:, :, None]
        alive = idle * self._idle.at(times_s) if idle.any() else np.zeros_like(motion)
        head = policy * motion[:, :_HEAD] + alive[:, :_HEAD]
        face = np.clip(np.maximum(policy * motion[:, _HEAD:], alive[:, _HEAD:]), 0.0, 1.0)
        offsets = head_rotations(head, intensity)
        if not self.gaze.straight_ahead:
            offsets = (Rotation.from_quat(self.gaze.step(len(motion))) * Rotation.from_quat(offsets)).as_quat()
        return Shown(offsets, face)

    def _weights(self, heard: bool, quiet: bool, idle_life: bool) -> tuple[float, float]:
        """How far the policy and idle life are faded in, in [0, 1], in the next frame."""
        self._unheard_s = 0.0 if heard else self._unheard_s + FRAME_S
        self._quiet_s = self._quiet_s + FRAME_S if quiet else 0.0
        alone = self.stale or self._quiet_s >= _QUIET_S
        self._policy_fade = _faded(self._policy_fade, not self.stale, _FADE_IN_S)
        self._idle_fade = _faded(self._idle_fade, idle_life and alone, _FADE_S)
        return self._policy_fade, self._idle_fade


def smooth(share: np.ndarray) -> np.ndarray:
    """A share in [0, 1] eased at both ends."""
    return share * share * (3.0 - 2.0 * share)


def _faded(fade: float, wanted: bool, fade_in_s: float) -> float:
    return min(fade + FRAME_S / fade_in_s, 1.0) if wanted else max(fade - FRAME_S / _FADE_S, 0.0)
