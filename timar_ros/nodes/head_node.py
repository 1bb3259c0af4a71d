"""The head node: both voices in; trajectories, blendshapes, head pose, speaking, floor and diagnostics out.

Threads and what they hold:
- The executor's thread takes in messages: it decodes sound and hands it to the pairer, under `_pairing`.
- The hop thread takes frames from the pairer (under `_pairing`), runs turns and policy and hands the motion to the body
  (`nodes.body`), which commands neck and face. It alone touches the conversation while the node is active.
Times are ROS time in ns. A frame captured at t is due at t + playout_delay_ms, for neck and face alike.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import sys
import threading
import time
import traceback
from array import array
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import QuaternionStamped
from rclpy.clock import ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String, UInt8MultiArray

from timar_ros.channels import HEAD_CHANNELS
from timar_ros.errors import TimarError
from timar_ros.model.checkpoint import load_policy
from timar_ros.motion.retarget import Retargeter
from timar_ros.motion.trajectory import TrajectoryPlanner
from timar_ros.nodes.body import Body
from timar_ros.nodes.head_parameters import PARAMETERS
from timar_ros.nodes.neck_commands import trajectory_message
from timar_ros.nodes.parameters import declare
from timar_ros.nodes.runtime import events_executor, run
from timar_ros.nodes.topics import BURST, LATCHED, subscribe_format, time_of
from timar_ros.nodes.voices import Voices, lookahead_frames, lookahead_refusal
from timar_ros.rates import FRAME_NS, FRAME_SAMPLES, PLAYOUT_RESERVE_MS
from timar_ros.robot.commands import joint_angles_class
from timar_ros.robot.profile import RobotProfile
from timar_ros.stream.audio_messages import (
    AudioChunk,
    AudioDecoder,
    AudioFormat,
    audio_message_type,
    import_message_class,
)
from timar_ros.stream.conversation import Conversation, Hop
from timar_ros.stream.device import choose_device
from timar_ros.stream.floor import Floor
from timar_ros.stream.frames import PARTNER, SELF, Frame, FramePairer
from timar_ros.stream.hop_statistics import HopStatistics
from timar_ros.stream.partner_face import PartnerFace
from timar_ros.stream.steppers import frames_in_hop, make_stepper
from timar_ros.stream.trace import conversation_facts, encode_hop
from timar_ros.stream.turns import TurnSegmenter

# A policy whose step takes longer than PLAYOUT_RESERVE_MS allows for gets this many times its usual step, and half of
# that reserve.
SLOW_STEP_MARGIN = 1.5
# Silence before the first sound is told to recorders that come late, so that theirs is the whole conversation as well.
KEPT_TRACE = QoSProfile(depth=500, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# Latched for the same recorders, but what was said is gone before another one comes.
VOICES_TRACE = QoSProfile(depth=500, durability=DurabilityPolicy.TRANSIENT_LOCAL, lifespan=Duration(seconds=2))
# Of diagnostics; those that are told whether to warn are 0 and 1 as well.
_LEVELS = (DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR)
AUDIO_TOPICS = {SELF: "microphone/audio", PARTNER: "partner/audio"}

Transition = Callable[["HeadNode", LifecycleState], TransitionCallbackReturn]


def _logged(transition: Transition) -> Transition:
    """Have an error in a transition logged: rclpy keeps it to itself. `on_error` comes next."""

    @functools.wraps(transition)
    def logged(node: HeadNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception as error:
            node.get_logger().error(str(error) if isinstance(error, TimarError) else traceback.format_exc())
            return TransitionCallbackReturn.ERROR

    return logged


class HeadNode(LifecycleNode):
    """A managed node; see the module's docstring for its threads."""

    def __init__(self) -> None:
        super().__init__("head")
        self._settings = declare(self, PARAMETERS, check=lookahead_refusal)
        self._made = contextlib.ExitStack()  # gives back what was made of the node's
        self._hop_thread: threading.Thread | None = None
        self._failure: Exception | None = None
        if self._settings.autostart:
            self._start()

    def _start(self) -> None:
        for transition in (self.trigger_configure, self.trigger_activate):
            if transition() != TransitionCallbackReturn.SUCCESS:
                raise TimarError("the head node could not start; the reason is logged above")

    # Lifecycle

    def _LifecycleNodeMixin__change_state(self, transition_id: int) -> TransitionCallbackReturn:  # noqa: N802
        """Refuse a transition that the present state does not offer, on which rclpy ends the node until Kilted."""
        if transition_id in {each[0] for each in self._state_machine.available_transitions}:
            return super()._LifecycleNodeMixin__change_state(transition_id)
        self.get_logger().warning(
            f"transition {transition_id} is refused: the node is {self._state_machine.current_state[1]}, which does "
            "not offer it"
        )
        return TransitionCallbackReturn.FAILURE

    @_logged
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._load()
        self._make_publishers()
        self._make_subscriptions()
        return TransitionCallbackReturn.SUCCESS

    @_logged
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        gc.collect()
        gc.freeze()  # to look through all of torch's objects takes longer than a hop has time
        self._begin_conversation()
        result = super().on_activate(state)
        device, precision = self._stepper.device, self._stepper.precision
        how = {"hop_frames": self._hop_frames, "precision": precision, "device": device, "torch": torch.__version__}
        how["lookahead_frames"] = self._lookahead_frames
        facts = conversation_facts(self._settings, self._policy.name, self._policy.folder, **how)
        self._facts.publish(String(data=facts))
        self._stopping.clear()
        self._body.start()
        self._hop_thread = threading.Thread(target=self._hear_and_move, name="hops")
        self._hop_thread.start()
        self.get_logger().info(
            f"active: policy {self._policy.name} on {self._stepper.device}, robot {self._profile.name}"
        )
        return result

    @_logged
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_threads()
        self._fall_silent()  # before the publishers are told that they are inactive
        return super().on_deactivate(state)

    @_logged
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._give_back()
        return TransitionCallbackReturn.SUCCESS

    @_logged
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition failed midway: back to unconfigured, from where it can be tried again."""
        self._stop_threads()
        self._give_back()
        return TransitionCallbackReturn.SUCCESS

    @_logged
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self._hop_thread is not None:
            self.on_deactivate(state)
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """End the threads, whatever state the node is in."""
        self._stop_threads()

    def _give_back(self) -> None:
        """What was made of the node's, and the policy, which may hold much of a GPU's memory."""
        self._made.close()
        self._conversation = self._stepper = self._policy = None

    # Building up

    def _load(self) -> None:
        """Everything that can be wrong with files and devices, before anything is published."""
        p = self._settings
        torch.set_num_threads(p.threads)
        self._policy = load_policy(p.policy)
        self._hop_frames = frames_in_hop(self._policy, p.predict_by, p.hop_frames, choose_device(p.device))
        self._lookahead_frames = lookahead_frames(p.lookahead_ms, self._policy)
        self._stepper = make_stepper(
            self._policy, p.device, p.seed, p.temperature, p.precision, self._hop_frames, self._lookahead_frames
        )
        self._profile = RobotProfile.load(p.robot)
        if p.command == "joint_trajectory":
            self._profile = self._profile.taking_trajectories()
        if self._profile.command.kind == "joint_angles_with_speed":
            joint_angles_class()  # refuses here where its package is not installed
        self._message_type = audio_message_type(p.audio_message_type).name
        self._message_class = import_message_class(self._message_type)
        self._audio_format = AudioFormat(p.audio_rate, p.audio_channels, p.audio_encoding)
        AudioDecoder(
            self._message_type, self._audio_format
        )  # refuses a wrong format here rather than at the first packet
        usual_ms = self._warm_up()
        reserve_ms = max(PLAYOUT_RESERVE_MS, round(SLOW_STEP_MARGIN * usual_ms) + PLAYOUT_RESERVE_MS // 2)
        hop_ms = self._hop_frames * FRAME_NS // 10**6
        self._playout_delay_ns = (p.playout_delay_ms or hop_ms + reserve_ms) * 10**6

    def _warm_up(self) -> float:
        """Move through silence, so that the first hop of the conversation is not the slow one.

        Returns:
            ms that a hop usually takes once everything has run.
        """
        conversation = self._new_conversation()
        silence = np.zeros(FRAME_SAMPLES, np.float32)
        retargeter, planner = Retargeter(self._profile), TrajectoryPlanner(self._profile, self._hop_frames)
        planner.resume(retargeter.joints(np.zeros(3))[0])
        taken_ms = []
        for i in range(max(30, 2 * self._hop_frames)):
            conversation.hear(Frame(i, i * FRAME_NS, silence, silence, False, False))
            start = time.perf_counter()
            if hop := conversation.draw():
                stamp_ns = hop.frames[0].stamp_ns
                trajectory = planner.plan(retargeter.joints(hop.motion[:, : len(HEAD_CHANNELS)]), stamp_ns, stamp_ns)
                serialize_message(trajectory_message(trajectory, self._profile.joint_names, stamp_ns))
                taken_ms.append((time.perf_counter() - start) * 1e3)
                self._stepper.settle()
        self._stepper.reset()
        return float(np.median(taken_ms[len(taken_ms) // 2 :]))

    def _new_conversation(self, own_ahead: Callable[[int], np.ndarray] | None = None) -> Conversation:
        segmenter = TurnSegmenter(self._settings.turns, hop_frames=self._hop_frames)
        return Conversation(self._stepper, segmenter, self._hop_frames, own_ahead)

    def _make_publishers(self) -> None:
        self._body = Body(self, self._profile, self._settings, self._hop_frames, self._playout_delay_ns)
        self._made.callback(self._body.destroy)
        self._speaking = {
            party: self._make_publisher(Bool, f"{party}/is_speaking", LATCHED) for party in (SELF, PARTNER)
        }
        self._floors = self._make_publisher(String, "~/floor", LATCHED)
        self._turns = self._make_publisher(String, "~/turns", 50)
        self._facts = self._make_publisher(String, "~/conversation", LATCHED)
        self._trace_of_silence = self._make_publisher(UInt8MultiArray, "~/trace", KEPT_TRACE)
        self._trace = self._make_publisher(UInt8MultiArray, "~/trace", VOICES_TRACE)
        self._diagnostics = self._make_publisher(DiagnosticArray, "/diagnostics", 10)

    def _make_publisher(self, message_type: type, topic: str, qos: QoSProfile | int) -> Publisher:
        publisher = self.create_lifecycle_publisher(message_type, topic, qos)
        self._made.callback(self.destroy_lifecycle_publisher, publisher)
        return publisher

    def _make_subscription(self, message_type: type, topic: str, take: Callable, qos: QoSProfile) -> None:
        subscription = self.create_subscription(message_type, topic, take, qos)
        self._made.callback(self.destroy_subscription, subscription)

    def _make_subscriptions(self) -> None:
        self._pairing = threading.Condition()
        self._pairer = FramePairer(max_wait_ms=self._settings.max_wait_ms)
        self._partner_face = PartnerFace()
        self._stopping = threading.Event()
        self._voices = Voices(
            self, self._settings, self._message_type, self._playout_delay_ns, self._pair, self._body.mouth
        )
        self._made.callback(self._voices.destroy)
        self._decoders = {party: AudioDecoder(self._message_type, self._audio_format) for party in AUDIO_TOPICS}
        for party, topic in AUDIO_TOPICS.items():
            qos = self._audio_qos(bursts=party == SELF and self._voices.queued)
            self._make_subscription(self._message_class, topic, self._hearer(party), qos)
            for subscription in subscribe_format(self, self._message_type, topic, self._info_taker(party)):
                self._made.callback(self.destroy_subscription, subscription)
        self._make_subscription(JointState, "partner/blendshapes", self._see_face, qos_profile_sensor_data)
        self._make_subscription(QuaternionStamped, "partner/head_pose", self._see_pose, qos_profile_sensor_data)
        for period_s, callback in ((1.0, self._report), (0.05, self._watch)):
            self._made.callback(self.destroy_timer, self.create_timer(period_s, callback))

    def _audio_qos(self, bursts: bool) -> QoSProfile:
        asked = self._settings.audio_reliability
        reliable = bursts if asked == "auto" else asked == "reliable"
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        return QoSProfile(depth=BURST.depth if bursts else 100, reliability=reliability)

    def _begin_conversation(self) -> None:
        p = self._settings
        self._stepper.reset()
        self._conversation = self._new_conversation(self._voices.known if self._lookahead_frames else None)
        self._voices.begin()
        with self._pairing:
            self._pairer = FramePairer(max_wait_ms=p.max_wait_ms)
        self._busy_since_ns: int | None = None
        self._statistics = HopStatistics()
        self._said: dict[str, object] = {}
        self._only_silence = True

    def _stop_threads(self) -> None:
        if self._hop_thread is None:
            return
        self._stopping.set()
        self._body.stop()  # before the hop thread ends: a policy that does not answer must not keep the head moving
        with self._pairing:
            self._pairing.notify()
        self._hop_thread.join()
        self._hop_thread = None

    # In: the executor's thread

    def _hearer(self, party: str):
        def hear(message) -> None:
            arrival_ns = self._now_ns()
            if self._hop_thread is None:
                return
            try:
                self._voices.take(party, lambda: self._decoders[party].decode(message), arrival_ns)
            except TimarError as error:
                self._statistics.refused[party] += 1
                self.get_logger().error(f"{AUDIO_TOPICS[party]}: {error}", throttle_duration_sec=5.0)

        return hear

    def _pair(self, party: str, chunk: AudioChunk, arrival_ns: int) -> None:
        if self._hop_thread is not None:
            with self._pairing:
                self._pairer.push(party, chunk, arrival_ns)
                self._pairing.notify()

    def _info_taker(self, party: str):
        def take(message) -> None:
            try:
                self._decoders[party].set_info(message)
            except TimarError as error:
                self.get_logger().error(f"{AUDIO_TOPICS[party]}_info: {error}")

        return take

    def _see_face(self, message: JointState) -> None:
        with self._pairing:
            self._partner_face.push_blendshapes(self._stamp_ns(message.header), message.name, message.position)

    def _see_pose(self, message: QuaternionStamped) -> None:
        q = message.quaternion
        with self._pairing:
            self._partner_face.push_pose(self._stamp_ns(message.header), (q.x, q.y, q.z, q.w))

    def _stamp_ns(self, header) -> int:
        return time_of(header.stamp) or self._now_ns()

    @property
    def _simulated_time(self) -> bool:
        clock = self.get_clock()
        return clock.clock_type == ClockType.ROS_TIME and clock.ros_time_is_active

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    # Through: the hop thread

    def _hear_and_move(self) -> None:
        try:
            while not self._stopping.is_set():
                frames = self._next_frames()
                self._busy_since_ns = self._now_ns() if frames else None
                for frame in frames:
                    self._conversation.hear(frame)
                if hop := self._conversation.draw():
                    self._move(hop)
                    self._stepper.settle()
                self._busy_since_ns = None
        except Exception as error:
            # The head comes to rest by its last trajectory; the executor's thread ends the process with this error.
            self._failure = error

    def _next_frames(self) -> list[Frame]:
        """The next frames of both voices, with the partner's face as it was then; none where none come for a while."""
        with self._pairing:
            frames = self._pairer.poll(self._now_ns())
            if not frames and not self._stopping.is_set():
                self._pairing.wait(self._wait_s())
                frames = self._pairer.poll(self._now_ns())
            nothing_heard_yet = self._pairer.next_deadline_ns() is None
            frames = [replace(f, partner_motion=self._partner_face.at(f.stamp_ns + FRAME_NS)) for f in frames]
        if nothing_heard_yet:
            self._body.idle()
        return [self._voices.clean(frame) for frame in frames]

    def _wait_s(self) -> float:
        deadline_ns = self._pairer.next_deadline_ns()
        if deadline_ns is None:
            return 0.02  # until the first sound the head shows idle life, which is due every hop
        # Simulated time may run at any rate: look again soon.
        longest = 0.005 if self._simulated_time else 0.5
        return min(max((deadline_ns - self._now_ns()) * 1e-9, 0.0005), longest)

    def _move(self, hop: Hop) -> None:
        stamps_ns = hop.stamps_ns
        first_due_ns = stamps_ns[0] + self._playout_delay_ns
        planned_ns, intensity = self._now_ns(), self._settings.intensity
        self._body.show(
            stamps_ns,
            hop.motion,
            heard=[frame.own_heard or frame.partner_heard for frame in hop.frames],
            quiet=[update.floor is Floor.NOBODY for update in hop.updates],
            rests_on_ns=hop.heard_until_ns,
        )
        published_ns = self._now_ns()
        self._statistics.add(hop, published_ns, missed=published_ns > first_due_ns - FRAME_NS)
        self._announce(hop)
        self._only_silence = self._only_silence and not any(f.own.any() or f.partner.any() for f in hop.frames)
        if self._only_silence or self._trace.get_subscription_count():
            trace = self._trace_of_silence if self._only_silence else self._trace
            trace.publish(UInt8MultiArray(data=array("B", encode_hop(hop, planned_ns, intensity))))

    # Out

    def _announce(self, hop: Hop) -> None:
        """Speaking and floor when they change, and every new turn."""
        for update in hop.updates:
            self._say("self", self._speaking[SELF], Bool(data=update.own_speaking))
            self._say("partner", self._speaking[PARTNER], Bool(data=update.partner_speaking))
            self._say("floor", self._floors, String(data=update.floor.value))
        first, first_ns = hop.frames[0].index, hop.stamps_ns[0]
        for boundary in hop.boundaries:
            stamp_ns = first_ns + (boundary.frame - first) * FRAME_NS
            turn = {
                "frame": boundary.frame,
                "stamp_ns": stamp_ns,
                "reason": boundary.reason,
                "floor": boundary.floor.value,
            }
            self._turns.publish(String(data=json.dumps(turn)))

    def _fall_silent(self) -> None:
        """Nothing more is said, and who hears of it later is told that nobody speaks."""
        self._voices.end(self._now_ns())
        self._say("self", self._speaking[SELF], Bool(data=False))
        self._say("partner", self._speaking[PARTNER], Bool(data=False))
        self._say("floor", self._floors, String(data=Floor.NOBODY.value))

    def _say(self, what: str, publisher, message) -> None:
        if self._said.get(what) != message.data:
            self._said[what] = message.data
            publisher.publish(message)

    def _watch(self) -> None:
        """Halt the head when the policy does not answer, many times a second."""
        if self._hop_thread is not None:
            self._body.watch(self._busy_since_ns)

    def _report(self) -> None:
        """Diagnostics, once a second while active."""
        if self._failure is not None:
            raise self._failure
        if self._hop_thread is None:
            return
        with self._pairing:
            health = self._pairer.health()
            spoiled = {party: decoder.invalid_samples for party, decoder in self._decoders.items()}
        merged = self._conversation.merged
        statuses = [self._statistics.latency_status(self._hop_frames, self._playout_delay_ns, merged)]
        for party in AUDIO_TOPICS:
            values = dict(health[party]) | {
                "refused_messages": self._statistics.refused[party],
                "invalid_samples": spoiled[party],
            }
            ok, said = values.pop("ok"), values.pop("message")
            statuses.append((f"audio {party}", not ok, said, values))
        statuses += self._voices.statuses(self._now_ns())
        policy = {
            "policy": self._policy.name, "device": str(self._stepper.device), "precision": self._stepper.precision,
            "robot": self._profile.name, "hop_frames": self._hop_frames,
            **{name: self._settings[name] for name in ("seed", "turns", "intensity", "temperature", "lookahead_ms")},
            "playout_delay_ms": self._playout_delay_ns // 10**6,
        }  # fmt: skip
        trouble = [said for said in (self._stepper.fallback, self._stepper.limitation) if said]
        statuses.append(("policy", bool(trouble), "; ".join(trouble) or "running", policy))
        statuses.append(self._body.status())
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        for name, bad, said, values in statuses:
            pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
            status = DiagnosticStatus(
                level=_LEVELS[int(bad)],
                name=f"{self.get_fully_qualified_name().lstrip('/')}: {name}",
                message=said,
                hardware_id=self.get_fully_qualified_name(),
                values=pairs,
            )
            message.status.append(status)
        self._diagnostics.publish(message)


def main() -> int:
    # Three threads share the interpreter; the default of 5 ms between switches would show in the latency.
    sys.setswitchinterval(0.0005)
    return run(HeadNode, make_executor=events_executor)


if __name__ == "__main__":
    sys.exit(main())
