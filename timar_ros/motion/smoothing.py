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

    def __init__(self, knots_s: np.ndarray, due_s: np.ndarray, taus_s: tuple[float, ...]) -> None:
        """
        Args:
            knots_s: [m + 1] s, rising from 0: where the jerk may change, and the end.
            due_s: [f] s within these: when each target is due.
            taus_s: s, the smoothing time scales to find paths for.
        """
        since = np.maximum(due_s[:, None] - knots_s[None, :], 0.0) ** 3 / 6.0
        response = since[:, :-1] - since[:, 1:]  # [f, m] position due to unit jerk
        self._free = np.stack([np.ones_like(due_s), due_s, due_s**2 / 2.0], axis=1)
        back = response / (np.array(taus_s)[:, None, None] ** 6 / FRAME_S * np.diff(knots_s))
        cost = back @ response.T + np.eye(len(due_s))
        self._gain = np.linalg.solve(cost, back).transpose(0, 2, 1)  # [T, m, f]

    def jerks(self, state: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """The jerk in each step, for every time scale.

        Args:
            state: [3, J] position, velocity, acceleration at time 0.
            targets: [f, J] positions.

        Returns:
            [T, m, J]
        """
        return self._gain @ (targets - self._free @ state)
