"""The one place that commands the neck: it plans the joints' motion, halts it, and lets go of the head."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState

from timar_ros.motion.retarget import Retargeter
from timar_ros.motion.trajectory import Trajectory, TrajectoryPlanner
from timar_ros.nodes.neck_commands import PositionCommands, TrajectoryCommands
from timar_ros.robot.profile import RobotProfile

UNKNOWN_POSITION_S = 3.0
"""How long `joint_states` is waited for, by the wall's clock, until it is told that something is wrong."""
# A head is taken up that has not moved by more than this for so long: planning begins at rest.
_STILL_RAD = 0.02
_STILL_NS = 200_000_000
# Further outside its range no joint is believed to be, as where positions come in degrees.
_OUTSIDE_RAD = 0.25
# For so long after it was taken up it is watched whether the head follows; it does not if it is off by more than these
# for some time. Joint states may be old by less than that.
_CONFIRM_NS = 5_000_000_000
_MISSED_RAD = 0.03
_MISSED_S = 0.2
_MISSED_NS = 500_000_000
# A command that is sent later than so long before its motion begins would come too late for it.
_TRANSPORT_NS = 5_000_000
# Where positions are sent one after the other, that at rest is sent a little longer, in case one is lost.
_STANDS_NS = 50_000_000


class Neck:
    """Takes up from where `joint_states` has the head, follows rotations, and comes to rest.

    May be called from any thread. While it does not hold the head, nothing is published.
    """

    def __init__(
        self,
        node: LifecycleNode,
        profile: RobotProfile,
        hop_frames: int,
        stamp_zero: Callable[[], bool],
        margin_ms: int = 20,
    ) -> None:
        """
        Args:
            stamp_zero: whether trajectories start when they arrive.
            margin_ms: how long a command may take from being planned until the robot has it.
        """
        self._node = node
        self._hop_frames = hop_frames
        self._margin_ms = margin_ms
        self._lock = threading.RLock()
        self._equip(profile)
        if profile.command.kind == "joint_trajectory":
            self.commands = TrajectoryCommands(node, profile.command, profile.joint_names, stamp_zero)
        else:
            self.commands = PositionCommands(
                node, profile.command, profile.joint_names, self._planned, self._interrupted
            )
        # Until then the head brakes, as planned by this planner: by now there may be another, for other limits.
        self._free_ns = 0
        self._braking: TrajectoryPlanner | None = None
        self.interruptions = 0
        self.late_commands = 0
        self._forget()

    @property
    def holding(self) -> bool:
        """Whether the head is being commanded."""
        return self._holding

    @property
    def unknown_joints(self) -> list[str]:
        """Those whose position `joint_states` has not told since the head was let go; it is not moved before."""
        return [name for name in self._profile.joint_names if name not in self._positions]

    @property
    def obstacle(self) -> str:
        """Why the head cannot be taken up as it is, as a clause; empty where it can."""
        with self._lock:
            topic = self._node.resolve_topic_name("joint_states")
            if self.unknown_joints:
                return f"{topic} does not tell where {', '.join(self.unknown_joints)} is"
            for joint, position in zip(self._profile.joints, self._felt(), strict=True):
                low, high = joint.limits.lower, joint.limits.upper
                if not low - _OUTSIDE_RAD <= position <= high + _OUTSIDE_RAD:
                    place = f"{position:.2f}, far outside its range of {low:.2f} to {high:.2f} rad"
                    return f"{topic} has {joint.name} at {place}"
            return "" if self._now_ns() - self._still_since_ns >= _STILL_NS else "something else moves the head"

    @property
    def waits_in_vain(self) -> bool:
        """Whether something has been in the way for too long."""
        waited = not self._holding and time.monotonic() - self._waiting_since_s > UNKNOWN_POSITION_S
        return waited and bool(self.obstacle)

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
            state, ours = deserialize_message(message, JointState), self._profile.joint_names
            named = zip(state.name, state.position, strict=False)
            told = {name: position for name, position in named if name in ours and math.isfinite(position)}
            if not told:
                return
            self._positions |= told
            if self._holding:
                self._confirm(now_ns)
            elif not self.unknown_joints:
                self._watch_for_rest(now_ns)

    def use(self, profile: RobotProfile) -> None:
        """Keep other limits from now on; the head comes to rest within the old ones first."""
        with self._lock:
            if not self._holding:
                self._equip(profile)
                return
            self._come_to_rest()
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
            if self._released or self._comes_to_rest or not (self._holding or self._take_up()):
                return False
            if self._halted:
                self._planner.ease_in()
                self._halted = False
            targets = self._retargeter.joints_for(rotations)
            self._command(lambda now_ns: self._planner.plan(targets, first_due_ns, now_ns), rests_on_ns)
            return True

    def halt(self) -> None:
        """Brake to rest as fast as the limits allow; what is followed next is eased in."""
        with self._lock:
            if self._holding and not self._halted and not self._comes_to_rest:
                self._brake()
                self._halted = True

    def release(self) -> None:
        """Brake to rest and let go of the head: whoever moves it meanwhile, it is taken up where it then is."""
        with self._lock:
            if self._holding:
                self._come_to_rest()
            self._forget()
            self._released = True

    def take(self) -> None:
        """Take up the head again, with the next motion that is followed."""
        with self._lock:
            self._forget()

    def begin_anew(self) -> None:
        """Forget what was planned, as the clock went back, and take the head up where it is, unless it was released."""
        with self._lock:
            released = self._released
            self._forget()
            self._released = released
            self._free_ns = 0

    def _forget(self) -> None:
        self._released = False
        self._holding = False
        self._halted = False
        self._positions: dict[str, float] = {}
        self._still_at: np.ndarray | None = None
        self._still_since_ns = 0
        self._confirm_until_ns = 0
        self._waiting_since_s = time.monotonic()
        self._told_to_wait = False

    def _equip(self, profile: RobotProfile) -> None:
        self._profile = profile
        self._retargeter = Retargeter(profile)
        self._planner = TrajectoryPlanner(profile, self._hop_frames, self._margin_ms)

    @property
    def _comes_to_rest(self) -> bool:
        """Whether the head brakes, and nothing else may be commanded until it is at rest."""
        return self._now_ns() < self._free_ns

    def _come_to_rest(self) -> None:
        """Brake, unless the head does already: the planner may be a new one, which has the head at rest."""
        if not self._comes_to_rest:
            self._brake()
            self._braking = self._planner
            self._free_ns = self._planner.rest_ns

    def _brake(self) -> None:
        self._command(self._planner.halt, None)

    def _command(self, plan: Callable[[int], Trajectory], rests_on_ns: int | None) -> None:
        """Send what is planned for now; once more where that took so long that its motion would have begun before."""
        trajectory = plan(self._now_ns())
        if self._now_ns() > trajectory.join_ns - _TRANSPORT_NS:
            self._planner.undo()
            trajectory = plan(self._now_ns())
        self.commands.send(trajectory, rests_on_ns)
        if self._now_ns() > trajectory.join_ns:
            self.late_commands += 1

    def _take_up(self) -> bool:
        if obstacle := self.obstacle:
            if self.waits_in_vain and not self._told_to_wait:
                self._told_to_wait = True
                self._node.get_logger().warning(
                    f"{obstacle}: the head is not moved until this changes. Check that the robot publishes its joints "
                    "there, in rad and with the names of the profile, else remap joint_states, and that no other "
                    "program moves the head"
                )
            return False
        self._planner.resume(self._felt())
        self._holding = True
        self._begin_to_confirm()
        self._confirm_until_ns = self._now_ns() + _CONFIRM_NS
        return True

    def _watch_for_rest(self, now_ns: int) -> None:
        """Note from when on the head has stood still, as far as is told."""
        felt = self._felt()
        if self._still_at is None or (np.abs(felt - self._still_at) > _STILL_RAD).any():
            self._still_at, self._still_since_ns = felt, now_ns

    def _begin_to_confirm(self) -> None:
        self._taken_up = self._felt()
        self._follows = self._told_off = False
        self._off_since_ns: int | None = None

    def _confirm(self, now_ns: int) -> None:
        """Take the head up anew while it stands where it was: its controller, which had not found this node yet, has
        missed the commands. A head that moves is left to its controller, however far it is off."""
        felt = self._felt()
        self._follows = self._follows or bool((np.abs(felt - self._taken_up) > _STILL_RAD).any())
        position, velocity, _ = self._planner.at(now_ns)
        off = np.abs(felt - position)
        if not (off > _MISSED_RAD + _MISSED_S * np.abs(velocity)).any():
            self._off_since_ns = None
            return
        if self._off_since_ns is None:
            self._off_since_ns = now_ns
        if now_ns - self._off_since_ns < _MISSED_NS:
            return
        if not self._follows:
            self._planner.resume(felt)
            self._begin_to_confirm()
        elif not self._told_off:
            self._told_off = True
            joint = self._profile.joint_names[off.argmax()]
            self._node.get_logger().warning(
                f"{joint} is {off.max():.2f} rad off where it is commanded to be. Check its controller, its load "
                "and its calibration"
            )

    def _felt(self) -> np.ndarray:
        return np.array([self._positions[name] for name in self._profile.joint_names])

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
            self.interruptions += self._comes_to_rest or self._holding
            if self._comes_to_rest:  # it has, sooner than planned
                self._braking.resume(positions)
                self._free_ns = self._now_ns()
            if self._holding:
                self._planner.resume(positions)

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds
