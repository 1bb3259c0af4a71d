"""A smooth path through head positions that arrive a few frames at a time.

From a given state the path passes close to the frames that are known and to a guess of the next
few, with as little jerk as possible: it minimises

    sum over frames (position - target)^2  +  tau^6 / frame * integral of jerk^2,

a smoothing spline of fifth order in the limit, here with jerk constant in steps. `tau` is the time
scale below which motion is smoothed away. The guess beyond the known frames keeps the velocity at
the end of one hop fit for the next, without which such a recursion swings ever further.
"""

import numpy as np

from timar_ros.rates import FRAME_S

# In the guess the velocity, changed once more by this share of its last change, shrinks by this
# factor each frame: heads move in strokes of a few tenths of a second. More of either shortens the
# lag behind fast motion and lengthens the swing past its ends.
_CHANGE_SHARE = 0.5
_VELOCITY_KEPT = 0.8


def continuation(past: np.ndarray, frames: int) -> np.ndarray:
    """A guess of the next positions: the motion goes on and slows down.

    Args:
        past: [3, J] the last three frames, the newest last.
        frames: how many to guess.

    Returns:
        [frames, J]
    """
    velocity = past[2] - past[1]
    change = velocity - (past[1] - past[0])
    reach = np.cumsum(_VELOCITY_KEPT ** np.arange(1, frames + 1))
    return past[2] + reach[:, None] * (velocity + _CHANGE_SHARE * change)


class SmoothPath:
    """The smoothest paths over given steps of constant jerk through targets at given times."""

    def __init__(self, knots_s: np.ndarray, due_s: np.ndarray) -> None:
        """
        Args:
            knots_s: [m + 1] s, rising from 0: where the jerk may change, and the end.
            due_s: [f] s within these: when each target is due.
        """
        since = np.maximum(due_s[:, None] - knots_s[None, :], 0.0) ** 3 / 6.0
        self._response = since[:, :-1] - since[:, 1:]  # [f, m] position due to unit jerk
        self._free = np.stack([np.ones_like(due_s), due_s, due_s**2 / 2.0], axis=1)
        self._steps_s = np.diff(knots_s)
        self._gains: dict[float, np.ndarray] = {}

    def jerks(self, state: np.ndarray, targets: np.ndarray, tau_s: float) -> np.ndarray:
        """The jerk in each step.

        Args:
            state: [3] or [3, J] position, velocity, acceleration at time 0.
            targets: [f] or [f, J] positions.
            tau_s: s, smoothing time scale.

        Returns:
            [m] or [m, J]
        """
        return self._gain(tau_s) @ (targets - self._free @ state)

    def _gain(self, tau_s: float) -> np.ndarray:
        """[m, f] jerk due to a unit of distance between targets and the motion without jerk."""
        if tau_s not in self._gains:
            back = (self._response / (tau_s**6 / FRAME_S * self._steps_s)).T
            cost = self._response @ back + np.eye(len(self._response))
            self._gains[tau_s] = np.linalg.solve(cost, back.T).T
        return self._gains[tau_s]
