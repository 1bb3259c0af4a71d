"""Audio messages of every type are decoded alike, and bad ones refused with a sentence."""

import array
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from timar_ros.errors import TimarError
from timar_ros.stream.audio_messages import (
    AUDIO_MESSAGE_TYPES,
    AudioDecoder,
    AudioFormat,
    encode_samples,
    encoding_name,
    import_message_class,
    make_info,
    make_message,
)

STAMP_NS = 1_790_000_000_123_456_789
INT16 = "std_msgs/msg/Int16MultiArray"
DATA_STAMPED = "audio_common_msgs/msg/AudioDataStamped"
DATA = "audio_common_msgs/msg/AudioData"
AUDIO_STAMPED = "audio_common_msgs/msg/AudioStamped"
RAW_AUDIO = "foxglove_msgs/msg/RawAudio"
AUDIO_BUFFER = "naoqi_bridge_msgs/msg/AudioBuffer"

ROS_DRIVERS = {
    DATA: "uint8[] data",
    DATA_STAMPED: "std_msgs/Header header\naudio_common_msgs/AudioData audio",
    "audio_common_msgs/msg/AudioInfo": "uint8 channels\nuint32 sample_rate\nstring sample_format\n"
    "uint32 bitrate\nstring coding_format",
}
MGONZS13 = {
    "audio_common_msgs/msg/AudioData": "float32[] float32_data\nint32[] int32_data\n"
    "int16[] int16_data\nint8[] int8_data\nuint8[] uint8_data",
    "audio_common_msgs/msg/AudioInfo": "int32 format\nint32 channels\nint32 rate\nint32 chunk",
    "audio_common_msgs/msg/Audio": "audio_common_msgs/AudioData audio_data\naudio_common_msgs/AudioInfo info",
    AUDIO_STAMPED: "std_msgs/Header header\naudio_common_msgs/Audio audio",
}
OTHERS = {
    RAW_AUDIO: "builtin_interfaces/Time timestamp\nuint8[] data\nstring format\n"
    "uint32 sample_rate\nuint32 number_of_channels",
    AUDIO_BUFFER: "std_msgs/Header header\nuint16 frequency\nuint8[] channel_map\nint16[] data",
}


def typestore_for(type_name: str):
    """A typestore that knows this type; the two audio_common_msgs exclude each other."""
    store = get_typestore(Stores.ROS2_JAZZY)
    definitions = OTHERS | (MGONZS13 if type_name == AUDIO_STAMPED else ROS_DRIVERS)
    types = {}
    for name, text in definitions.items():
        types.update(get_types_from_msg(text, name))
    store.register(types)
    return store


def blank(store, name: str):
    """A message with every field empty or zero, as rclpy's constructors make it."""
    values = {}
    for field, (kind, detail) in store.fielddefs[name][1]:
        if kind == Nodetype.BASE:
            values[field] = "" if detail[0] == "string" else 0
        elif kind == Nodetype.NAME:
            values[field] = blank(store, detail)
        else:
            element_kind, element = detail[0]
            values[field] = np.zeros(0, element[0]) if element_kind == Nodetype.BASE else []
    return SimpleNamespace(**values)


def over_the_wire(store, name: str, message):
    """The message as a subscriber gets it: serialised, and read back."""

    def with_numpy(part):
        for field, value in vars(part).items():
            if isinstance(value, SimpleNamespace):
                with_numpy(value)
            elif isinstance(value, array.array):
                setattr(part, field, np.array(value))

    with_numpy(message)  # rosbags takes numpy arrays, rclpy array.array
    return store.deserialize_cdr(store.serialize_cdr(message, name), name)


def sine(count: int = 1600) -> np.ndarray:
    return (0.5 * np.sin(np.arange(count) / 10)).astype(np.float32)


@pytest.mark.parametrize("type_name", list(AUDIO_MESSAGE_TYPES))
@pytest.mark.parametrize("channels", [1, 2])
def test_every_type_comes_back_as_it_was_made(type_name, channels):
    store = typestore_for(type_name)
    rate = 48_000
    samples = sine() if channels == 1 else np.stack([sine(), -0.5 * sine()], axis=1)
    message = make_message(lambda: blank(store, type_name), type_name, samples, rate, STAMP_NS)
    received = over_the_wire(store, type_name, message)
    chunk = AudioDecoder(type_name, AudioFormat(rate, channels)).decode(received)
    expected = sine() if channels == 1 else 0.25 * sine()
    assert chunk.rate == rate
    assert chunk.samples.dtype == np.float32 and chunk.samples.shape == (1600,)
    assert np.abs(chunk.samples - expected).max() <= 1 / 32768
    assert chunk.stamp_ns == (STAMP_NS if AUDIO_MESSAGE_TYPES[type_name].stamped else None)


def test_naos_microphones_stamp_a_buffer_when_it_is_full():
    store = typestore_for(AUDIO_BUFFER)
    message = blank(store, AUDIO_BUFFER)
    message.frequency, message.channel_map, message.data = 16_000, np.ones(4, np.uint8), np.zeros(4 * 1600, np.int16)
    message.header.stamp.sec = 100
    assert AudioDecoder(AUDIO_BUFFER).decode(message).stamp_ns == 99_900_000_000


def test_real_ros_message_of_an_installed_package():
    pytest.importorskip("std_msgs.msg")
    message = make_message(import_message_class(INT16), INT16, sine(), 16_000)
    assert np.abs(AudioDecoder(INT16).decode(message).samples - sine()).max() <= 1 / 32768


@pytest.mark.parametrize(
    ("type_name", "says"),
    [
        (DATA_STAMPED, "sudo apt install ros-$ROS_DISTRO-audio-common-msgs"),
        (RAW_AUDIO, "sudo apt install ros-$ROS_DISTRO-foxglove-msgs"),
        (AUDIO_BUFFER, "sudo apt install ros-$ROS_DISTRO-naoqi-bridge-msgs"),
        (AUDIO_STAMPED, "github.com/mgonzs13/audio_common"),
    ],
)
def test_a_missing_package_is_named_with_what_to_install(type_name, says, monkeypatch):
    monkeypatch.setitem(sys.modules, type_name.split("/")[0] + ".msg", None)
    with pytest.raises(TimarError) as error:
        import_message_class(type_name)
    assert says in str(error.value)


def test_an_unknown_type_is_refused_with_the_known_ones():
    with pytest.raises(TimarError, match="known are audio_common_msgs/msg/AudioDataStamped"):
        AudioDecoder("sensor_msgs/msg/Image")


def test_type_names_may_leave_out_msg():
    assert AudioDecoder("std_msgs/Int16MultiArray").message_type.name == INT16


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("S16LE", "S16LE"), ("s16_le", "S16LE"), ("pcm-s16", "S16LE"), ("pcm_s16le", "S16LE"),
        ("int16", "S16LE"), (8, "S16LE"), ("paInt16", "S16LE"), ("S32LE", "S32LE"), (2, "S32LE"),
        ("F32LE", "F32LE"), ("float32", "F32LE"), (1, "F32LE"), ("U8", "U8"), ("uint8", "U8"),
        (32, "U8"), (16, "S8"), ("S16BE", "S16BE"),
    ],
)  # fmt: skip
def test_encodings_in_their_usual_spellings(spelling, name):
    assert encoding_name(spelling) == name


@pytest.mark.parametrize("spelling", ["mp3", "", "S24LE", 4, 0])
def test_an_unknown_encoding_is_refused_with_the_known_ones(spelling):
    with pytest.raises(TimarError, match="known are S8, U8, S16LE"):
        encoding_name(spelling)


def audio_data(payload):
    return SimpleNamespace(data=payload)


@pytest.mark.parametrize("encoding", ["S16LE", "S32LE", "F32LE", "U8", "S8", "S16BE"])
def test_every_encoding_to_its_precision(encoding):
    payload = encode_samples(sine(), encoding).tobytes()
    decoded = AudioDecoder(DATA, AudioFormat(16_000, 1, encoding)).decode(audio_data(payload))
    assert np.abs(decoded.samples - sine()).max() <= (1 / 128 if "8" in encoding else 1 / 32768)


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, list, np.array])
def test_bytes_in_any_container(make):
    payload = encode_samples(sine(), "S16LE").tobytes()
    container = np.frombuffer(payload, np.uint8) if make is np.array else make(payload)
    chunk = AudioDecoder(DATA).decode(audio_data(container))
    assert np.abs(chunk.samples - sine()).max() <= 1 / 32768


@pytest.mark.parametrize("make", [list, lambda a: array.array("h", a), np.array])
def test_samples_in_any_container(make):
    values = [0, 16_384, -32_768, 255, 3]
    chunk = AudioDecoder(INT16).decode(audio_data(make(values)))
    assert np.array_equal(chunk.samples, np.array(values, np.float32) / 32_768)


def test_one_channel_can_be_chosen():
    both = np.stack([sine(), np.zeros(1600, np.float32)], axis=1)
    payload = encode_samples(both, "S16LE").tobytes()
    chunk = AudioDecoder(DATA, AudioFormat(16_000, 2), channel=1).decode(audio_data(payload))
    assert not chunk.samples.any()
    with pytest.raises(TimarError, match="choose 0 to 1"):
        AudioDecoder(DATA, AudioFormat(16_000, 2), channel=2).decode(audio_data(payload))


def test_audio_info_tells_the_format():
    decoder = AudioDecoder(DATA_STAMPED)
    decoder.set_info(make_info(SimpleNamespace, DATA_STAMPED, 44_100, 2))
    assert decoder.format == AudioFormat(44_100, 2, "S16LE")
    with pytest.raises(TimarError, match="only uncompressed audio"):
        decoder.set_info(SimpleNamespace(coding_format="mp3", sample_rate=44_100, channels=2, sample_format=""))
    assert decoder.format.rate == 44_100


def test_what_was_announced_as_something_else_is_not_played_as_samples():
    """Compressed sound, taken for samples, is loud noise."""
    decoder, store = AudioDecoder(DATA_STAMPED), typestore_for(DATA_STAMPED)
    message = make_message(lambda: blank(store, DATA_STAMPED), DATA_STAMPED, np.zeros(160, np.float32), 16_000)
    with pytest.raises(TimarError, match="only uncompressed audio"):
        decoder.set_info(SimpleNamespace(coding_format="mp3", sample_rate=16_000, channels=1, sample_format=""))
    with pytest.raises(TimarError, match="only uncompressed audio"):
        decoder.decode(message)
    decoder.set_info(make_info(SimpleNamespace, DATA_STAMPED, 16_000, 1))
    assert len(decoder.decode(message).samples) == 160


def test_nan_and_infinities_become_zero_and_are_counted():
    values = np.array([0.5, np.nan, np.inf, -np.inf, 0.25], np.float32)
    decoder = AudioDecoder(DATA, AudioFormat(16_000, 1, "F32LE"))
    chunk = decoder.decode(audio_data(values.tobytes()))
    assert chunk.samples.tolist() == [0.5, 0, 0, 0, 0.25]
    assert chunk.invalid_samples == decoder.invalid_samples == 3


def test_an_empty_message_is_an_empty_chunk():
    assert len(AudioDecoder(DATA).decode(audio_data(b"")).samples) == 0
    assert len(AudioDecoder(INT16).decode(audio_data([])).samples) == 0


@pytest.mark.parametrize(
    ("payload", "audio_format", "says"),
    [
        (bytes(10_000_002), AudioFormat(48_000, 16), "holds 10.0 MB; expected at most 10 MB"),
        (bytes(16_000 * 2 * 11), AudioFormat(), "lasts 11.0 s; expected at most 10 s"),
        (bytes(3), AudioFormat(), "no multiple of 2"),
        ([1, 2, 300], AudioFormat(), "expected one row of uint8 values"),
    ],
)
def test_messages_that_cannot_be_audio_are_refused(payload, audio_format, says):
    with pytest.raises(TimarError, match=says):
        AudioDecoder(DATA, audio_format).decode(audio_data(payload))


@pytest.mark.parametrize("audio_format", [AudioFormat(7_999), AudioFormat(96_000)])
def test_rates_out_of_range_are_refused(audio_format):
    with pytest.raises(TimarError, match="8000 to 48000 Hz"):
        AudioDecoder(DATA, audio_format)


@settings(max_examples=60, deadline=None)
@given(
    payload=st.binary(max_size=600),
    encoding=st.sampled_from(["S16LE", "S32LE", "F32LE", "U8"]),
    channels=st.integers(1, 4),
)
def test_any_bytes_give_finite_samples_in_range_or_a_sentence(payload, encoding, channels):
    decoder = AudioDecoder(DATA, AudioFormat(16_000, channels, encoding))
    try:
        chunk = decoder.decode(audio_data(payload))
    except TimarError:
        assert len(payload) % (channels * {"S16LE": 2, "U8": 1}.get(encoding, 4))
        return
    assert np.isfinite(chunk.samples).all() and (np.abs(chunk.samples) <= 1).all()


@pytest.mark.parametrize("latched", [True, False])
def test_a_format_is_heard_whether_it_is_latched_or_not(graph, monkeypatch, latched):
    """ros-drivers' audio_capture does not latch it; whoever comes late hears it only where it is latched."""
    from std_msgs.msg import String

    from timar_ros.nodes import topics

    monkeypatch.setattr(topics, "import_message_class", lambda _: String)
    heard: list[str] = []
    publisher = graph.node.create_publisher(String, "voice_info", topics.LATCHED if latched else 1)
    if latched:
        publisher.publish(String(data="48 kHz"))
    subscriptions = topics.subscribe_format(graph.node, DATA_STAMPED, "voice", lambda told: heard.append(told.data))
    if not latched:
        graph.wait_for_match(subscriptions[1])
        publisher.publish(String(data="48 kHz"))
    graph.wait_until(lambda: heard, "the format")
    assert set(heard) == {"48 kHz"}
