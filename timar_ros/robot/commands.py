"""What controllers that take no trajectories are sent: plain values, from what is planned for an instant."""

import importlib
from collections.abc import Sequence

import numpy as np

from timar_ros.errors import TimarError
from timar_ros.robot.profile import Command

JOINT_ANGLES = "naoqi_bridge_msgs/msg/JointAnglesWithSpeed"
# NAOqi moves on to the next angle at this share more than the planned speed, so that it arrives in time.
_SPEED_MARGIN = 1.25
_LEAST_SPEED = 0.02


class PlainValues:
    """Positions in the order of the controller, and for NAOqi the speed to go there with."""

    def __init__(self, command: Command, joints: Sequence[str]) -> None:
        """
        Args:
            command: of kind forward_command or joint_angles_with_speed.
            joints: names in the order of the planned motion.
        """
        self.names = list(command.options["order"])
        self._columns = [list(joints).index(name) for name in self.names]
        full = command.options.get("full_speed", {})
        self._full_speed = np.array([full.get(name, np.inf) for name in self.names])

    def positions(self, state: np.ndarray) -> list[float]:
        """Positions, rad, of a planned state [3, J] (position, velocity, acceleration)."""
        return state[0, self._columns].tolist()

    def speed(self, state: np.ndarray) -> float:
        """The fraction of full speed, in [0.02, 1], that the fastest joint needs."""
        share = np.abs(state[1, self._columns]) / self._full_speed
        return float(np.clip(_SPEED_MARGIN * share.max(), _LEAST_SPEED, 1.0))


def joint_angles_class() -> type:
    """The message class that NAO and Pepper take.

    Raises:
        TimarError: its package is not installed; says how to get it.
    """
    package, _, name = JOINT_ANGLES.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise TimarError(
            f"The message package {package} cannot be imported ({error}); NAO and Pepper take {JOINT_ANGLES}. "
            "Install it with: sudo apt install ros-$ROS_DISTRO-naoqi-bridge-msgs, and source ROS again; "
            "or try the robot in simulation with command:=joint_trajectory."
        ) from error
