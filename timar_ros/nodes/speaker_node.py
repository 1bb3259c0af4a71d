"""Plays the own voice so much later than its capture that the head's lips match it.

Real lips run about 120 ms ahead of the sound, and the head shows a frame some 172 ms after its
capture, so the sound is due 290 ms after it.

    microphone/audio -> mono -> the device's rate -> PlayoutBuffer -> PortAudio's callback
"""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from timar_ros.errors import TimarError
from timar_ros.nodes import runtime
from timar_ros.nodes.parameters import Parameter, declare
from timar_ros.nodes.sound_devices import NoSoundDeviceError, open_stream
from timar_ros.stream.audio_messages import (
    AUDIO_MESSAGE_TYPES,
    AUTO,
    AudioChunk,
    AudioDecoder,
    AudioFormat,
    audio_message_type,
    import_message_class,
)
from timar_ros.stream.resampling import StreamResampler

PARAMETERS = (
    Parameter(
        "delay_ms",
        290.0,
        "from a sample's capture to its sound, ms: the head's playout delay + 120",
        minimum=0,
        maximum=2000,
    ),
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
    Parameter(
        "message_type",
        AUTO,
        "type of the audio messages; auto: AudioDataStamped where audio_common_msgs is installed, else Int16MultiArray",
        choices=(AUTO, *AUDIO_MESSAGE_TYPES),
        read_only=True,
    ),
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

LONGEST_DELAY_S = 4.0
"""What the buffer holds: the longest delay_ms and as much again for packets that came early."""


DEVICE_LATENCY_S = 0.1
"""What the device may hold. It is part of delay_ms, not added to it, and spares drop-outs."""


class PlayoutBuffer:
    """Sound laid out on a timeline of samples, written as it comes and read as it is due.

    Position p stands for ROS time p / rate. Both sides keep to whole runs of samples and only leap
    where they are off by more than jitter: the writer from packet to packet, the reader from block
    to block, which slips a single sample at a time against clock drift. What was not written, or
    was read, is silence. One thread may write while another one reads.
    """

    WRITER_JITTER_S = 0.03
    READER_JITTER_S = 0.02
    SLIP_S = 0.002

    def __init__(self, rate: int, seconds: float = LONGEST_DELAY_S):
        self.rate = rate
        self._ring = np.zeros(round(rate * seconds), np.float32)
        self._write_at: int | None = None
        self._read_at: int | None = None

    def continues(self, time_ns: int) -> bool:
        """Whether samples captured at ``time_ns`` carry on what was written last."""
        if self._write_at is None:
            return False
        return abs(self._position(time_ns) - self._write_at) <= self.WRITER_JITTER_S * self.rate

    def write(self, time_ns: int, samples: np.ndarray) -> None:
        """Lay down float32 [n] whose first is of ``time_ns``, or carries on what came before."""
        if not self.continues(time_ns):
            self._write_at = self._position(time_ns)
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
        return self._take(count)

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
    """The executor's thread writes the buffer, PortAudio's reads it, a third minds the device."""

    def __init__(self):
        super().__init__("speaker")
        self._settings = settings = declare(self, PARAMETERS)
        name = audio_message_type(settings.message_type).name
        self._decoder = AudioDecoder(name, AudioFormat(settings.rate, settings.channels))
        self._buffer: PlayoutBuffer | None = None
        self._resampler: StreamResampler | None = None
        self._told = ""
        audio = self.create_subscription(
            import_message_class(name),
            "microphone/audio",
            self._hear,
            QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT),
        )
        info_type = audio_message_type(name).info_type
        if info_type is not None:
            self.create_subscription(
                import_message_class(info_type),
                audio.topic_name + "_info",
                self._learn_format,
                QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL),
            )
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._mind_device, name="loudspeaker")
        self._thread.start()

    def close(self) -> None:
        """Fall silent and give the device back."""
        self._ending.set()
        self._thread.join()

    def _learn_format(self, info) -> None:
        try:
            self._decoder.set_info(info)
        except TimarError as error:
            self._tell(str(error))

    def _hear(self, message) -> None:
        arrival_ns = self.get_clock().now().nanoseconds
        buffer = self._buffer
        if buffer is None:
            return
        try:
            chunk = self._decoder.decode(message)
            self._lay_down(buffer, chunk, arrival_ns)
        except TimarError as error:
            self._tell(str(error))

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
            self._held_ns = 0
        if not buffer.continues(captured_ns - self._held_ns):
            resampler.reset()
            self._held_ns = 0
        samples = resampler.push(chunk.samples)
        # What the resampler keeps back of this packet comes first with the next one.
        first_ns = captured_ns - self._held_ns
        self._held_ns += chunk.duration_ns - len(samples) * 1_000_000_000 // buffer.rate
        buffer.write(first_ns, samples * np.float32(self._settings.volume))

    def _mind_device(self) -> None:
        while not self._ending.is_set():
            try:
                self._play()
            except NoSoundDeviceError as error:
                self._tell(f"{error}; trying again every {self._settings.retry_s:g} s")
                self._ending.wait(self._settings.retry_s)

    def _tell(self, trouble: str) -> None:
        """Say a trouble once, not with every packet or attempt."""
        if trouble != self._told:
            self._told = trouble
            self.get_logger().error(trouble)

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
            # ROS time at which this block's first sample is heard.
            ahead_ns = round((times.outputBufferDacTime - times.currentTime) * 1e9)
            heard_ns = self.get_clock().now().nanoseconds + max(ahead_ns, 0)
            due_ns = heard_ns - round(self._settings.delay_ms * 1e6)
            out[:] = np.clip(buffer.read(due_ns, frames), -1.0, 1.0)[:, None]

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
            self._told = ""
            self.get_logger().info(
                f"playing on device {stream.device}: {buffer.rate} Hz, {self._settings.delay_ms:g} ms after capture"
            )
            while not self._ending.wait(0.2):
                if not stream.active or time.monotonic() - called > 2.0:
                    raise NoSoundDeviceError(
                        "the loudspeaker takes no sound any more and seems to be unplugged; plug it in again"
                    )
        finally:
            self._buffer = None
            # A device that was pulled out may fail to close; that is no news any more.
            stream.close(ignore_errors=True)


def main() -> int:
    """Run the loudspeaker until SIGINT or SIGTERM; returns the exit code."""
    return runtime.run(SpeakerNode, make_executor=runtime.events_executor)


if __name__ == "__main__":
    sys.exit(main())
