"""Idle life: what a head does while nobody speaks. It breathes, blinks and looks around slightly.

A pure function of time and seed, so that a replay shows the same. Events fall one to a slot of time, at a place in it
that a hash of seed and slot tells: any moment can be computed by itself.

Figures: breathing at rest 12 to 20 a minute; 17 blinks a minute, each closed for 100 to 150 ms (Bentivoglio 1997);
large gaze shifts come with a blink.
"""

import numpy as np

from timar_ros.channels import ARKIT_BLENDSHAPES, HEAD_CHANNELS, MOTION_DIM

_BREATH_S = 4.2
_BREATH_PITCH = np.radians(0.5)
_BLINK_SLOT_S = 60.0 / 17.0
# Seconds since a blink began, and how far the lids are closed then.
_BLINK_S = (0.0, 0.06, 0.08, 0.19, 0.28)
_BLINK_CLOSED = (0.0, 0.9, 1.0, 1.0, 0.0)
_GLANCE_SLOT_S = 5.0
_GLANCE_S = 0.7
_GLANCE_SD = np.radians([1.0, 1.5, 4.5])  # roll, pitch, yaw
_GLANCE_MOST = 2.0  # standard deviations
# The eyes run ahead of the head and come back as it arrives.
_EYES_AHEAD_S = 0.12
_EYE_RANGE = np.radians(25.0)  # weight 1 of an eyeLook blendshape

_SHAPE = {name: len(HEAD_CHANNELS) + i for i, name in enumerate(ARKIT_BLENDSHAPES)}


class IdleLife:
    """Motion of a head that waits, at any time."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def at(self, times_s: np.ndarray) -> np.ndarray:
        """[n, 55] motion in the channels of `timar_ros.channels` at `times_s` [n], s, on any clock."""
        times_s = np.asarray(times_s, dtype=np.float64)
        motion = np.zeros((len(times_s), MOTION_DIM))
        head = self._look(times_s)
        ahead = self._look(times_s + _EYES_AHEAD_S) - head
        head[:, 1] += _BREATH_PITCH * np.sin(2.0 * np.pi * times_s / _BREATH_S)
        motion[:, : len(HEAD_CHANNELS)] = head
        look_eyes(motion, ahead[:, 1:])
        blink = self._blink(times_s)
        motion[:, _SHAPE["eyeBlinkLeft"]] = blink
        motion[:, _SHAPE["eyeBlinkRight"]] = blink
        return motion

    def _look(self, times_s: np.ndarray) -> np.ndarray:
        """[n, 3] roll, pitch, yaw: from one place to the next in strokes of least jerk (Flash and Hogan 1985)."""
        slots = np.floor(times_s / _GLANCE_SLOT_S).astype(np.int64)
        looked = np.empty((len(times_s), 3))
        for slot in np.unique(slots):
            before, (start_s, place) = self._glance(slot - 1)[1], self._glance(slot)
            inside = slots == slot
            done = np.clip((times_s[inside] - start_s) / _GLANCE_S, 0.0, 1.0)[:, None]
            looked[inside] = before + (place - before) * done**3 * (10.0 + done * (6.0 * done - 15.0))
        return looked

    def _glance(self, slot: int) -> tuple[float, np.ndarray]:
        """When in a slot the head turns, s, and where to: roll, pitch, yaw."""
        draw = self._draws(slot, 0)
        place = np.clip(draw.standard_normal(3), -_GLANCE_MOST, _GLANCE_MOST) * _GLANCE_SD
        return (slot + draw.uniform(0.1, 0.8)) * _GLANCE_SLOT_S, place

    def _blink(self, times_s: np.ndarray) -> np.ndarray:
        """[n] how far the lids are closed."""
        slots = np.floor(times_s / _BLINK_SLOT_S).astype(np.int64)
        closed = np.empty(len(times_s))
        for slot in np.unique(slots):
            start_s = (slot + self._draws(slot, 1).uniform(0.0, 0.9)) * _BLINK_SLOT_S
            inside = slots == slot
            closed[inside] = np.interp(times_s[inside] - start_s, _BLINK_S, _BLINK_CLOSED)
        return closed

    def _draws(self, slot: int, stream: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=self._seed, counter=[int(slot) % 2**63, stream, 0, 0]))


def look_eyes(motion: np.ndarray, pitch_yaw: np.ndarray) -> None:
    """Turn the eyes of `motion` [n, 55] by `pitch_yaw` [n, 2] rad against the head, beside what they do already."""
    down, left = (np.clip(pitch_yaw / _EYE_RANGE, -1.0, 1.0)).T
    for side, out in (("Left", left), ("Right", -left)):
        shifts = {"Down": down, "Up": -down, "Out": out, "In": -out}
        for direction, shift in shifts.items():
            column = _SHAPE[f"eyeLook{direction}{side}"]
            motion[:, column] = np.clip(motion[:, column] + np.maximum(shift, 0.0), 0.0, 1.0)
