"""A voice as audio messages: from a microphone, or from a sound file paced in real time.

One thread owns the source and publishes; the executor's thread only serves ROS. A packet leaves
when its last sample is due, its stamp is the capture of its first. A microphone that is missing or
goes away is waited for. While the head node has its voice muted, nothing is published.

    microphone or file -> mono -> published rate -> packets on `microphone/audio`
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np
import soxr
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from timar_ros.errors import TimarError
from timar_ros.nodes import runtime
from timar_ros.nodes.muting import MuteListener, is_muted_topic, party_of
from timar_ros.nodes.parameters import Parameter, declare
from timar_ros.nodes.sound_devices import DeviceKeeper, NoSoundDeviceError, open_stream
from timar_ros.nodes.topics import message_type_parameter, publish_format
from timar_ros.stream.audio_messages import (
    audio_message_type,
    import_message_class,
    make_message,
)
from timar_ros.stream.resampling import StreamResampler

PARAMETERS = (
    Parameter(
        "file",
        "",
        "sound file (wav, flac, ogg) to play instead of a microphone; empty: microphone",
        read_only=True,
    ),
    Parameter(
        "start_at",
        0.0,
        "ROS time in s at which the file begins; 0: as soon as there are subscribers",
        minimum=0,
        maximum=1e10,
        read_only=True,
    ),
    Parameter(
        "wait_for_subscribers",
        1,
        "how many subscribers the file waits for where start_at is 0",
        minimum=0,
        maximum=100,
        read_only=True,
    ),
    Parameter("loop", False, "play the file again and again", read_only=True),
    Parameter("exit_at_end", False, "end the node with the file", read_only=True),
    Parameter(
        "device",
        "",
        "microphone: its number or a part of its name; empty: the default",
        read_only=True,
    ),
    Parameter(
        "device_rate",
        0,
        "sample rate to open the microphone with, Hz; 0: its own",
        read_only=True,
        check=lambda hz: None if hz == 0 or 8000 <= hz <= 48000 else "0, or 8000 to 48000",
    ),
    Parameter(
        "device_channels",
        0,
        "channels to open the microphone with; 0: its own, at most 2",
        minimum=0,
        maximum=64,
        read_only=True,
    ),
    Parameter(
        "retry_s",
        3.0,
        "how long to wait before a missing microphone is tried again, s",
        minimum=0.1,
        maximum=60,
    ),
    Parameter("rate", 16000, "published sample rate, Hz", minimum=8000, maximum=48000, read_only=True),
    Parameter("packet_ms", 10, "length of a packet, ms", minimum=1, maximum=200, read_only=True),
    message_type_parameter(),
    Parameter("frame_id", "microphone", "frame_id of stamped messages", read_only=True),
    Parameter(
        "reliability",
        "reliable",
        "reliability offered to subscribers",
        choices=("reliable", "best_effort"),
        read_only=True,
    ),
    Parameter("depth", 50, "packets kept for slow subscribers", minimum=1, maximum=1000, read_only=True),
)

STALL_S = 2.0
"""A microphone that gives nothing for so long is taken to be gone."""
LOOK_S = 0.01
"""How often the clock, which may run at any rate, and the subscribers are looked at before a file begins."""
LONG_WAIT_S = 10.0


class CaptureClock:
    """Capture times of a stream's samples from the jittered times at which its blocks came.

    ``update(index, now_ns)`` says that sample ``index`` was captured at ``now_ns``, as far as that
    can be known; the line through these is followed slowly, and anew after a jump.
    """

    FOLLOW = 0.05
    JUMP_NS = 100_000_000

    def __init__(self, rate: float):
        self._rate = rate
        self._index: int | None = None
        self._time_ns = 0.0

    def update(self, index: int, captured_ns: int) -> None:
        """Learn of one sample's measured capture time."""
        error = captured_ns - self.time_ns(index) if self._index is not None else 0.0
        if self._index is None or abs(error) > self.JUMP_NS:
            self._time_ns = float(captured_ns)
        else:
            self._time_ns = self.time_ns(index) + self.FOLLOW * error
        self._index = index

    def time_ns(self, index: float) -> float:
        """Capture time of any sample, ROS time in ns; needs one update before."""
        return self._time_ns + (index - self._index) * 1e9 / self._rate


class SoundFile:
    """A sound file of any rate and channel count as mono float32 at ``rate`` Hz.

    Raises TimarError where ``path`` is missing or no sound file, and later where it breaks off.
    """

    BLOCK_S = 0.5

    def __init__(self, path: str, rate: int):
        import soundfile

        self.path = Path(path).expanduser()
        self.rate = rate
        if not self.path.is_file():
            raise TimarError(f"the sound file {self.path} does not exist; give the path of one")
        try:
            self._file = soundfile.SoundFile(self.path)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise TimarError(
                f"{self.path} is no sound file that can be read ({error}); give a wav, flac or ogg "
                "file, such as `ffmpeg -i INPUT OUTPUT.wav` makes"
            ) from error
        if self._file.frames == 0:
            raise TimarError(f"the sound file {self.path} holds no sound; give another")

    @property
    def seconds(self) -> float:
        return self._file.frames / self._file.samplerate

    def packets(self, size: int, loop: bool) -> Iterator[np.ndarray]:
        """float32 [size] after float32 [size], the last one shorter; without end when looped."""
        held = np.zeros(0, np.float32)
        while True:
            for block in self._pass():
                held = np.concatenate([held, block])
                whole = len(held) // size * size
                yield from held[:whole].reshape(-1, size)
                held = held[whole:]
            if not loop:
                break
        if len(held):
            yield held

    def _pass(self) -> Iterator[np.ndarray]:
        self._file.seek(0)
        source_rate = self._file.samplerate
        resample = soxr.ResampleStream(source_rate, self.rate, 1, dtype="float32") if source_rate != self.rate else None
        block_frames = round(source_rate * self.BLOCK_S)
        while True:
            block = self._read(block_frames).mean(axis=1)
            last = len(block) < block_frames
            yield resample.resample_chunk(block, last=last) if resample else block
            if last:
                return

    def _read(self, frames: int) -> np.ndarray:
        begin_s = self._file.tell() / self._file.samplerate
        try:
            return self._file.read(frames, dtype="float32", always_2d=True)
        except RuntimeError as error:  # soundfile's
            raise TimarError(
                f"{self.path} cannot be read beyond {begin_s:.1f} s ({error}); give a whole file, such as "
                "`ffmpeg -i INPUT OUTPUT.wav` makes"
            ) from error

    def close(self) -> None:
        self._file.close()


class MicrophoneNode(Node):
    """Publishes one voice; see the module."""

    def __init__(self):
        super().__init__("microphone")
        self._settings = settings = declare(self, PARAMETERS)
        self._type = audio_message_type(settings.message_type).name
        self._class = import_message_class(self._type)
        self._sound_file = SoundFile(settings.file, settings.rate) if settings.file else None
        self._packet = round(settings.rate * settings.packet_ms / 1000)
        self._audio = self.create_publisher(
            self._class,
            "microphone/audio",
            QoSProfile(
                depth=settings.depth,
                reliability=ReliabilityPolicy[settings.reliability.upper()],
            ),
        )
        publish_format(self, self._audio.topic_name, self._type, self._settings.rate)
        self._mute = MuteListener(self, is_muted_topic(party_of(self._audio.topic_name)))
        source = self._play_file if self._sound_file else self._listen_to_device
        self._device = DeviceKeeper(source, lambda: settings.retry_s, self.get_logger().error)
        self._ending = self._device.ending
        self._device.start()

    def close(self) -> None:
        """Stop publishing and give the device or the file back."""
        self._device.close()
        if self._sound_file:
            self._sound_file.close()

    def _publish(self, samples: np.ndarray, stamp_ns: int) -> None:
        if self._mute.may_be_muted:
            return
        message = make_message(self._class, self._type, samples, self._settings.rate, stamp_ns)
        if hasattr(message, "header"):
            message.header.frame_id = self._settings.frame_id
        self._audio.publish(message)

    # --- a file --------------------------------------------------------------------------------

    def _play_file(self) -> None:
        start_ns = self._wait_for_start()
        if start_ns is None:
            return
        # The system clock may be set while the file plays; packets keep to the steady one.
        offset_ns = time.monotonic_ns() - self.get_clock().now().nanoseconds
        late_ns = -offset_ns + time.monotonic_ns() - start_ns
        skipped = max(0, late_ns // 1_000_000 // self._settings.packet_ms)
        if skipped:
            self.get_logger().warning(
                f"start_at was {late_ns / 1e9:.2f} s ago: what should have been heard by now is "
                "left out, so that the rest is in time"
            )
        path, seconds = self._sound_file.path, self._sound_file.seconds
        self.get_logger().info(f"playing {path}, {seconds:.1f} s")
        position = 0
        rate = self._settings.rate
        for number, samples in enumerate(self._sound_file.packets(self._packet, self._settings.loop)):
            first_ns = start_ns + position * 1_000_000_000 // rate
            position += len(samples)
            if number < skipped:
                continue
            due_ns = start_ns + position * 1_000_000_000 // rate + offset_ns
            if self._ending.wait(max(0, due_ns - time.monotonic_ns()) / 1e9):
                return
            self._publish(samples, first_ns)
        self.get_logger().info(f"end of {path}: nothing more is published")
        if self._settings.exit_at_end:
            # What reliable subscribers of a busy machine have not taken in yet would go with this node.
            self._audio.wait_for_all_acked(runtime.LONGEST_FAREWELL)
            runtime.request_stop()

    def _wait_for_start(self) -> int | None:
        """The ROS time at which the file begins, ns; None when the node ends before."""
        if self._settings.start_at > 0:
            start_ns = round(self._settings.start_at * 1e9)
            ahead_s = (start_ns - self.get_clock().now().nanoseconds) / 1e9
            if ahead_s > LONG_WAIT_S:
                self.get_logger().info(
                    f"start_at is in {ahead_s:.0f} s by this node's clock; nothing is published before"
                )
            while ahead_s > 0:
                if self._ending.wait(min(ahead_s, LOOK_S)):
                    return None
                ahead_s = (start_ns - self.get_clock().now().nanoseconds) / 1e9
            return start_ns
        # Simulated time is 0 until it was heard of.
        while not self._heard_by_all() or not self.get_clock().now().nanoseconds:
            if self._ending.wait(LOOK_S):
                return None
        return self.get_clock().now().nanoseconds

    def _heard_by_all(self) -> bool:
        return self._audio.get_subscription_count() >= self._settings.wait_for_subscribers

    # --- a microphone --------------------------------------------------------------------------

    def _listen_to_device(self) -> None:
        """Publish what the microphone hears until the node ends; NoSoundDeviceError when it
        goes.
        """
        blocks: SimpleQueue = SimpleQueue()

        def receive(data: np.ndarray, _frames: int, times, _status) -> None:
            age_ns = round((times.currentTime - times.inputBufferAdcTime) * 1e9)
            blocks.put((self.get_clock().now().nanoseconds - max(age_ns, 0), data.mean(axis=1)))

        stream = open_stream(
            "input",
            self._settings.device,
            samplerate=self._settings.device_rate,
            channels=self._settings.device_channels,
            latency="low",
            callback=receive,
        )
        device_rate = round(stream.samplerate)
        self._device.works()
        self.get_logger().info(f"listening to device {stream.device}: {device_rate} Hz, {stream.channels} channels")
        try:
            self._publish_blocks(blocks, device_rate)
        finally:
            # A device that was pulled out may fail to close; that is no news any more.
            stream.close(ignore_errors=True)

    def _publish_blocks(self, blocks: SimpleQueue, device_rate: int) -> None:
        clock = CaptureClock(device_rate)
        resampler = StreamResampler(device_rate, self._settings.rate)
        taken = published = 0
        held = np.zeros(0, np.float32)
        heard = time.monotonic()
        while not self._ending.is_set():
            try:
                captured_ns, samples = blocks.get(timeout=0.1)
            except Empty:
                if time.monotonic() - heard > STALL_S:
                    raise NoSoundDeviceError(
                        f"the microphone has given no sound for {STALL_S:g} s and seems to be "
                        "unplugged; plug it in again"
                    ) from None
                continue
            heard = time.monotonic()
            clock.update(taken, captured_ns)
            taken += len(samples)
            held = np.concatenate([held, resampler.push(samples)])
            while len(held) >= self._packet:
                first_ns = clock.time_ns(published * device_rate / self._settings.rate)
                self._publish(held[: self._packet], round(first_ns))
                held = held[self._packet :]
                published += self._packet


def main() -> int:
    """Run the microphone until SIGINT, SIGTERM or the end of its file; returns the exit code."""
    return runtime.run(MicrophoneNode, make_executor=runtime.events_executor)


if __name__ == "__main__":
    sys.exit(main())
