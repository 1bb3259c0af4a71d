"""Audio messages, both ways: any type that ROS 2 systems send -> float32 mono, and back.

One row of `AUDIO_MESSAGE_TYPES` describes one message type: how to read it, how to fill it, and
what to install where its package is missing. Nothing is imported until a class is asked for, and
messages are read by their fields alone, so rclpy's messages and those of `rosbags` serve alike.
"""

import array
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from timar_ros.errors import TimarError

MIN_RATE, MAX_RATE = 8_000, 48_000
"""Sample rates that are accepted, Hz."""
MAX_MESSAGE_S = 10.0
MAX_MESSAGE_BYTES = 10_000_000
"""A message above either bound is no live audio: most likely a whole recording sent at once."""


@dataclass(frozen=True)
class AudioFormat:
    """How samples lie in a message: rate in Hz, interleaved channels, encoding ("S16LE")."""

    rate: int = 16_000
    channels: int = 1
    encoding: str = "S16LE"


@dataclass(frozen=True)
class AudioChunk:
    """A stretch of one voice.

    Attributes:
        stamp_ns: capture of the first sample, ROS time in ns; None where the message has no stamp.
        rate: Hz.
        samples: float32 [n], mono in [-1, 1], every value finite.
        invalid_samples: how many values were NaN or infinite and became 0.
    """

    stamp_ns: int | None
    rate: int
    samples: np.ndarray
    invalid_samples: int = 0

    @property
    def duration_ns(self) -> int:
        return round(len(self.samples) * 1_000_000_000 / self.rate)


@dataclass(frozen=True)
class Encoding:
    """One sample format: a value v stands for (v - offset) / scale in [-1, 1]."""

    dtype: np.dtype
    scale: float
    offset: float = 0.0


ENCODINGS: dict[str, Encoding] = {
    "S8": Encoding(np.dtype("i1"), 2.0**7),
    "U8": Encoding(np.dtype("u1"), 2.0**7, 2.0**7),
    "S16LE": Encoding(np.dtype("<i2"), 2.0**15),
    "S16BE": Encoding(np.dtype(">i2"), 2.0**15),
    "S32LE": Encoding(np.dtype("<i4"), 2.0**31),
    "S32BE": Encoding(np.dtype(">i4"), 2.0**31),
    "F32LE": Encoding(np.dtype("<f4"), 1.0),
    "F32BE": Encoding(np.dtype(">f4"), 1.0),
}

# Other spellings, after upper case and without "pcm" and punctuation ("pcm-s16" -> "S16").
_SPELLINGS = {
    "INT8": "S8", "I8": "S8", "UINT8": "U8", "UNSIGNED8": "U8",
    "S16": "S16LE", "INT16": "S16LE", "I16": "S16LE", "INT16LE": "S16LE", "SIGNED16": "S16LE",
    "S32": "S32LE", "INT32": "S32LE", "I32": "S32LE", "INT32LE": "S32LE", "SIGNED32": "S32LE",
    "F32": "F32LE", "FLOAT": "F32LE", "FLOAT32": "F32LE", "FLT": "F32LE", "FLOAT32LE": "F32LE",
    "INT16BE": "S16BE", "INT32BE": "S32BE", "FLOAT32BE": "F32BE",
}  # fmt: skip

# PaSampleFormat in portaudio.h; pyaudio uses the same numbers.
_PORTAUDIO = {1: "F32LE", 2: "S32LE", 8: "S16LE", 16: "S8", 32: "U8"}


def encoding_name(spelling: str | int) -> str:
    """The name in `ENCODINGS` of an encoding in any usual spelling ("pcm-s16", "S16_LE", 8).

    Raises:
        TimarError: if nothing here decodes it.
    """
    if isinstance(spelling, (int, np.integer)):
        name = _PORTAUDIO.get(int(spelling) & 0x7FFFFFFF, "")
    else:
        key = re.sub(r"[^A-Z0-9]", "", str(spelling).upper()).removeprefix("PA").removeprefix("PCM")
        name = key if key in ENCODINGS else _SPELLINGS.get(key, "")
    if not name:
        raise TimarError(
            f"The audio encoding {spelling!r} is not known here; known are {', '.join(ENCODINGS)} "
            f"(and PortAudio's numbers {', '.join(map(str, _PORTAUDIO))}); have the publisher "
            "send one of these, best S16LE."
        )
    return name


# --- the table of message types ------------------------------------------------------------------

Payload = Any
Reader = Callable[[Any, AudioFormat], tuple[Any, Payload, AudioFormat]]
"""(message, defaults) -> (stamp message or None, samples as the message holds them, format)."""
Writer = Callable[[Any, np.ndarray, AudioFormat], Any]
"""(blank message, encoded samples, format) -> the stamp to be set, or None. Fills the message."""


@dataclass(frozen=True)
class AudioMessageType:
    """One message type.

    Attributes:
        install: how a person gets the package.
        in_bytes: whether the samples lie in a `uint8[]` whatever their encoding.
        encoding: what `make_message` writes.
        info_type: a message on a topic of its own that tells the format, or None.
        stamped: whether messages say when they were captured.
        stamped_at_end: whether that is when they were full, instead of when their first sample was.
    """

    name: str
    install: str
    read: Reader
    write: Writer
    in_bytes: bool
    encoding: str = "S16LE"
    info_type: str | None = None
    stamped: bool = True
    stamped_at_end: bool = False


def _read_data_stamped(message, defaults):
    return message.header.stamp, message.audio.data, defaults


def _write_data_stamped(message, samples, audio_format):
    message.audio.data = _array(samples.view(np.uint8))
    return message.header.stamp


def _read_data(message, defaults):
    return None, message.data, defaults


def _write_data(message, samples, audio_format):
    message.data = _array(samples.view(np.uint8))


_AUDIO_STAMPED_FIELDS = {
    "F32LE": "float32_data",
    "S32LE": "int32_data",
    "S16LE": "int16_data",
    "S8": "int8_data",
    "U8": "uint8_data",
}


def _read_audio_stamped(message, defaults):
    info, data = message.audio.info, message.audio.audio_data
    encoding = encoding_name(int(info.format))
    payload = getattr(data, _AUDIO_STAMPED_FIELDS[encoding])
    filled = [field for field in _AUDIO_STAMPED_FIELDS.values() if len(getattr(data, field))]
    if filled and not len(payload):
        raise TimarError(
            f"An AudioStamped message says format {info.format} ({encoding}) but holds its "
            f"samples in {filled[0]}; "
            f"expected {_AUDIO_STAMPED_FIELDS[encoding]}; correct `info.format` in the publisher."
        )
    return message.header.stamp, payload, AudioFormat(int(info.rate), int(info.channels), encoding)


def _write_audio_stamped(message, samples, audio_format):
    data, info = message.audio.audio_data, message.audio.info
    setattr(data, _AUDIO_STAMPED_FIELDS[audio_format.encoding], _array(samples))
    info.format = next(number for number, name in _PORTAUDIO.items() if name == audio_format.encoding)
    info.channels, info.rate = audio_format.channels, audio_format.rate
    info.chunk = len(samples) // audio_format.channels
    return message.header.stamp


def _read_raw_audio(message, defaults):
    audio_format = AudioFormat(int(message.sample_rate), int(message.number_of_channels), encoding_name(message.format))
    return message.timestamp, message.data, audio_format


def _write_raw_audio(message, samples, audio_format):
    message.data = _array(samples.view(np.uint8))
    message.format = "pcm-s16"  # the only format the type's documentation knows
    message.sample_rate, message.number_of_channels = audio_format.rate, audio_format.channels
    return message.timestamp


def _read_audio_buffer(message, defaults):
    audio_format = AudioFormat(int(message.frequency), len(message.channel_map) or 1, "S16LE")
    return message.header.stamp, message.data, audio_format


def _write_audio_buffer(message, samples, audio_format):
    front_center = 1  # AudioBuffer.CHANNEL_FRONT_CENTER
    message.frequency = audio_format.rate
    message.channel_map = _array(np.full(audio_format.channels, front_center, np.uint8))
    message.data = _array(samples)
    return message.header.stamp


def _read_int16_array(message, defaults):
    return None, message.data, AudioFormat(defaults.rate, defaults.channels, "S16LE")


def _write_int16_array(message, samples, audio_format):
    message.data = _array(samples)


_INFO = "audio_common_msgs/msg/AudioInfo"
_APT = "install it with `sudo apt install ros-$ROS_DISTRO-{}`"
_ROS_DRIVERS = _APT.format("audio-common-msgs")

AUDIO_MESSAGE_TYPES: dict[str, AudioMessageType] = {
    row.name: row
    for row in (
        AudioMessageType(
            "audio_common_msgs/msg/AudioDataStamped",
            _ROS_DRIVERS,
            _read_data_stamped,
            _write_data_stamped,
            in_bytes=True,
            info_type=_INFO,
        ),
        AudioMessageType(
            "audio_common_msgs/msg/AudioData",
            _ROS_DRIVERS,
            _read_data,
            _write_data,
            in_bytes=True,
            info_type=_INFO,
            stamped=False,
        ),
        AudioMessageType(
            "audio_common_msgs/msg/AudioStamped",
            "build https://github.com/mgonzs13/audio_common (4.x) in your workspace",
            _read_audio_stamped,
            _write_audio_stamped,
            in_bytes=False,
        ),
        AudioMessageType(
            "foxglove_msgs/msg/RawAudio",
            _APT.format("foxglove-msgs"),
            _read_raw_audio,
            _write_raw_audio,
            in_bytes=True,
        ),
        AudioMessageType(
            "naoqi_bridge_msgs/msg/AudioBuffer",
            _APT.format("naoqi-bridge-msgs"),
            _read_audio_buffer,
            _write_audio_buffer,
            in_bytes=False,
            stamped_at_end=True,  # by naoqi_driver2 (src/event/audio.cpp)
        ),
        AudioMessageType(
            "std_msgs/msg/Int16MultiArray",
            _APT.format("std-msgs"),
            _read_int16_array,
            _write_int16_array,
            in_bytes=False,
            stamped=False,
        ),
    )
}


AUTO = "auto"
"""The type to choose when nothing is known of the publishers."""


def audio_message_type(name: str) -> AudioMessageType:
    """The row of a type, named "package/msg/Type" or "package/Type"; "auto" is `default_message_type()`.

    Raises:
        TimarError: if the name is none of `AUDIO_MESSAGE_TYPES`.
    """
    if name == AUTO:
        name = default_message_type()
    parts = name.strip().split("/")
    full = "/".join((parts[0], "msg", parts[-1]))
    if full not in AUDIO_MESSAGE_TYPES or len(parts) not in (2, 3):
        raise TimarError(
            f"{name!r} is no audio message type known here; known are "
            f"{', '.join(AUDIO_MESSAGE_TYPES)}; "
            "set the parameter to one of these."
        )
    return AUDIO_MESSAGE_TYPES[full]


def import_message_class(name: str) -> type:
    """The Python class of an audio message type, or of "audio_common_msgs/msg/AudioInfo".

    Raises:
        TimarError: if the type is unknown or its package is not installed; says what to install.
    """
    install = _ROS_DRIVERS if name == _INFO else audio_message_type(name).install
    name = name if name == _INFO else audio_message_type(name).name
    package, _, type_name = name.split("/")
    try:
        module = importlib.import_module(f"{package}.msg")
    except ImportError as error:
        raise TimarError(
            f"The message package {package} cannot be imported ({error}); {name} needs it; "
            f"{install} "
            "and source the workspace again, or choose std_msgs/msg/Int16MultiArray."
        ) from error
    if not hasattr(module, type_name):
        raise TimarError(
            f"The installed {package} has no {type_name}: two packages go by that name; {name} "
            "needs the other one; "
            f"{install}, or choose a type that the installed one has."
        )
    return getattr(module, type_name)


def default_message_type() -> str:
    """AudioDataStamped where its package is installed, else what every ROS installation has."""
    name = "audio_common_msgs/msg/AudioDataStamped"
    try:
        import_message_class(name)
    except TimarError:
        return "std_msgs/msg/Int16MultiArray"
    return name


# --- decoding ------------------------------------------------------------------------------------


class AudioDecoder:
    """Messages of one type -> `AudioChunk`s.

    Args:
        type_name: one of `AUDIO_MESSAGE_TYPES`.
        defaults: the format of types that do not tell theirs, until an AudioInfo does.
        channel: the channel to take, counted from 0; None takes the mean of all.

    Attributes:
        format: what untold messages are decoded as.
        invalid_samples: NaN and infinite values met so far (each became 0).
    """

    def __init__(self, type_name: str, defaults: AudioFormat | None = None, channel: int | None = None) -> None:
        self.message_type = audio_message_type(type_name)
        self.format = _checked_format(defaults or AudioFormat())
        self.channel = channel
        self.invalid_samples = 0
        self._refusal: TimarError | None = None

    def set_info(self, info: Any) -> None:
        """Take the format from an audio_common_msgs/AudioInfo message (ros-drivers).

        Raises:
            TimarError: if it announces what cannot be decoded; nothing is, then, until another one comes.
        """
        try:
            self.format = self._announced(info)
            self._refusal = None
        except TimarError as error:
            self._refusal = error
            raise

    def _announced(self, info: Any) -> AudioFormat:
        coding = str(info.coding_format).lower()
        if coding not in ("", "wave", "wav", "raw", "pcm"):
            raise TimarError(
                f"AudioInfo announces the coding format {info.coding_format!r}; only "
                "uncompressed audio is decoded here; "
                'set `format: wave` in the publisher (audio_capture calls it "wave").'
            )
        return _checked_format(
            AudioFormat(
                int(info.sample_rate),
                int(info.channels),
                info.sample_format or self.format.encoding,
            )
        )

    def decode(self, message: Any) -> AudioChunk:
        """Decode one message. An empty one gives an empty chunk.

        Raises:
            TimarError: if the message is too large, or its format is unknown, was refused or does not fit its
                samples.
        """
        if self._refusal is not None:
            raise self._refusal
        stamp, payload, audio_format = self.message_type.read(message, self.format)
        audio_format = _checked_format(audio_format)
        samples = _decode_samples(payload, audio_format, self.message_type.in_bytes)
        invalid = 0
        if samples.dtype.kind == "f":
            finite = np.isfinite(samples)
            if not finite.all():
                invalid = int(samples.size - np.count_nonzero(finite))
                samples = np.where(finite, samples, np.float32(0))
                self.invalid_samples += invalid
        encoding = ENCODINGS[audio_format.encoding]
        samples = samples.astype(np.float32)
        if encoding.scale != 1.0:
            samples = (samples - np.float32(encoding.offset)) * np.float32(1.0 / encoding.scale)
        samples = self._mono(samples.reshape(-1, audio_format.channels))
        if encoding.dtype.kind == "f":
            samples = np.clip(samples, -1.0, 1.0)
        chunk = AudioChunk(_nanoseconds(stamp), audio_format.rate, samples, invalid)
        if self.message_type.stamped_at_end and chunk.stamp_ns is not None:
            return replace(chunk, stamp_ns=chunk.stamp_ns - chunk.duration_ns)
        return chunk

    def _mono(self, samples: np.ndarray) -> np.ndarray:
        channels = samples.shape[1]
        if self.channel is None:
            return samples[:, 0] if channels == 1 else samples.mean(axis=1, dtype=np.float32)
        if not 0 <= self.channel < channels:
            raise TimarError(
                f"Channel {self.channel} was asked for, but the audio has {channels}, counted "
                "from 0; "
                f"choose 0 to {channels - 1}, or none for the mean of all."
            )
        return np.ascontiguousarray(samples[:, self.channel])


@lru_cache(maxsize=64)
def _checked_format(audio_format: AudioFormat) -> AudioFormat:
    """The same format with its encoding's plain name. Raises TimarError outside of what is
    decoded."""
    if not MIN_RATE <= audio_format.rate <= MAX_RATE:
        raise TimarError(
            f"The audio says {audio_format.rate} Hz; expected {MIN_RATE} to {MAX_RATE} Hz; "
            "set the publisher's sample rate, best to 16000."
        )
    if not 1 <= audio_format.channels <= 255:
        raise TimarError(
            f"The audio says {audio_format.channels} channels; expected 1 to 255; set the publisher's channel count."
        )
    return AudioFormat(audio_format.rate, audio_format.channels, encoding_name(audio_format.encoding))


def _decode_samples(payload: Payload, audio_format: AudioFormat, in_bytes: bool) -> np.ndarray:
    """The message's values, interleaved, in the encoding's type: [n * channels]."""
    dtype = ENCODINGS[audio_format.encoding].dtype
    item_bytes = 1 if in_bytes else dtype.itemsize
    size = payload.nbytes if isinstance(payload, memoryview) else len(payload) * item_bytes
    if size > MAX_MESSAGE_BYTES:
        raise TimarError(
            f"An audio message holds {size / 1e6:.1f} MB; expected at most "
            f"{MAX_MESSAGE_BYTES / 1e6:.0f} MB; "
            "send live audio in packets of 10 to 100 ms."
        )
    if isinstance(payload, (bytes, bytearray, memoryview)):
        raw = np.frombuffer(payload, np.uint8)
    else:
        raw = _values(payload, np.dtype(np.uint8) if in_bytes else dtype).view(np.uint8)
    frame_bytes = dtype.itemsize * audio_format.channels
    if raw.size % frame_bytes:
        raise TimarError(
            f"An audio message holds {raw.size} bytes, which is no multiple of {frame_bytes} "
            f"({audio_format.channels} channels of {audio_format.encoding}); "
            "make the encoding and the channels fit what is sent."
        )
    seconds = raw.size / frame_bytes / audio_format.rate
    if seconds > MAX_MESSAGE_S:
        raise TimarError(
            f"An audio message lasts {seconds:.1f} s; expected at most {MAX_MESSAGE_S:.0f} s; "
            "send live audio in packets of 10 to 100 ms."
        )
    return raw.view(dtype)


def _values(payload: Payload, dtype: np.dtype) -> np.ndarray:
    """The payload as a contiguous row of `dtype`. Raises TimarError where it does not fit."""
    values = np.asarray(payload)
    if values.dtype == dtype and values.ndim == 1:
        return np.ascontiguousarray(values)
    if not values.size:
        return np.zeros(0, dtype)
    fits = values.ndim == 1 and values.dtype.kind in ("iuf" if dtype.kind == "f" else "iu")
    if fits and dtype.kind != "f":
        bounds = np.iinfo(dtype)
        fits = bounds.min <= values.min() and values.max() <= bounds.max
    if not fits:
        raise TimarError(
            f"An audio message holds {values.dtype} values of shape {values.shape}; expected one "
            f"row of {dtype.name} "
            "values; send the samples as the message type says."
        )
    return values.astype(dtype)


def _nanoseconds(stamp: Any) -> int | None:
    if stamp is None or (stamp.sec == 0 and stamp.nanosec == 0):
        return None
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


# --- encoding ------------------------------------------------------------------------------------


def make_message(
    cls: Callable[[], Any],
    type_name: str,
    samples: np.ndarray,
    rate: int,
    stamp_ns: int | None = None,
) -> Any:
    """A message of a type from samples.

    Args:
        cls: what makes a blank message (the class from `import_message_class`).
        type_name: one of `AUDIO_MESSAGE_TYPES`.
        samples: float32 [n] or [n, channels] in [-1, 1]; what lies beyond is clipped, NaN becomes
            0. rate: Hz. stamp_ns: capture of the first sample, ROS time; left out for types without
            a stamp.
    """
    row = audio_message_type(type_name)
    samples = np.asarray(samples, np.float32)
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    audio_format = AudioFormat(rate, channels, row.encoding)
    message = cls()
    stamp = row.write(message, encode_samples(samples, row.encoding).reshape(-1), audio_format)
    if stamp is not None and stamp_ns is not None:
        length_ns = len(samples) * 1_000_000_000 // rate if row.stamped_at_end else 0
        stamp.sec, stamp.nanosec = divmod(int(stamp_ns) + length_ns, 1_000_000_000)
    return message


def make_info(cls: Callable[[], Any], type_name: str, rate: int, channels: int = 1) -> Any:
    """The AudioInfo (ros-drivers) that belongs to what `make_message` makes of this type."""
    row = audio_message_type(type_name)
    info = cls()
    info.channels, info.sample_rate, info.sample_format = channels, rate, row.encoding
    info.bitrate = rate * channels * ENCODINGS[row.encoding].dtype.itemsize * 8
    info.coding_format = "wave"
    return info


def encode_samples(samples: np.ndarray, encoding: str) -> np.ndarray:
    """float32 in [-1, 1] -> values of the encoding, rounded and clipped; NaN becomes 0. Same
    shape."""
    row = ENCODINGS[encoding_name(encoding)]
    samples = np.nan_to_num(np.asarray(samples, np.float64), nan=0.0, posinf=1.0, neginf=-1.0)
    if row.dtype.kind == "f":
        return samples.astype(row.dtype)
    bounds = np.iinfo(row.dtype)
    return np.clip(np.rint(samples * row.scale + row.offset), bounds.min, bounds.max).astype(row.dtype)


def _array(values: np.ndarray) -> array.array:
    """Values as rclpy wants them: with anything else it looks at every element by itself."""
    return array.array(
        {"u1": "B", "i1": "b", "i2": "h", "i4": "i", "f4": "f"}[values.dtype.str[1:]],
        values.tobytes(),
    )
