"""A rosbag2 becomes one recording: voices without jitter, motion, turns; damage is told."""

from dataclasses import replace

import numpy as np
import pytest
from rosbags.typesys import get_types_from_msg
from synthetic_bag import JOINTS, START_NS, Invented, invented_messages, write_bag, write_messages

from timar_ros.channels import ARKIT_BLENDSHAPES
from timar_ros.errors import TimarError
from timar_ros.replay.bag import assemble_voice, read_recording
from timar_ros.robot.command_timing import NO_SOUND
from timar_ros.stream.audio_messages import AudioChunk

INVENTED = Invented()


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return write_bag(tmp_path_factory.mktemp("recorded") / "bag", INVENTED)


@pytest.fixture(scope="module")
def recording(bag):
    return read_recording(bag)


@pytest.mark.parametrize("party", ["self", "partner"])
def test_voice_is_what_was_said_at_the_time_it_was_said(recording, party):
    voice, said = recording.voices[party], INVENTED.voice(party) / 32768
    assert len(voice.samples) == len(said)
    assert np.abs(voice.samples - said).max() < 1e-6
    assert abs(voice.start_ns - START_NS) < 8e6  # unstamped messages: up to the jitter late
    assert voice.missing_ns == 0


def test_stamped_voice_is_placed_by_its_stamps(tmp_path):
    bag = write_bag(tmp_path / "bag", INVENTED, audio_type="audio_common_msgs/msg/AudioDataStamped")
    assert read_recording(bag).voices["self"].start_ns == START_NS


def test_motion_has_stamps_names_and_values(recording):
    assert recording.blendshapes.names == ARKIT_BLENDSHAPES
    assert len(recording.blendshapes) == len(recording.head_pose) == INVENTED.frames
    expected = [START_NS, START_NS + 40_000_000]
    assert recording.head_pose.stamps_ns[:2].tolist() == expected
    wanted = INVENTED.rpy(np.arange(INVENTED.frames) * 0.04)
    assert np.abs(recording.head_rpy() - wanted).max() < 1e-9
    assert recording.joint_states.names == JOINTS
    assert len(recording.trajectories) == len(recording.command_latency) == INVENTED.frames // 2


def test_playout_is_what_the_head_says_else_what_its_messages_show(recording):
    assert abs(recording.playout_ns() / 1e6 - INVENTED.playout_ms) < 1.0
    told = replace(recording.diagnostics["head: policy"], values={"playout_delay_ms": "125"})
    said = replace(recording, diagnostics={"head: policy": told})
    assert said.playout_ns() == 125_000_000


def test_speaking_floor_and_turns_are_read(recording):
    assert {span.value for span in recording.floor} == {"self", "partner", "nobody"}
    spans = recording.speaking["self"]
    assert len(spans) == 4
    assert all(0.6e9 < span.end_ns - span.start_ns < 0.8e9 for span in spans)
    assert [turn.floor for turn in recording.turns[:3]] == ["self", "nobody", "partner"]
    assert recording.turns[1].stamp_ns == START_NS + recording.turns[1].frame * 40_000_000


def test_last_diagnostics_of_each_status_are_kept(recording):
    status = recording.diagnostics["simulated_head: commands"]
    assert status.values["commands"] == str(INVENTED.frames // 2)
    assert recording.diagnostic_values("head", "device") == ["cpu"]
    assert recording.diagnostic_values("head", "commands") == []


def test_sqlite3_bag_gives_the_same_recording(tmp_path, recording):
    other = read_recording(write_bag(tmp_path / "bag", INVENTED, storage="sqlite3"))
    assert np.array_equal(other.voices["self"].samples, recording.voices["self"].samples)
    assert np.array_equal(other.blendshapes.values, recording.blendshapes.values)


def test_missing_topics_are_told_and_the_rest_is_read(tmp_path):
    without = ("/partner/audio", "/head/floor", "/diagnostics", "/head/head_pose")
    recording = read_recording(write_bag(tmp_path / "bag", INVENTED, without=without))
    assert "partner" not in recording.voices and "self" in recording.voices
    assert recording.floor == [] and recording.diagnostics == {}
    told = " ".join(recording.losses)
    for topic in ("partner/audio", "floor", "diagnostics", "head_pose"):
        assert f"nothing was recorded of {topic}" in told


@pytest.mark.parametrize("metadata", [True, False])
def test_bag_that_breaks_off_is_read_up_to_the_break(bag, tmp_path, metadata):
    broken = tmp_path / "broken"
    broken.mkdir()
    whole = (bag / f"{bag.name}.mcap").read_bytes()
    (broken / f"{bag.name}.mcap").write_bytes(whole[: len(whole) * 55 // 100])
    if metadata:
        (broken / "metadata.yaml").write_text((bag / "metadata.yaml").read_text())
    recording = read_recording(broken)
    assert 2.0 < len(recording.voices["self"].samples) / 16_000 < INVENTED.seconds - 1.0
    assert len(recording.blendshapes) > 50
    told = " ".join(recording.losses)
    assert "breaks off" in told
    if metadata:
        assert "s are lost" in told and "/head/blendshapes: " in told
    else:
        assert "no usable metadata.yaml" in told


def test_message_that_cannot_be_decoded_is_counted(bag, tmp_path):
    damaged = tmp_path / "bag"
    damaged.mkdir()
    whole = (bag / f"{bag.name}.mcap").read_bytes()
    # A turn that is no JSON any more: the bag itself stays readable.
    (damaged / f"{bag.name}.mcap").write_bytes(whole.replace(b'"frame": 18,', b'"frame": xx,'))
    (damaged / "metadata.yaml").write_text((bag / "metadata.yaml").read_text())
    recording = read_recording(damaged)
    assert any(loss.startswith("/head/turns: 1 messages could not be read") for loss in recording.losses)


@pytest.mark.parametrize("content", [None, b"", b"no bag at all" * 100])
def test_what_is_no_bag_is_refused_with_a_sentence(tmp_path, content):
    if content is None:
        with pytest.raises(TimarError, match="there is no recording at"):
            read_recording(tmp_path / "nothing")
        return
    (tmp_path / "file.mcap").write_bytes(content)
    with pytest.raises(TimarError, match="nothing could be read"):
        read_recording(tmp_path)


def test_other_topic_names_are_read_when_told(tmp_path, bag):
    recording = read_recording(bag, topics={"self_audio": "/partner/audio"})
    said = INVENTED.voice("partner") / 32768
    assert np.abs(recording.voices["self"].samples - said).max() < 1e-6
    with pytest.raises(TimarError, match="unknown role"):
        read_recording(bag, topics={"microphone": "/mic"})


def test_a_queued_voice_is_read_as_it_was_spoken(tmp_path):
    """A synthesiser sends sentences at once; the head node speaks them in real time on another topic."""
    messages, store = invented_messages(INVENTED)
    spoken = [(topic, time_ns, m) for topic, time_ns, m in messages if topic == "/microphone/audio"]
    others = [each for each in messages if each[0] != "/microphone/audio"]
    bursts = [(topic, spoken[0][1] + 1000 * k, m) for k, (topic, _, m) in enumerate(spoken[:20])]
    voice = [("/head/voice", time_ns, m) for _, time_ns, m in spoken]
    path = write_messages(tmp_path / "bag", sorted([*others, *bursts, *voice], key=lambda each: each[1]), store)
    expected = INVENTED.voice("self") / 32768
    assert np.abs(read_recording(path).voices["self"].samples - expected).max() < 1e-6
    asked = read_recording(path, topics={"self_audio": "/microphone/audio"})
    assert len(asked.voices["self"].samples) < len(expected) / 4


def with_stamp(message, store, seconds: int, frame_id: str = ""):
    """The same message with its stamp moved and another frame."""
    types, stamp = store.types, message.header.stamp
    moved = types["builtin_interfaces/msg/Time"](sec=stamp.sec + seconds, nanosec=stamp.nanosec)
    return replace(message, header=types["std_msgs/msg/Header"](stamp=moved, frame_id=frame_id))


def test_stamps_of_another_clock_give_way_to_times_of_arrival(tmp_path):
    messages, store = invented_messages(INVENTED, "audio_common_msgs/msg/AudioDataStamped")
    moved = [
        (topic, time_ns, with_stamp(m, store, -86_400) if topic == "/partner/audio" else m)
        for topic, time_ns, m in messages
    ]
    recording = read_recording(write_messages(tmp_path / "bag", moved, store))
    assert abs(recording.voices["partner"].start_ns - START_NS) < 20e6
    assert any("stamps are of another clock" in loss for loss in recording.losses)


def test_the_format_that_a_bag_announces_is_used(tmp_path):
    messages, store = invented_messages(INVENTED, "audio_common_msgs/msg/AudioDataStamped")
    fields = "uint8 channels\nuint32 sample_rate\nstring sample_format\nuint32 bitrate\nstring coding_format"
    store.register(get_types_from_msg(fields, "audio_common_msgs/msg/AudioInfo"))
    info = store.types["audio_common_msgs/msg/AudioInfo"](2, 16_000, "S16LE", 0, "wave")
    made = [("/microphone/audio_info", START_NS, info)]
    for topic, time_ns, m in messages:
        if topic == "/microphone/audio":
            stereo = np.repeat(m.audio.data.view(np.int16), 2).view(np.uint8)
            m = replace(m, audio=store.types["audio_common_msgs/msg/AudioData"](stereo))
        made.append((topic, time_ns, m))
    voice = read_recording(write_messages(tmp_path / "bag", made, store)).voices["self"]
    said = INVENTED.voice("self") / 32768
    assert len(voice.samples) == len(said) and np.abs(voice.samples - said).max() < 1e-4


def test_commands_that_rest_on_no_sound_and_what_was_shown_before_are_left_out(tmp_path):
    messages, store = invented_messages(INVENTED)
    commands = [m for topic, _, m in messages if topic == "/head_controller/joint_trajectory"]
    idle = {id(m): with_stamp(m, store, 0, NO_SOUND) for m in commands[:5]}
    made = [(topic, time_ns, idle.get(id(m), m)) for topic, time_ns, m in messages]
    recording = read_recording(write_messages(tmp_path / "bag", made, store))
    assert len(recording.trajectories) == INVENTED.frames // 2 - 5
    assert len(recording.blendshapes) == len(recording.head_pose) == INVENTED.frames - 10


def test_the_partners_pose_is_not_the_heads(tmp_path):
    messages, store = invented_messages(INVENTED)
    poses = [(time_ns, m) for topic, time_ns, m in messages if topic == "/head/head_pose"]
    told_twice = [("/partner/head_pose", time_ns + late, m) for time_ns, m in poses for late in (0, 1)]
    made = sorted([*messages, *told_twice], key=lambda each: each[1])
    recording = read_recording(write_messages(tmp_path / "bag", made, store))
    assert len(recording.head_pose) == INVENTED.frames
    assert len(recording.partner_head_pose) == 2 * INVENTED.frames


def chunks_of(sound: np.ndarray, length: int, stamped: bool, start_ns: int = START_NS):
    """Packets of a sound with the times at which they were captured."""
    firsts = np.arange(0, len(sound), length)
    begins = start_ns + firsts * 62_500
    return begins, [
        AudioChunk(int(begin) if stamped else None, 16_000, sound[first : first + length])
        for first, begin in zip(firsts, begins, strict=True)
    ]


SOUND = np.random.default_rng(3).normal(0.0, 0.1, 80_000).astype(np.float32)


def test_jitter_of_60_ms_leaves_no_seam():
    begins, chunks = chunks_of(SOUND, 320, stamped=False)
    jitter = np.random.default_rng(4).uniform(-60e6, 60e6, len(begins)).astype(np.int64)
    voice = assemble_voice(begins + jitter, chunks)
    assert np.array_equal(voice.samples, SOUND)
    assert abs(voice.start_ns - START_NS) < 20e6


def test_lost_packets_become_silence_in_their_place():
    begins, chunks = chunks_of(SOUND, 320, stamped=True)
    kept = [k for k in range(len(chunks)) if not 100 <= k < 110]
    voice = assemble_voice(begins[kept], [chunks[k] for k in kept])
    expected = SOUND.copy()
    expected[100 * 320 : 110 * 320] = 0.0
    assert np.array_equal(voice.samples, expected)
    assert voice.missing_ns == 200_000_000


def test_doubled_and_reordered_stamped_packets_are_put_right():
    begins, chunks = chunks_of(SOUND, 320, stamped=True)
    order = np.random.default_rng(5).permutation(len(chunks))
    order = np.concatenate([order, order[:20]])
    voice = assemble_voice(begins[order], [chunks[k] for k in order])
    assert np.array_equal(voice.samples, SOUND)


def test_another_sample_rate_is_brought_to_16_khz():
    time_s = np.arange(48_000) / 48_000
    tone = np.sin(2 * np.pi * 440 * time_s).astype(np.float32)
    chunks = [AudioChunk(None, 48_000, tone[k : k + 960]) for k in range(0, 48_000, 960)]
    begins = START_NS + np.arange(len(chunks)) * 20_000_000
    voice = assemble_voice(begins, chunks)
    expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert len(voice.samples) == 16_000
    assert np.abs(voice.samples - expected)[800:-800].max() < 1e-3


def test_a_rate_that_changes_amid_a_recording_is_followed():
    def tone(first_s: float, seconds: float, rate: int) -> np.ndarray:
        return 0.5 * np.sin(2 * np.pi * 440 * (first_s + np.arange(round(seconds * rate)) / rate)).astype(np.float32)

    chunks = [
        AudioChunk(None, rate, tone(0.02 * k, 0.02, rate)) for k, rate in enumerate([48_000] * 50 + [16_000] * 50)
    ]
    voice = assemble_voice(START_NS + np.arange(100) * 20_000_000, chunks)
    assert len(voice.samples) == 32_000
    inside = np.r_[800:15_200, 16_800:31_200]
    assert np.abs(voice.samples - tone(0.0, 2.0, 16_000))[inside].max() < 1e-2
