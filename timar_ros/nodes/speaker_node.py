"""Plays the own voice so much later than its capture that the head's lips match it.

Lips run ahead of the sound, and the head shows a frame some 180 ms after its capture; so the sound is due 240 ms after
it, or 180 ms where the policy looks 120 ms ahead. The head node tells both parts of it.

    microphone/audio -> mono -> the device's rate -> PlayoutBuffer -> PortAudio's callback
                                                                 `-> ~/played, as it is heard

On a message on `microphone/audio_flush` what was not heard yet is dropped. Where no loudspeaker is, time goes on
without sound, so that `~/played` tells all the same what would be heard.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Empty, Float32

from timar_ros.errors import TimarError
from timar_ros.nodes import runtime
from timar_ros.nodes.muting import MuteListener, is_muted_topic
from timar_ros.nodes.parameters import Parameter, declare
from timar_ros.nodes.sound_devices import DeviceKeeper, NoSoundDeviceError, open_stream
from timar_ros.nodes.topics import LATCHED, message_type_parameter, publish_format, subscribe_format
from timar_ros.rates import FRAME_NS, PLAYOUT_RESERVE_MS
from timar_ros.stream.audio_messages import (
    AudioChunk,
    AudioDecoder,
    AudioFormat,
    audio_message_type,
    import_message_class,
    make_message,
)
from timar_ros.stream.frames import SELF
from timar_ros.stream.lookahead import lips_lead_ms
from timar_ros.stream.resampling import StreamResampler

PARAMETERS = (
    Parameter(
        "delay_ms",
        0.0,
        "from a sample's capture to its sound, ms; 0: what the head node tells of its delay and the lips' lead",
        minimum=0,
        maximum=2000,
    ),
    Parameter("head", "head", "name of the head node that tells its delay", read_only=True),
    Parameter(
        "device",
        "",
        "loudspeaker: its number or a part of its name; empty: the default",
        read_only=True,
    ),
    Parameter(
        "device_rate",
        0,
        "sample rate to open the loudspeaker with, Hz; 0: its own",
        read_only=True,
        check=lambda hz: None if hz == 0 or 8000 <= hz <= 48000 else "0, or 8000 to 48000",
    ),
    Parameter("volume", 1.0, "factor on the samples", minimum=0, maximum=4),
    Parameter(
        "retry_s",
        3.0,
        "how long to wait before a missing loudspeaker is tried again, s",
        minimum=0.1,
        maximum=60,
    ),
    message_type_parameter(),
    Parameter(
        "rate",
        16000,
        "sample rate of messages that do not tell theirs, Hz",
        minimum=8000,
        maximum=48000,
        read_only=True,
    ),
    Parameter(
        "channels",
        1,
        "channels of messages that do not tell theirs",
        minimum=1,
        maximum=64,
        read_only=True,
    ),
)

USUAL_PLAYOUT_MS = 2 * FRAME_NS / 1e6 + PLAYOUT_RESERVE_MS
"""The head's delay where no head node tells it: a hop of two frames."""
LONGEST_DELAY_S = 7.0
"""What the buffer holds: the longest playout delay of a head, its lips' lead and room for packets that came early."""


DEVICE_LATENCY_S = 0.06
"""What the device may hold. It is part of delay_ms, not added to it, and spares drop-outs; a flush cannot call it
back."""
PLAYED_S = 0.02
"""Length of a packet of what is played."""
UNHEARD_BLOCK_S = 0.01
OVERTAKEN_S = 0.03
"""A flush may overtake packets that were sent before it; speech that follows a flush begins later than this."""


class PlayoutBuffer:
    """Sound laid out on a timeline of samples, written as it comes and read as it is due.

    Position p stands for ROS time p / rate. Both sides keep to whole runs of samples and only leap
    where they are off by more than jitter: the writer from packet to packet, or where the mean of
    many is off, the reader from block to block, which slips a single sample at a time against clock
    drift. What was not written, or was read, is silence. One thread may write while another one reads.
    """

    WRITER_JITTER_S = 0.03
    UNSTAMPED_JITTER_S = 0.1
    """Of what counts by its arrival, which a busy machine delays."""
    WRITER_MEAN_S = 0.03
    WRITER_GAIN = 0.02
    READER_JITTER_S = 0.02
    SLIP_S = 0.002
    FADE_S = 0.005

    def __init__(self, rate: int, seconds: float = LONGEST_DELAY_S):
        self.rate = rate
        self._ring = np.zeros(round(rate * seconds), np.float32)
        self._write_at: int | None = None
        self._write_off = 0.0  # mean of how much later packets are than where they were laid down, samples
        self._read_at: int | None = None
        self._flushed = False

    def flush(self) -> None:
        """Drop what was not read yet; the reader fades it out within 5 ms."""
        self._flushed = True

    def continues(self, time_ns: int, jitter_s: float = WRITER_JITTER_S) -> bool:
        """Whether samples captured at ``time_ns`` carry on what was written last."""
        if self._write_at is None:
            return False
        return abs(self._position(time_ns) - self._write_at) <= jitter_s * self.rate

    def write(self, time_ns: int, samples: np.ndarray, jitter_s: float = WRITER_JITTER_S) -> None:
        """Lay down float32 [n] whose first is of ``time_ns``, or carries on what came before."""
        position = self._position(time_ns)
        if self.continues(time_ns, jitter_s):
            self._write_off += self.WRITER_GAIN * (position - self._write_at - self._write_off)
        if not self.continues(time_ns, jitter_s) or abs(self._write_off) > self.WRITER_MEAN_S * self.rate:
            self._write_at, self._write_off = position, 0.0
        start = self._write_at
        self._write_at += len(samples)
        if self._read_at is not None:
            # What is late must not lie in the ring until it comes round; nor what is far too early.
            late = max(0, self._read_at - start)
            room = self._read_at + len(self._ring) - start
            samples = samples[late : max(room, late)]
            start += late
        samples = samples[: len(self._ring)]
        self._ring[self._places(start, len(samples))] = samples

    def read(self, time_ns: int, count: int) -> np.ndarray:
        """The float32 [count] that are due from ``time_ns`` on; they are silence afterwards."""
        wanted = self._position(time_ns)
        if self._read_at is None:
            self._read_at = wanted
        off = wanted - self._read_at
        if abs(off) > self.READER_JITTER_S * self.rate:
            if off > 0:
                self._take(min(off, len(self._ring)))
            self._read_at = wanted
        elif abs(off) > self.SLIP_S * self.rate:
            self._read_at += 1 if off > 0 else -1
        samples = self._take(count)
        if self._flushed:
            self._flushed = False
            self._ring[:] = 0.0
            fade = min(round(self.rate * self.FADE_S), count)
            samples[:fade] *= np.linspace(1.0, 0.0, fade, dtype=np.float32)
            samples[fade:] = 0.0
        return samples

    def _take(self, count: int) -> np.ndarray:
        places = self._places(self._read_at, count)
        samples = self._ring[places]
        self._ring[places] = 0.0
        self._read_at += count
        return samples

    def _position(self, time_ns: int) -> int:
        return time_ns * self.rate // 1_000_000_000

    def _places(self, start: int, count: int) -> np.ndarray:
        return np.arange(start, start + count) % len(self._ring)


class SpeakerNode(Node):
    """The executor's thread writes the buffer and tells what was played; PortAudio's reads it, a third minds the
    device."""

    def __init__(self):
        super().__init__("speaker")
        self._settings = settings = declare(self, PARAMETERS)
        name = self._type = audio_message_type(settings.message_type).name
        self._class = import_message_class(name)
        self._decoder = AudioDecoder(name, AudioFormat(settings.rate, settings.channels))
        self._buffer: PlayoutBuffer | None = None
        self._unheard = PlayoutBuffer(settings.rate)
        self._unheard_due = 0.0
        self._deaf_until = 0.0
        self._resampler: StreamResampler | None = None
        audio = self.create_subscription(
            self._class,
            "microphone/audio",
            self._hear,
            QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT),
        )
        subscribe_format(self, name, audio.topic_name, self._learn_format)
        publish_format(self, "~/played", name, settings.rate)
        self.create_subscription(Empty, audio.topic_name + "_flush", self._flush, QoSProfile(depth=1))
        self._told_ms = {"playout_delay": USUAL_PLAYOUT_MS, "lips_lead": lips_lead_ms(0)}
        for name in self._told_ms:
            self.create_subscription(Float32, f"{settings.head}/{name}", self._learner(name), LATCHED)
        self._mute = MuteListener(self, is_muted_topic(SELF), self._flush)
        self._played_blocks: SimpleQueue[tuple[int, np.ndarray, int]] = SimpleQueue()
        self._played = Played(settings.rate, self._publish_played)
        self._played_publisher = self.create_publisher(self._class, "~/played", QoSProfile(depth=50))
        # By a clock that never stands still, as the device's does not: what it played would pile up.
        self.create_timer(PLAYED_S / 2, self._tell_played, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._device = DeviceKeeper(self._play, lambda: settings.retry_s, self.get_logger().error, self._play_unheard)
        self._device.start()

    def close(self) -> None:
        """Fall silent and give the device back."""
        self._device.close()

    def _learner(self, name: str) -> Callable[[Float32], None]:
        def learn(message: Float32) -> None:
            self._told_ms[name] = message.data

        return learn

    @property
    def _delay_ms(self) -> float:
        return self._settings.delay_ms or sum(self._told_ms.values())

    def _flush(self, _message: Empty | None = None) -> None:
        self._deaf_until = time.monotonic() + OVERTAKEN_S
        self._resampler = None
        if self._buffer is not None:
            self._buffer.flush()

    def _learn_format(self, info) -> None:
        try:
            self._decoder.set_info(info)
        except TimarError as error:
            self._device.tell(str(error))

    def _hear(self, message) -> None:
        arrival_ns = self.get_clock().now().nanoseconds
        buffer = self._buffer
        if buffer is None or self._mute.may_be_muted or time.monotonic() < self._deaf_until:
            return
        try:
            chunk = self._decoder.decode(message)
            self._lay_down(buffer, chunk, arrival_ns)
        except TimarError as error:
            self._device.tell(str(error))

    def _lay_down(self, buffer: PlayoutBuffer, chunk: AudioChunk, arrival_ns: int) -> None:
        captured_ns = chunk.stamp_ns
        if captured_ns is None:
            captured_ns = arrival_ns - chunk.duration_ns
        resampler = self._resampler
        if resampler is None or (resampler.rate_in, resampler.rate_out) != (
            chunk.rate,
            buffer.rate,
        ):
            self._resampler = resampler = StreamResampler(chunk.rate, buffer.rate)
        jitter_s = buffer.WRITER_JITTER_S if chunk.stamp_ns is not None else buffer.UNSTAMPED_JITTER_S
        if not buffer.continues(captured_ns - resampler.held_ns, jitter_s):
            resampler.reset()
        first_ns = captured_ns - resampler.held_ns
        samples = resampler.push(chunk.samples)
        buffer.write(first_ns, samples * np.float32(self._settings.volume), jitter_s)

    def _fill(self, buffer: PlayoutBuffer, frames: int, ahead_ns: int) -> np.ndarray:
        """The float32 [frames] that are heard `ahead_ns` from now on."""
        heard_ns = self.get_clock().now().nanoseconds + ahead_ns
        due_ns = heard_ns - round(self._delay_ms * 1e6)
        samples = np.clip(buffer.read(due_ns, frames), -1.0, 1.0)
        self._played_blocks.put((heard_ns, samples, buffer.rate))
        return samples

    def _play(self) -> None:
        """Play until the node ends; NoSoundDeviceError when the device is not there or goes."""
        buffer: PlayoutBuffer | None = None
        called = time.monotonic()

        def fill(out: np.ndarray, frames: int, times, _status) -> None:
            nonlocal called
            called = time.monotonic()
            if buffer is None:
                out[:] = 0.0
                return
            ahead_ns = round((times.outputBufferDacTime - times.currentTime) * 1e9)
            out[:] = self._fill(buffer, frames, max(ahead_ns, 0))[:, None]

        stream = open_stream(
            "output",
            self._settings.device,
            samplerate=self._settings.device_rate,
            channels=0,
            latency=DEVICE_LATENCY_S,
            callback=fill,
        )
        try:
            buffer = self._buffer = PlayoutBuffer(round(stream.samplerate))
            self._device.works()
            self.get_logger().info(
                f"playing on device {stream.device}: {buffer.rate} Hz, {self._delay_ms:g} ms after capture"
            )
            while not self._device.ending.wait(0.2):
                if not stream.active or time.monotonic() - called > 2.0:
                    raise NoSoundDeviceError(
                        "the loudspeaker takes no sound any more and seems to be unplugged; plug it in again"
                    )
        finally:
            self._buffer = None
            # A device that was pulled out may fail to close; that is no news any more.
            stream.close(ignore_errors=True)

    def _play_unheard(self, seconds: float) -> None:
        """Stand in for a loudspeaker that is not there, without a gap while it is looked for."""
        buffer = self._buffer = self._unheard
        count = round(buffer.rate * UNHEARD_BLOCK_S)
        end = time.monotonic() + seconds
        if end - self._unheard_due > LONGEST_DELAY_S:
            self._unheard_due = time.monotonic()
        while self._unheard_due < end:
            if self._device.ending.wait(max(0.0, self._unheard_due - time.monotonic())):
                return
            # Blocks that come late are of their time all the same.
            self._fill(buffer, count, round((self._unheard_due - time.monotonic()) * 1e9))
            self._unheard_due += UNHEARD_BLOCK_S

    def _tell_played(self) -> None:
        """Publish what has been heard by now, where anybody asks for it."""
        asked = self._played_publisher.get_subscription_count() > 0
        while not self._played_blocks.empty():
            block = self._played_blocks.get()
            if asked:
                self._played.push(*block)
        self._played.tell(self.get_clock().now().nanoseconds)

    def _publish_played(self, samples: np.ndarray, heard_ns: int) -> None:
        self._played_publisher.publish(make_message(self._class, self._type, samples, self._settings.rate, heard_ns))


class Played:
    """What a loudspeaker was given, as packets at one rate, each told when its last sample is heard.

    Args:
        rate: Hz of the packets.
        publish: takes a packet's samples and when its first is heard, ROS time in ns.
    """

    def __init__(self, rate: int, publish: Callable[[np.ndarray, int], None]) -> None:
        self._rate = rate
        self._packet = round(rate * PLAYED_S)
        self._publish = publish
        self._resampler: StreamResampler | None = None
        self._held = np.zeros(0, np.float32)
        self._held_ns = 0

    def push(self, heard_ns: int, samples: np.ndarray, rate: int) -> None:
        """Take a block that is heard from `heard_ns` on."""
        resampler = self._resampler
        end_ns = self._held_ns + len(self._held) * 1_000_000_000 // self._rate
        # What the resampler keeps back, and jitter of the device's times.
        if resampler is None or resampler.rate_in != rate or not -100_000_000 < heard_ns - end_ns < 100_000_000:
            self._resampler = resampler = StreamResampler(rate, self._rate)
            self._held = np.zeros(0, np.float32)
            self._held_ns = heard_ns
        self._held = np.concatenate([self._held, resampler.push(samples)])

    def tell(self, now_ns: int) -> None:
        packet_ns = self._packet * 1_000_000_000 // self._rate
        while len(self._held) >= self._packet and self._held_ns + packet_ns <= now_ns:
            self._publish(self._held[: self._packet], self._held_ns)
            self._held = self._held[self._packet :]
            self._held_ns += packet_ns


def main() -> int:
    """Run the loudspeaker until SIGINT or SIGTERM; returns the exit code."""
    return runtime.run(SpeakerNode, make_executor=runtime.events_executor)


if __name__ == "__main__":
    sys.exit(main())
