"""Conversations of every form become clips: two voices in frames, and what else is known."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_bag import FRAME_NS, START_NS, Invented, invented_messages, write_bag, write_messages

from timar_ros.errors import TimarError
from timar_ros.motion.track import load_motion
from timar_ros.replay import clips
from timar_ros.replay.clips import find_clips, live_runs
from timar_ros.stream.conversation import Hop
from timar_ros.stream.frames import PARTNER, SELF, Frame
from timar_ros.stream.trace import TracedHop

INVENTED = Invented(seconds=4.0)
STAMPED = "audio_common_msgs/msg/AudioDataStamped"
DIALOGUES = Path(__file__).parent / "data" / "dialogues"


def sound(path: Path, party: str, rate: int = 16_000, channels: int = 1) -> Path:
    samples = np.stack([INVENTED.voice(party)] * channels, axis=1)
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return path


def only(path) -> object:
    (source,) = find_clips(path)
    return source.read()


def assert_voices_are_the_invented_ones(clip, tolerance=1e-6):
    for party in (SELF, PARTNER):
        said = INVENTED.voice(party) / 32768
        heard = clip.voice(party)
        length = min(len(said), len(heard))
        assert length > 3.8 * 16_000
        assert np.abs(heard[:length] - said[:length]).max() < tolerance


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_bag_without_a_trace_is_paired_by_its_stamps_and_that_is_said(tmp_path, storage):
    bag = write_bag(tmp_path / "bag", INVENTED, storage=storage, audio_type=STAMPED)
    clip = only(bag)
    assert_voices_are_the_invented_ones(clip)
    assert clip.frames[0].stamp_ns == START_NS and [f.index for f in clip.frames] == list(range(100))
    assert clip.live is None and any("there is no trace" in note for note in clip.notes)


def test_what_the_head_showed_lies_on_the_clips_frames(tmp_path):
    clip = only(write_bag(tmp_path / "bag", INVENTED))
    assert np.abs(clip.recorded.rpy() - INVENTED.rpy(np.arange(len(clip.frames)) * 0.04)).max() < 1e-9
    assert clip.system["latency_ms"]["p50"] is not None


def test_storage_file_alone_is_a_bag(tmp_path):
    bag = write_bag(tmp_path / "bag", INVENTED, audio_type=STAMPED)
    assert_voices_are_the_invented_ones(only(bag / "bag.mcap"))


def test_missing_voice_is_told_with_how_to_name_its_topic(tmp_path):
    clip = only(write_bag(tmp_path / "bag", INVENTED, without=("/partner/audio",)))
    assert not any(frame.partner_heard for frame in clip.frames)
    assert any("no sound of partner" in note and "--topic partner_audio=/TOPIC" in note for note in clip.notes)


def test_bag_without_sound_tells_its_topics_and_how_to_name_them(tmp_path):
    bag = write_bag(tmp_path / "bag", INVENTED, without=("/partner/audio", "/microphone/audio"))
    with pytest.raises(TimarError, match=r"no sound.*/head/floor \[std_msgs/msg/String\].*--topic self_audio=/TOPIC"):
        only(bag)


def test_topics_of_other_names_are_read_when_named(tmp_path):
    bag = write_bag(tmp_path / "bag", INVENTED)
    (source,) = find_clips(bag, {"self_audio": "/partner/audio"})
    assert np.abs(source.read().voice(SELF)[:16_000] - INVENTED.voice("partner")[:16_000] / 32768).max() < 1e-6


def test_partners_face_in_a_bag_is_seen_in_its_frames(tmp_path):
    """What a tracker published, held for 0.3 s: unseen before it came and after it stopped."""

    messages, store = invented_messages(INVENTED)
    types = store.types
    for k in range(25, 50):
        stamp_ns = START_NS + k * FRAME_NS
        time = types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 1_000_000_000))
        header = types["std_msgs/msg/Header"](time, "")
        message = types["sensor_msgs/msg/JointState"](
            header, ["jawOpen"], np.array([k / 100]), np.zeros(0), np.zeros(0)
        )
        messages.append(("/partner/blendshapes", stamp_ns, message))
    write_messages(tmp_path / "bag", sorted(messages, key=lambda m: m[1]), store)
    seen = [frame.partner_motion for frame in only(tmp_path / "bag").frames]
    first = next(k for k, motion in enumerate(seen) if motion is not None)
    assert first in (24, 25) and seen[70] is None
    assert np.isnan(seen[40][0]) and seen[40][20] == pytest.approx(0.41, abs=0.011)


def test_pair_of_sound_files_in_a_folder(tmp_path):
    sound(tmp_path / "self.wav", "self")
    sound(tmp_path / "partner.wav", "partner")
    np.savez(tmp_path / "self_motion.npz", exp=np.zeros((100, 50)), pose=np.zeros((100, 6)))
    clip = only(tmp_path)
    assert_voices_are_the_invented_ones(clip)
    assert len(clip.truth) == 100 and clip.other is None


def test_stereo_file_has_self_left_and_partner_right(tmp_path):
    both = np.stack([INVENTED.voice("self"), INVENTED.voice("partner")], axis=1)
    soundfile.write(tmp_path / "both.wav", both, 16_000, subtype="PCM_16")
    assert_voices_are_the_invented_ones(only(tmp_path / "both.wav"))
    assert_voices_are_the_invented_ones(only(tmp_path))


@pytest.mark.parametrize("channels", [1, 3])
def test_file_of_other_than_two_channels_is_refused_with_a_sentence(tmp_path, channels):
    with pytest.raises(TimarError, match=f"has {channels} channels?; expected two"):
        only(sound(tmp_path / "voice.wav", "self", channels=channels))


def test_dualtalk_folder_gives_each_party_in_turn(tmp_path):
    for speaker, party in (("speaker1", "self"), ("speaker2", "partner")):
        sound(tmp_path / f"talk_{speaker}.wav", party)
        pose = np.zeros((100, 6), np.float32)
        pose[:, 1] = 0.2 if speaker == "speaker1" else -0.1
        np.savez(tmp_path / f"talk_{speaker}.npz", exp=np.zeros((100, 50), np.float32), pose=pose)
    first, second = (source.read() for source in find_clips(tmp_path))
    assert (first.name, second.name) == ("talk speaker1", "talk speaker2")
    assert_voices_are_the_invented_ones(first)
    assert first.truth.rpy()[0, 2] == pytest.approx(0.2) and first.other.rpy()[0, 2] == pytest.approx(-0.1)
    assert first.frames[50].partner_motion is None  # a policy hears, and sees only where it is let
    seen = replace(find_clips(tmp_path)[0], partner_seen=True).read().frames[50].partner_motion
    assert seen[2] == pytest.approx(-0.1)
    assert np.isnan(seen[3])  # FLAME tells nothing of eyelids
    assert np.array_equal(first.voice(SELF), second.voice(PARTNER))


def test_a_head_that_was_activated_twice_before_it_heard_anything_had_one_conversation():
    """And another one after it, with the settings of the last activation before each."""
    silence = np.zeros(640, np.float32)

    def traced(index: int, planned_ns: int) -> TracedHop:
        frame = Frame(index, planned_ns, silence, silence, True, True)
        return TracedHop(Hop((frame,), (), np.zeros((1, 55), np.float32)), planned_ns, 1.0)

    hops = [traced(0, 300), traced(1, 400), traced(0, 900), traced(1, 950)]
    told = [(100, {"seed": 1}), (200, {"seed": 2}), (250, {"seed": 2}), (800, {"seed": 3})]
    runs = live_runs(SimpleNamespace(hops=hops, conversations=told))
    assert [run.facts for run in runs] == [{"seed": 2}, {"seed": 3}] and all(run.whole for run in runs)
    late = live_runs(SimpleNamespace(hops=hops[:2], conversations=[(500, {"seed": 2})]))
    assert [run.facts for run in late] == [{"seed": 2}]


def test_a_bag_without_metadata_gives_all_its_conversations_too(tmp_path, monkeypatch):
    bag = write_bag(tmp_path / "bag", INVENTED)
    (file,) = bag.glob("*.mcap")
    monkeypatch.setattr(clips, "live_runs", lambda recording: [None, None])
    assert [source.name for source in find_clips(file)] == [f"{file.name} #1", f"{file.name} #2"]
    (bag / "metadata.yaml").unlink()
    assert [source.name for source in find_clips(bag)] == ["bag #1", "bag #2"]
    file.write_bytes(b"no bag")
    assert [source.name for source in find_clips(bag)] == ["bag"]  # told when it is its turn


def test_folder_of_many_forms_gives_all_its_conversations(tmp_path):
    write_bag(tmp_path / "bag_b", INVENTED)
    (tmp_path / "pair").mkdir()
    for party in ("self", "partner"):
        shutil.copy(DIALOGUES / f"dialogue_0_{party}.ogg", tmp_path / "pair" / f"{party}.ogg")
    (tmp_path / "notes.txt").write_text("not a conversation")
    assert [source.name for source in find_clips(tmp_path)] == ["bag_b", "pair"]


@pytest.mark.parametrize("what", ["missing", "empty folder", "text file"])
def test_what_holds_no_conversation_is_refused_with_a_sentence(tmp_path, what):
    path = {"missing": tmp_path / "nowhere", "empty folder": tmp_path, "text file": tmp_path / "a.txt"}[what]
    if what == "text file":
        path.write_text("hello")
    sentence = "there is nothing at" if what == "missing" else "holds no conversation: expected a rosbag2"
    with pytest.raises(TimarError, match=sentence):
        find_clips(path)


def test_too_short_sound_is_refused_with_a_sentence(tmp_path):
    soundfile.write(tmp_path / "both.wav", np.zeros((8000, 2)), 16_000)
    with pytest.raises(TimarError, match="at least 1 s is needed"):
        only(tmp_path / "both.wav")


def test_motion_files_of_every_form(tmp_path):
    pose = np.arange(18.0).reshape(3, 6) / 100
    np.savez(tmp_path / "flame.npz", exp=np.ones((3, 50)), pose=pose)
    track = load_motion(tmp_path / "flame.npz")
    assert np.array_equal(track.group("pose"), pose[:, :3]) and np.array_equal(track.group("jaw"), pose[:, 3:])
    np.savez(tmp_path / "arkit.npz", motion=np.zeros((3, 55)))
    assert load_motion(tmp_path / "arkit.npz").kind == "arkit"


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"exp": np.zeros((3, 50)), "pose": np.zeros((4, 6))}, "expected \\[frames, 50\\] and \\[frames, 6\\]"),
        ({"motion": np.zeros((3, 7))}, "expected \\[frames, 55\\]"),
        ({"motion": np.full((3, 55), np.nan)}, "not finite"),
        ({"betas": np.zeros(3)}, "holds betas; expected `exp` and `pose`"),
    ],
)
def test_motion_of_no_known_form_is_refused_with_a_sentence(tmp_path, arrays, sentence):
    np.savez(tmp_path / "motion.npz", **arrays)
    with pytest.raises(TimarError, match=sentence):
        load_motion(tmp_path / "motion.npz")
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(TimarError, match="cannot be read as motion"):
        load_motion(tmp_path / "text.npz")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_motion_is_read_or_refused_with_a_sentence(tmp_path, data):
    np.savez_compressed(tmp_path / "whole.npz", motion=np.linspace(0, 0.4, 50 * 55).reshape(50, 55), seed=[1, 2])
    content = bytearray((tmp_path / "whole.npz").read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    (tmp_path / "damaged.npz").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert len(load_motion(tmp_path / "damaged.npz")) > 0
    except TimarError as error:
        assert "damaged.npz" in str(error)


def test_sources_can_be_given_another_truth(tmp_path):
    np.savez(tmp_path / "truth.npz", motion=np.zeros((90, 55)))
    (source,) = find_clips(write_bag(tmp_path / "bag", INVENTED))
    assert len(replace(source, truth=tmp_path / "truth.npz").read().truth) == 90
