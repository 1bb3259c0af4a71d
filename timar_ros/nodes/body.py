"""What of the robot moves: its neck and its face. Shows motion when it is due, looks at places, halts and pauses.

Threads: `show` and `idle` belong to the thread that moves the head, callbacks and `watch` to the executor's; the face
is shown by a thread of its own, frame by frame, when the neck is due to show that frame.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import PointStamped, QuaternionStamped
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool

from timar_ros.channels import ARKIT_BLENDSHAPES, MOTION_DIM
from timar_ros.errors import TimarError
from timar_ros.motion.gaze import direction_to
from timar_ros.motion.mouth import MouthCloser
from timar_ros.motion.performance import Performance, smooth
from timar_ros.nodes.face_commands import FaceCommands
from timar_ros.nodes.frames_of_reference import FramesOfReference, UnknownFrameError
from timar_ros.nodes.neck import Neck
from timar_ros.nodes.parameters import Parameters
from timar_ros.nodes.playout import Playout
from timar_ros.nodes.topics import LATCHED, stamp_of
from timar_ros.rates import CLOCK_LEAP_NS, FRAME_NS
from timar_ros.robot.description import read_description, tightened
from timar_ros.robot.profile import RobotProfile

STALL_NS = 300_000_000
"""Work on a hop that takes longer than this is a stall, unless the playout delay allows for more: the head halts.
Motion that is due longer ago is not shown."""

# A head that pauses or ends lets its face go back to rest in so many frames, and is given so long for it.
_REST_FRAMES = 8
_REST_S = 1.0
# So long a target waits for tf to tell where its frame is: discovery takes up to 3 s.
_UNPLACED_S = 3.0


class Body:
    """The neck and the face of one robot; see the module's docstring for its threads."""

    def __init__(
        self,
        node: LifecycleNode,
        profile: RobotProfile,
        settings: Parameters,
        hop_frames: int,
        playout_delay_ns: int,
    ) -> None:
        self._node = node
        self._profile = profile
        self._settings = settings
        self._hop_frames = hop_frames
        self._playout_delay_ns = playout_delay_ns
        self._stall_ns = max(STALL_NS, playout_delay_ns - hop_frames * FRAME_NS)
        self._neck = Neck(
            node, profile, hop_frames, lambda: settings.stamp == "zero", margin_ms=settings.command_margin_ms
        )
        self._playout = Playout(self._now_ns, self._show_frame)
        self.mouth = MouthCloser()
        self._face = FaceCommands(node, profile.face) if profile.face else None
        self._blendshapes = node.create_lifecycle_publisher(JointState, "~/blendshapes", 10)
        self._poses = node.create_lifecycle_publisher(QuaternionStamped, "~/head_pose", 10)
        self._frames = FramesOfReference(node, profile.base_frame)
        self._pause = node.create_service(SetBool, "~/pause", self._set_pause)
        self._subscriptions = [
            node.create_subscription(JointState, "joint_states", self._feel, qos_profile_sensor_data, raw=True),
            node.create_subscription(String, "robot_description", self._take_description, LATCHED),
            node.create_subscription(PointStamped, "~/look_at", self._look_at, 10),
        ]
        self._limits_told = "the profile's"
        self._face_shown = np.zeros(len(ARKIT_BLENDSHAPES))
        self._forget()
        self._active = False

    def _forget(self) -> None:
        self._performance = Performance(self._settings.seed)
        self._gaze_until_ns: float | None = None
        self._unplaced: PointStamped | None = None
        self._unplaced_since_s = 0.0
        self._paused = False
        self._stalled = False
        self._shown_until_ns = 0
        self._idle_from_ns = 0
        self._seen_ns = 0

    def start(self) -> None:
        """Be ready to show motion: the head is taken up where it is."""
        self._forget()
        if self._face:
            self._face.take()
        self._neck.begin()
        self._playout.start()
        self._active = True

    def stop(self) -> None:
        """Come to rest, neck and face, and let go of the head; no thread is left."""
        self._active = False
        self._let_go()
        self._playout.finish(_REST_S)
        self._neck.end()

    def destroy(self) -> None:
        """Give back what was made of the node's."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._node.destroy_service(self._pause)
        self._frames.destroy()
        face = [self._face.publisher] if self._face else []
        for publisher in (self._neck.commands.publisher, self._blendshapes, self._poses, *face):
            self._node.destroy_lifecycle_publisher(publisher)

    # The thread that moves the head

    def show(
        self,
        stamps_ns: Sequence[int],
        motion: np.ndarray,
        heard: Sequence[bool],
        quiet: Sequence[bool],
        rests_on_ns: int | None,
    ) -> None:
        """Show frames: the neck from now on, the face of each when it is due.

        Args:
            stamps_ns: when each frame was captured, 40 ms apart.
            motion: [frames, 55] the policy's.
            heard, quiet: of each frame, whether sound came of either voice, and whether nobody has the floor.
            rests_on_ns: capture of the newest sample that the motion rests on, if it does.
        """
        self._see_clock()
        self._turn_to_target(stamps_ns[-1])
        settings = self._settings
        shown = self._performance.step(
            motion, heard, quiet, np.array(stamps_ns) * 1e-9, settings.intensity, settings.idle_life
        )
        due_ns = [stamp_ns + self._playout_delay_ns for stamp_ns in stamps_ns]
        now_ns = self._now_ns()
        if not self._moving or due_ns[-1] < now_ns - STALL_NS:
            return
        if due_ns[-1] > now_ns + self._playout_delay_ns + CLOCK_LEAP_NS:  # heard before the clock went back
            return
        self._stalled = False
        self._neck.follow(shown.rotations, due_ns[0], rests_on_ns)
        for item in zip(due_ns, stamps_ns, shown.rotations, shown.face, strict=True):
            if item[0] > self._shown_until_ns:  # idle frames may have been shown for the same time
                self._shown_until_ns = item[0]
                self._playout.put(item[0], item[1:])

    def idle(self) -> None:
        """Show idle life as long as no sound was ever heard; to be called often."""
        frames = self._hop_frames
        hop_ns = frames * FRAME_NS
        late_ns = self._now_ns() - self._idle_from_ns - hop_ns
        if -CLOCK_LEAP_NS < late_ns < 0:
            return
        if not 0 <= late_ns < CLOCK_LEAP_NS:
            self._idle_from_ns += late_ns
        stamps_ns = [self._idle_from_ns + i * FRAME_NS for i in range(frames)]
        self._idle_from_ns += hop_ns
        self.show(stamps_ns, np.zeros((frames, MOTION_DIM)), [False] * frames, [True] * frames, None)

    def _see_clock(self) -> None:
        """Begin anew where the clock went back: all that is planned lies in a future that would be waited for."""
        now_ns = self._now_ns()
        leap_ns, self._seen_ns = now_ns - self._seen_ns, now_ns
        if leap_ns > -CLOCK_LEAP_NS:
            return
        self._playout.clear()
        self._shown_until_ns = 0
        if self._gaze_until_ns is not None:
            self._gaze_until_ns += leap_ns
        self._neck.begin_anew()
        self._node.get_logger().warning(
            f"the clock went back by {-leap_ns / 1e9:.1f} s: the head is taken up anew where joint_states has it"
        )

    def _turn_to_target(self, stamp_ns: int) -> None:
        """Let go of a gaze target that was not renewed."""
        until_ns = self._gaze_until_ns
        if until_ns is not None and stamp_ns > until_ns:
            self._gaze_until_ns = None
            self._performance.gaze.let_go()

    # The executor's thread

    def watch(self, busy_since_ns: int | None) -> None:
        """Halt where the work on a hop, which began at `busy_since_ns`, takes too long; to be called often.

        Also looks again for a target whose frame was not known.
        """
        if self._unplaced is not None:
            self._look_at(self._unplaced)
        if busy_since_ns is not None and not self._stalled and self._now_ns() - busy_since_ns > self._stall_ns:
            self._stalled = True
            self._neck.halt()
            self._node.get_logger().error(
                f"the policy has not answered for {self._stall_ns / 1e9:g} s: the head halts until it does. "
                "Use a faster device, or free this one"
            )

    def _set_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if not self._active:
            response.success = False
            response.message = "the head node is not active: it moves nothing; activate it first"
            return response
        if request.data and not self._paused:
            self._paused = True
            self._let_go()
        elif self._paused and not request.data:
            self._playout.clear()
            if self._face:
                self._face.take()
            self._paused = False
            self._neck.take()
        response.success = True
        response.message = (
            "paused: the head comes to rest, then nothing is published that moves it"
            if self._paused
            else "moving: the head is taken up where it is"
        )
        return response

    def _let_go(self) -> None:
        """Bring neck and face to rest: a mouth that was open, or lids that were closed, do not stay so."""
        self._neck.release()
        self._playout.clear()
        if not self._face_shown.any():
            return
        left = smooth(1.0 - np.arange(1, _REST_FRAMES + 1) / _REST_FRAMES)
        for i, weights in enumerate(left[:, None] * self._face_shown):
            due_ns = self._now_ns() + i * FRAME_NS
            self._playout.put(due_ns, (due_ns - self._playout_delay_ns, None, weights))

    def _feel(self, message: bytes) -> None:
        self._neck.feel(message)
        if self._face:
            self._face.feel(message)

    def _look_at(self, message: PointStamped) -> None:
        point = np.array([message.point.x, message.point.y, message.point.z])
        if not np.isfinite(point).all():  # the agreed way to look straight ahead again
            self._unplaced = None
            self._gaze_until_ns = None
            self._performance.gaze.let_go()
            return
        try:
            point = self._frames.to_base(point, message.header) - self._profile.pivot
            self._unplaced = None
            direction = direction_to(point)
            if direction is None:
                raise TimarError(
                    "~/look_at: the point lies in the neck itself; expected a place to look at, in m, x forward, y left"
                )
        except UnknownFrameError as error:
            self._wait_for_frame(message, error)
            return
        except TimarError as error:
            self._node.get_logger().error(str(error), throttle_duration_sec=5.0)
            return
        seconds = self._settings.look_at_timeout_s
        self._gaze_until_ns = self._now_ns() + round(seconds * 1e9) if seconds else math.inf
        self._performance.gaze.turn_to(direction, *np.transpose([self._profile.turns(a) for a in ("pitch", "yaw")]))

    def _wait_for_frame(self, message: PointStamped, error: UnknownFrameError) -> None:
        """Keep a target until tf tells where its frame is, or tell that it does not."""
        if self._unplaced is None:
            self._unplaced_since_s = time.monotonic()
        waiting = time.monotonic() - self._unplaced_since_s < _UNPLACED_S
        self._unplaced = message if waiting else None
        if not waiting:
            self._node.get_logger().error(str(error), throttle_duration_sec=5.0)

    def _take_description(self, message: String) -> None:
        try:
            profile, changes, faults = tightened(self._profile, read_description(message.data))
        except TimarError as error:
            self._node.get_logger().error(str(error))
            return
        for fault in faults:
            self._node.get_logger().warning(fault)
        if changes:
            self._profile = profile
            self._limits_told = "the tighter of the profile's and robot_description's"
            self._node.get_logger().info(f"robot_description has tighter limits: {'; '.join(changes)}")
            self._neck.use(profile)

    def status(self) -> tuple[str, int, str, dict[str, object]]:
        """Name, how bad it is (0 fine, 1 a warning, 2 an error), a sentence, and values for the diagnostics."""
        if self._paused:
            bad, said = 0, "paused: nothing is published that moves the head"
        elif self._stalled:
            bad, said = 1, "halted: the policy does not answer"
        elif self._neck.waits_in_vain:
            bad, said = 2, f"not moved: {self._neck.obstacle}"
        elif not self._neck.holding:
            bad, said = 1, "waiting for joint_states to tell where the head is, and that it stands still"
        elif self._performance.stale:
            bad, said = 0, "idle: no sound comes"
        else:
            bad, said = 0, "moving"
        values = {
            "paused": self._paused,
            "limits": self._limits_told,
            "looking_at": "a target" if self._gaze_until_ns is not None else "ahead",
            "interruptions": self._neck.interruptions,
            "late_commands": self._neck.late_commands,
        }
        return "motion", bad, said, values

    # The thread that shows the face

    def _show_frame(self, shown: tuple[int, np.ndarray | None, np.ndarray]) -> None:
        """Head pose, blendshapes and servos of one frame, stamped with its capture; no pose of a face let go."""
        stamp_ns, rotation, weights = shown
        stamp = stamp_of(stamp_ns)
        if rotation is not None:
            if not self._moving:
                return
            weights = self.mouth(self._now_ns(), weights)
            pose = QuaternionStamped()
            pose.header.stamp, pose.header.frame_id = stamp, self._settings.head_frame
            q = pose.quaternion
            q.x, q.y, q.z, q.w = rotation.tolist()
            self._poses.publish(pose)
        face = JointState(name=list(ARKIT_BLENDSHAPES), position=weights.tolist())
        face.header.stamp, face.header.frame_id = stamp, self._settings.head_frame
        self._blendshapes.publish(face)
        if self._face:
            self._face.follow(weights, self._playout.now_ns())
        self._face_shown = weights

    @property
    def _moving(self) -> bool:
        """Whether motion is shown."""
        return self._active and not self._paused

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds
