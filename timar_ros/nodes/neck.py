"""The one place that commands the neck: it plans the joints' motion, halts it, and lets go of the head."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState

from timar_ros.motion.retarget import Retargeter
from timar_ros.motion.trajectory import TrajectoryPlanner
from timar_ros.nodes.neck_commands import PositionCommands, TrajectoryCommands
from timar_ros.robot.profile import RobotProfile

# How long `joint_states` is waited for before the head is taken to look straight ahead.
UNKNOWN_POSITION_S = 3.0
# For so long after that it is watched whether the head follows; it does if it is off by no more than these.
_CONFIRM_NS = 5_000_000_000
_MISSED_RAD = 0.03
_MISSED_S = 0.2
# Where positions are sent one after the other, that at rest is sent a little longer, in case one is lost.
_STANDS_NS = 50_000_000


class Neck:
    """Takes up from where `joint_states` has the head, follows rotations, and comes to rest.

    May be called from any thread. While it does not hold the head, nothing is published.
    """

    def __init__(
        self, node: LifecycleNode, profile: RobotProfile, hop_frames: int, stamp_zero: Callable[[], bool]
    ) -> None:
        self._node = node
        self._hop_frames = hop_frames
        self._lock = threading.RLock()
        self._equip(profile)
        if profile.command.kind == "joint_trajectory":
            self.commands = TrajectoryCommands(node, profile.command, profile.joint_names, stamp_zero)
        else:
            self.commands = PositionCommands(
                node, profile.command, profile.joint_names, self._planned, self._interrupted
            )
        # Until then the head brakes: within limits that are no longer the planner's, if there were others.
        self._free_ns = 0
        self._braking: TrajectoryPlanner | None = None
        self.interruptions = 0
        self._forget()

    @property
    def holding(self) -> bool:
        """Whether the head is being commanded."""
        return self._holding

    def begin(self) -> None:
        """Be ready to take up the head."""
        self.take()
        self.commands.start()

    def end(self) -> None:
        """Let go of the head, and wait until all is sent that brings it to rest."""
        self.release()
        self.commands.stop()

    def feel(self, message: bytes) -> None:
        """Take the joints' positions from a serialised `joint_states`, which is read only where it is needed."""
        with self._lock:
            now_ns = self._now_ns()
            # What comes while the head still brakes would be old by the time it is taken up.
            if now_ns < self._free_ns or (self._holding and now_ns > self._confirm_until_ns):
                return
            state = deserialize_message(message, JointState)
            self._felt_ns = now_ns
            self._positions |= zip(state.name, state.position, strict=False)

    def use(self, profile: RobotProfile) -> None:
        """Keep other limits from now on; the head comes to rest within the old ones first."""
        with self._lock:
            if not self._holding:
                self._equip(profile)
                return
            self._brake()
            self._braking = self._planner
            self._free_ns = self._planner.rest_ns
            rest = self._planner.at(self._free_ns)[0]
            self._equip(profile)
            self._planner.resume(rest)

    def follow(self, rotations: np.ndarray, first_due_ns: int, rests_on_ns: int | None) -> bool:
        """Bring the head through `rotations` [frames, 4] (x, y, z, w), the first of which is due at `first_due_ns`.

        Args:
            rests_on_ns: capture of the newest sample that they rest on, if they do.

        Returns:
            Whether the head was commanded: not as long as its position is unknown, or it comes to rest.
        """
        with self._lock:
            if self._released or self._now_ns() < self._free_ns or not (self._holding or self._take_up()):
                return False
            if self._halted:
                self._planner.ease_in()
                self._halted = False
            self._confirm()
            targets = self._retargeter.joints_for(rotations)
            self.commands.send(self._planner.plan(targets, first_due_ns, self._now_ns()), rests_on_ns)
            return True

    def halt(self) -> None:
        """Brake to rest as fast as the limits allow; what is followed next is eased in."""
        with self._lock:
            if self._holding and not self._halted:
                self._brake()
                self._halted = True

    def release(self) -> None:
        """Brake to rest and let go of the head: whoever moves it meanwhile, it is taken up where it then is."""
        with self._lock:
            if self._holding:
                self._brake()
                self._free_ns = self._planner.rest_ns
            self._forget()
            self._released = True

    def take(self) -> None:
        """Take up the head again, with the next motion that is followed."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        self._released = False
        self._holding = False
        self._halted = False
        self._positions: dict[str, float] = {}
        self._confirm_until_ns = 0
        self._waiting_since_ns = self._now_ns()

    def _equip(self, profile: RobotProfile) -> None:
        self._profile = profile
        self._retargeter = Retargeter(profile)
        self._planner = TrajectoryPlanner(profile, self._hop_frames)

    def _brake(self) -> None:
        self.commands.send(self._planner.halt(self._now_ns()), None)

    def _take_up(self) -> bool:
        names = self._profile.joint_names
        missing = [name for name in names if name not in self._positions]
        if missing:
            waited_s = (self._now_ns() - max(self._waiting_since_ns, self._free_ns)) * 1e-9
            if 0 <= waited_s < UNKNOWN_POSITION_S:
                return False
            self._node.get_logger().warning(
                f"joint_states has not told {', '.join(missing)}; taking the head to look straight ahead. "
                "Publish joint_states, so that the head takes up from where it is"
            )
        straight = dict(zip(names, self._retargeter.joints(np.zeros((1, 3)))[0], strict=True))
        self._planner.resume(np.array([self._positions.get(name, straight[name]) for name in names]))
        self._holding = True
        self._confirm_until_ns = self._now_ns() + _CONFIRM_NS if not missing else 0
        return True

    def _confirm(self) -> None:
        """Take the head up anew where its controller has missed the first commands: it had not found this node yet."""
        if self._now_ns() > self._confirm_until_ns:
            return
        felt = np.array([self._positions[name] for name in self._profile.joint_names])
        position, velocity, _ = self._planner.at(self._felt_ns)
        if (np.abs(felt - position) > _MISSED_RAD + _MISSED_S * np.abs(velocity)).any():
            self._planner.resume(felt)

    def _planned(self, time_ns: int) -> np.ndarray | None:
        """[3, J] what is planned for a time; None once the head stands still."""
        with self._lock:
            planner = self._braking if self._braking and time_ns <= self._free_ns else self._planner
            if not planner.started or time_ns > planner.rest_ns + _STANDS_NS:
                return None
            return planner.at(time_ns)

    def _interrupted(self, positions: np.ndarray) -> None:
        """Begin anew from where the head has stopped, as no positions were sent for too long."""
        with self._lock:
            if self._holding:
                self.interruptions += 1
                self._planner.resume(positions)

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds
