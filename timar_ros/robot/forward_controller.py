"""What a forward_command_controller does: it is sent positions, not trajectories, and holds the last ones."""

from collections.abc import Sequence

import numpy as np

from timar_ros.robot.trajectory_controller import JointMotion, TrajectoryRefusedError

_SAME_RAD = 1e-9
"""A sender that has paused goes on from where it stopped."""


class ForwardCommandController:
    """Takes positions that come at a steady rate, and tells the motion that they make.

    The time of arrival jitters; so what was planned is told from the rate: speed and acceleration are differences
    between consecutive positions, one period apart.
    """

    def __init__(self, order: Sequence[str], joints: Sequence[str], rate_hz: float, initial: Sequence[float]) -> None:
        """`order` is that of the messages, `joints` that of the motion; `initial` positions [J] rad."""
        self.order = list(order)
        self._columns = [self.order.index(name) for name in joints]
        self._period_ns = round(1e9 / rate_hz)
        self._arrived_ns: int | None = None
        self._time_ns = 0
        zero = np.zeros(len(joints))
        self._motion = JointMotion(np.array(initial, dtype=np.float64), zero, zero)

    def accept(self, positions: Sequence[float], now_ns: int) -> tuple[int, JointMotion]:
        """Take the positions of one message; when they are to be counted, ns, and the motion then.

        Raises TrajectoryRefusedError, holding the position as it was.
        """
        values = np.array(positions, dtype=np.float64)
        if values.shape != (len(self.order),):
            raise TrajectoryRefusedError(
                f"the message has {len(values)} positions and the controller has {len(self.order)} joints: "
                f"{', '.join(self.order)}"
            )
        if not np.isfinite(values).all():
            raise TrajectoryRefusedError(f"the message has positions that are not finite: {values.tolist()}")
        values = values[self._columns]
        paused = self._arrived_ns is None or (
            now_ns - self._arrived_ns > 2 * self._period_ns
            and np.allclose(values, self._motion.positions, rtol=0.0, atol=_SAME_RAD)
        )
        self._arrived_ns = now_ns
        self._time_ns = now_ns if paused else self._time_ns + self._period_ns
        zero = np.zeros_like(values)
        if paused:
            self._motion = JointMotion(values, zero, zero)
        else:
            seconds = self._period_ns * 1e-9
            velocities = (values - self._motion.positions) / seconds
            self._motion = JointMotion(values, velocities, (velocities - self._motion.velocities) / seconds)
        return self._time_ns, self._motion

    def sample(self, now_ns: int) -> JointMotion:
        """The motion meant for `now_ns`: where the last message had the joints, at rest if that was long ago."""
        if self._arrived_ns is not None and now_ns - self._arrived_ns <= 10 * self._period_ns:
            return self._motion
        zero = np.zeros_like(self._motion.positions)
        return JointMotion(self._motion.positions, zero, zero)
