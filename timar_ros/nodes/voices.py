"""What stands between the voices' messages and the head's conversation: muting, the synthesiser's queue, the echo.

- `~/mute_self`, `~/mute_partner` (std_srvs/SetBool): of a muted voice nothing is decoded, paired or published. The
  latched `self/is_muted` and `partner/is_muted` tell the other nodes, which then do not publish, play or record it.
- With `own_voice: queued` the own voice may come in bursts (`stream.voice_queue`). What is spoken, in real time, goes
  to the conversation and out on `~/voice`, which the speaker node plays. `~/flush` (std_srvs/Trigger) drops the rest,
  tells speaker and synthesiser on `~/voice_flush` to be silent, and closes the mouth. What is queued is known before it
  is spoken: with `lookahead_ms` the policy hears it by so much earlier, nothing else does, and nothing is spoken later.
- The own voice is taken out of the partner's frames (`stream.echo`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from std_msgs.msg import Bool, Empty, Float32
from std_srvs.srv import SetBool, Trigger

from timar_ros.errors import TimarError
from timar_ros.model.checkpoint import Policy
from timar_ros.motion.mouth import MouthCloser
from timar_ros.nodes.muting import is_muted_topic
from timar_ros.nodes.parameters import Parameter, Parameters
from timar_ros.nodes.topics import LATCHED, publish_format
from timar_ros.rates import FRAME_NS
from timar_ros.stream.audio_messages import (
    AudioChunk,
    import_message_class,
    make_message,
)
from timar_ros.stream.echo import EchoCanceller
from timar_ros.stream.frames import PARTNER, SELF, Frame
from timar_ros.stream.lookahead import lips_lead_ms
from timar_ros.stream.steppers import most_lookahead_frames
from timar_ros.stream.voice_queue import PACKET_MS, VoiceQueue

LIVE, QUEUED = "live", "queued"
FRAME_MS = FRAME_NS // 1_000_000

VOICE_PARAMETERS = (
    Parameter(
        "own_voice",
        LIVE,
        "live: in real time, as from a microphone; queued: a synthesiser's, which may come faster and in bursts",
        choices=(LIVE, QUEUED),
        read_only=True,
    ),
    Parameter(
        "lookahead_ms",
        0,
        "with own_voice queued: by how much earlier than it is spoken the policy hears it, ms, in steps of 40",
        read_only=True,
        check=lambda ms: None if ms in range(0, 1001, FRAME_MS) else f"0 to 1000 in steps of {FRAME_MS}",
    ),
    Parameter(
        "echo_cancel",
        "auto",
        "takes the own voice out of the partner's channel; auto: where the own voice is queued, or is heard there",
        choices=("auto", "on", "off"),
        read_only=True,
    ),
)


def lookahead_refusal(values: Mapping[str, object]) -> str | None:
    """Why `own_voice` and `lookahead_ms` do not go together, if they do not."""
    if values["lookahead_ms"] and values["own_voice"] != QUEUED:
        return (
            f"parameter 'lookahead_ms' is {values['lookahead_ms']}, but the own voice is live: it is not known before "
            "it is heard; set lookahead_ms to 0, or own_voice to queued where a synthesiser speaks"
        )
    return None


def lookahead_frames(lookahead_ms: int, policy: Policy) -> int:
    """By how many frames the policy is to hear the own voice earlier.

    Raises:
        TimarError: it does not know that many.
    """
    most_ms = most_lookahead_frames(policy) * FRAME_MS
    if lookahead_ms > most_ms:
        raise TimarError(
            f"parameter 'lookahead_ms' is {lookahead_ms}; policy {policy.name} knows "
            f"{f'0 to {most_ms}' if most_ms else 'no look-ahead'}; set it to {most_ms}, or take another policy"
        )
    return lookahead_ms // FRAME_MS


class Voices:
    """See the module. All but `clean` and `known` is for the executor's thread.

    Args:
        playout_delay_ns: from a frame's capture until the head shows it; told on the latched `~/playout_delay` (ms),
            beside `~/lips_lead` (ms), by how much later than that the sound is due.
        hear: takes a party, a chunk in real time and its time of arrival in ns.
        mouth: closes when the own voice is broken off or muted, opens when it sounds again or a conversation begins.
    """

    def __init__(
        self,
        node: LifecycleNode,
        settings: Parameters,
        type_name: str,
        playout_delay_ns: int,
        hear: Callable[[str, AudioChunk, int], None],
        mouth: MouthCloser,
    ) -> None:
        self._node = node
        self._settings = settings
        self._type_name = type_name
        self._hear = hear
        self._mouth = mouth
        self._lookahead_ns = settings.lookahead_ms * 1_000_000
        self._queueing = threading.Lock()
        self._muted = {SELF: False, PARTNER: False}
        self._mute_publishers = {p: node.create_publisher(Bool, is_muted_topic(p), LATCHED) for p in self._muted}
        self._services = [node.create_service(SetBool, f"~/mute_{p}", self._muter(p)) for p in self._muted]
        self._services.append(node.create_service(Trigger, "~/flush", self._flush_on_request))
        delay = node.create_publisher(Float32, "~/playout_delay", LATCHED)
        delay.publish(Float32(data=playout_delay_ns / 1e6))
        lead = node.create_publisher(Float32, "~/lips_lead", LATCHED)
        lead.publish(Float32(data=lips_lead_ms(settings.lookahead_ms // FRAME_MS)))
        self._timers, self._publishers = [], [delay, lead, *self._mute_publishers.values()]
        if self.queued:
            self._make_player()
        self._tell_muted()
        self._forget()
        self._active = False

    @property
    def queued(self) -> bool:
        return self._settings.own_voice == QUEUED

    def begin(self) -> None:
        """A conversation begins: nothing is queued, no echo is known. What is muted stays muted."""
        self._forget()
        self._mouth.open(self._now_ns())
        self._active = True

    def end(self, now_ns: int) -> None:
        """It ends: the own voice is broken off, and nothing is given out until another one begins."""
        self.flush(now_ns)
        self._active = False

    def _forget(self) -> None:
        choice = self._settings.echo_cancel
        self._queue = VoiceQueue(self._settings.audio_rate)
        self._echo = None if choice == "off" else EchoCanceller(choice == "on" or self.queued)

    def destroy(self) -> None:
        for timer in self._timers:
            self._node.destroy_timer(timer)
        for service in self._services:
            self._node.destroy_service(service)
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)

    def take(self, party: str, decode: Callable[[], AudioChunk], arrival_ns: int) -> None:
        """A message of a party came; a muted one is not even decoded. Raises TimarError for a bad one."""
        if self._muted[party]:
            return
        if party == SELF and self.queued:
            chunk = decode()
            with self._queueing:
                self._queue.push(chunk, arrival_ns)
        else:
            self._pass_on(party, decode(), arrival_ns)

    def clean(self, frame: Frame) -> Frame:
        """The frame without the own voice in the partner's; from the thread that takes frames."""
        if self._echo is None:
            return frame
        if not frame.partner_heard:
            self._echo.pass_by(frame.own)
            return frame
        return replace(frame, partner=self._echo(frame.own, frame.partner))

    def known(self, stamp_ns: int) -> np.ndarray:
        """The own voice of the frame that lies `lookahead_ms` after the one captured at a time, as far as it is known.

        float32 [640]; from the thread that moves the head.
        """
        with self._queueing:
            return self._queue.known(stamp_ns + self._lookahead_ns)

    def flush(self, now_ns: int) -> int:
        """Break the own voice off: nothing of it is heard any more, the mouth closes. The ns of speech dropped."""
        with self._queueing:
            dropped_ns = self._queue.flush(now_ns)
        if self.queued:
            self._flushed.publish(Empty())
        self._mouth.close(now_ns)
        return dropped_ns

    def statuses(self, now_ns: int) -> list[tuple[str, bool, str, dict[str, object]]]:
        """Of the diagnostics: name, whether to warn, a sentence, values."""
        found = []
        if self.queued:
            warn, said, values = self._queue.health(now_ns)
            found.append(("own voice", warn, said, values))
        values: dict[str, object] = {"echo_cancel": self._settings.echo_cancel}
        said = "off"
        if self._echo is not None:
            delay, suppression = self._echo.delay_ms, self._echo.suppression_db
            said = "the own voice was not heard in the partner's channel" if delay is None else "taken out"
            values |= {
                "active": self._echo.active,
                "delay_ms": "" if delay is None else round(delay, 1),
                "suppression_db": "" if suppression is None else round(suppression, 1),
            }
        found.append(("echo", False, said, values))
        return found

    def _make_player(self) -> None:
        node, rate = self._node, self._settings.audio_rate
        self._class = import_message_class(self._type_name)
        self._voice = node.create_publisher(self._class, "~/voice", QoSProfile(depth=100))
        self._flushed = node.create_publisher(Empty, "~/voice_flush", QoSProfile(depth=1))
        self._publishers += [self._voice, self._flushed]
        if info := publish_format(node, "~/voice", self._type_name, rate):
            self._publishers.append(info)
        self._timers.append(node.create_timer(PACKET_MS / 1000, self._speak))

    def _speak(self) -> None:
        """Give out what is due of the queue, to the conversation and to the speaker node."""
        if not self._active:
            return
        now_ns = self._now_ns()
        with self._queueing:
            packets = self._queue.due(now_ns)
        for packet in packets:
            self._pass_on(SELF, packet, now_ns)
            message = make_message(self._class, self._type_name, packet.samples, packet.rate, packet.stamp_ns)
            self._voice.publish(message)

    def _pass_on(self, party: str, chunk: AudioChunk, now_ns: int) -> None:
        if party == SELF and chunk.samples.any():
            self._mouth.open(now_ns)
        self._hear(party, chunk, now_ns)

    def _flush_on_request(self, _request: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        if not self.queued:
            answer.success = False
            answer.message = "the own voice is live: there is nothing to drop; own_voice:=queued is for synthesisers"
            return answer
        dropped_ns = self.flush(self._now_ns())
        answer.success, answer.message = True, f"dropped {dropped_ns / 1e9:.2f} s of speech"
        return answer

    def _muter(self, party: str):
        def mute(request: SetBool.Request, answer: SetBool.Response) -> SetBool.Response:
            if request.data and party == SELF and not self._muted[SELF]:
                self.flush(self._now_ns())
            self._muted[party] = request.data
            self._tell_muted()
            answer.success = True
            answer.message = f"{party} is {'muted' if request.data else 'heard'}"
            return answer

        return mute

    def _tell_muted(self) -> None:
        for party, publisher in self._mute_publishers.items():
            publisher.publish(Bool(data=self._muted[party]))

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds
