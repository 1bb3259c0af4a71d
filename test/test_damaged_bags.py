"""Bags of every storage and compression, whole and cut off anywhere: what is there is read, what is lost is said."""

import random
import shutil
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2.enums import CompressionMode
from synthetic_bag import Invented, invented_messages, write_messages

from timar_ros.errors import TimarError
from timar_ros.replay.bag import read_recording
from timar_ros.replay.clips import find_clips
from timar_ros.replay.salvage_sqlite import SqliteSalvage

INVENTED = Invented(seconds=4.0)
REAL = Path(__file__).parent / "data" / "rosbag2"
KINDS = [
    (StoragePlugin.MCAP, CompressionMode.NONE),
    (StoragePlugin.SQLITE3, CompressionMode.NONE),
    (StoragePlugin.MCAP, CompressionMode.STORAGE),
    (StoragePlugin.MCAP, CompressionMode.MESSAGE),
    (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
    (StoragePlugin.MCAP, CompressionMode.FILE),
    (StoragePlugin.SQLITE3, CompressionMode.FILE),
]
NAMES = [f"{storage.name.lower()}-{mode.name.lower()}" for storage, mode in KINDS]


@pytest.fixture(scope="module", params=KINDS, ids=NAMES)
def bag(request, tmp_path_factory):
    storage, mode = request.param
    path = tmp_path_factory.mktemp("bags") / "bag"
    return write_messages(path, *invented_messages(INVENTED), storage, mode)


def storage_file(bag: Path) -> Path:
    return next(file for file in bag.iterdir() if file.name != "metadata.yaml")


def seconds_of(recording) -> float:
    return len(recording.voices["self"].samples) / 16_000 if "self" in recording.voices else 0.0


def test_it_is_read_whole(bag):
    recording = read_recording(bag)
    assert seconds_of(recording) == INVENTED.seconds and not recording.losses


def test_without_its_metadata_it_is_read_whole_too(bag, tmp_path):
    shutil.copy(storage_file(bag), tmp_path)
    assert seconds_of(read_recording(tmp_path)) == INVENTED.seconds


def test_cut_at_any_byte_it_gives_its_readable_part_and_says_what_is_lost(request, bag, tmp_path):
    """Fifty cuts of the plain storages, twelve of each compressed one."""
    plain = request.node.callspec.id in ("mcap-none", "sqlite3-none")
    whole = storage_file(bag).read_bytes()
    rng = random.Random(6)
    read = []
    for number in range(50 if plain else 12):
        broken = tmp_path / str(number)
        broken.mkdir()
        size = rng.randrange(len(whole))
        (broken / storage_file(bag).name).write_bytes(whole[:size])
        if number % 2:
            shutil.copy(bag / "metadata.yaml", broken)
        try:
            recording = read_recording(broken)
        except TimarError as error:  # the only way to fail: nothing of it is left, in a sentence
            assert "nothing could be read from" in str(error)
            read.append((size, 0.0))
            continue
        assert any("lost" in loss or "damaged" in loss for loss in recording.losses)
        read.append((size, seconds_of(recording)))
    read.sort()
    seconds = [amount for _, amount in read]
    assert seconds == sorted(seconds), "a later cut gives no less"
    late = [amount for size, amount in read if size > 0.9 * len(whole)]
    assert all(amount > 0.5 * INVENTED.seconds for amount in late)


@pytest.mark.parametrize("storage", StoragePlugin)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_anywhere_it_is_read_or_refused_with_a_sentence(tmp_path, storage, data):
    """Bytes of the storage file and of metadata.yaml are overwritten."""
    whole = tmp_path / f"{storage.name}"
    if not whole.exists():
        write_messages(whole, *invented_messages(Invented(seconds=0.5)), storage)
    with TemporaryDirectory() as folder:
        for file in whole.iterdir():
            content = bytearray(file.read_bytes())
            places = st.lists(st.integers(0, len(content) - 1), max_size=3)
            for place in data.draw(places):
                length = min(data.draw(st.integers(1, 40)), len(content) - place)
                content[place : place + length] = data.draw(st.binary(min_size=length, max_size=length))
            Path(folder, file.name).write_bytes(content)
        try:
            read_recording(folder)
        except TimarError as error:
            assert "nothing could be read from" in str(error)


def test_plain_storage_loses_no_more_than_what_was_cut_off(tmp_path):
    for storage in StoragePlugin:
        bag = write_messages(tmp_path / storage.name, *invented_messages(INVENTED), storage)
        file = storage_file(bag)
        whole = file.read_bytes()
        for share in (0.25, 0.5, 0.75):
            file.write_bytes(whole[: int(share * len(whole))])
            assert seconds_of(read_recording(bag)) / INVENTED.seconds > share - 0.05


def test_what_is_left_of_sqlite_holds_every_topic(tmp_path):
    """Topics count from 1, an integer that SQLite stores without a byte."""
    messages, store = invented_messages(INVENTED)
    bag = write_messages(tmp_path / "bag", messages, store, StoragePlugin.SQLITE3)
    whole = Counter(message.topic for message in SqliteSalvage(storage_file(bag)))
    assert len(whole) == len(read_recording(bag).topics)
    assert whole == {topic: count for topic, (_, count) in read_recording(bag).topics.items()}


def test_split_bag_is_one_conversation_and_a_missing_part_is_told(tmp_path):
    """As `ros2 bag record --max-bag-duration` splits it: numbered files, one metadata.yaml."""
    messages, store = invented_messages(INVENTED)
    parts = tmp_path / "parts"
    half = len(messages) // 2
    for number, piece in enumerate((messages[:half], messages[half:])):
        write_messages(tmp_path / f"bag_{number}", piece, store)
    parts.mkdir()
    for number in (0, 1):
        shutil.copy(tmp_path / f"bag_{number}" / f"bag_{number}.mcap", parts)
    metadata = (tmp_path / "bag_0" / "metadata.yaml").read_text()
    metadata = metadata.replace("- bag_0.mcap", "- bag_0.mcap\n  - bag_1.mcap")
    (parts / "metadata.yaml").write_text(metadata)
    assert seconds_of(read_recording(parts)) == pytest.approx(INVENTED.seconds, abs=0.05)
    (parts / "bag_1.mcap").unlink()
    rest = read_recording(parts)
    assert seconds_of(rest) == pytest.approx(INVENTED.seconds / 2, abs=0.5) and rest.losses


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_bag_of_rosbag2_itself_is_read_and_lacking_sound_its_topics_are_told(storage):
    bag = REAL / f"talker_{storage}"
    recording = read_recording(bag)
    assert recording.topics["/topic"] == ("std_msgs/msg/String", 10)
    with pytest.raises(
        TimarError, match=r"no sound of either voice.*/topic \[std_msgs/msg/String\].*--topic self_audio="
    ):
        find_clips(bag)[0].read()
