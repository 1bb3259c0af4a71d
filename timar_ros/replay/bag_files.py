"""The messages of a rosbag2's storage files as bytes: by their indexes, or what a damaged file still holds.

mcap and sqlite3, split, compressed as files or message by message. What is lost is said in words.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from rosbags.interfaces import MessageDefinitionFormat
from rosbags.rosbag2 import Reader

from timar_ros.replay.salvage import McapSalvage, decompressed, unpacked_parts
from timar_ros.replay.salvage_sqlite import SqliteSalvage

LearnType = Callable[[str, str, str], None]
"""Takes a message type's name, the encoding of its definition, and that."""
StoredMessage = tuple[str, str, int, bytes]
"""Topic, type, when the recorder received it in ns, CDR."""

_ZSTD, _ZSTD_MAGIC = ".zstd", b"\x28\xb5\x2f\xfd"


def indexed_messages(path: Path, learn_type: LearnType, losses: list[str]) -> Iterator[StoredMessage]:
    """All messages by the files' own indexes, file by file; raises where one of them is damaged.

    rosbags' reader of whole folders is not asked: it passes over topics, without a word, whose QoS in metadata.yaml
    differs from that in the file, as in bags that were converted.
    """
    counts: Counter[str] = Counter()
    last_ns = 0
    for file in _storage_files(path):
        with _uncompressed(file) as (plain, whole), Reader(plain) as bag:
            if not whole:
                raise EOFError(f"{file.name} breaks off")
            for connection in bag.connections:
                definition = connection.msgdef
                encoding = {
                    MessageDefinitionFormat.MSG: "ros2msg",
                    MessageDefinitionFormat.IDL: "ros2idl",
                }.get(definition.format, "")
                learn_type(connection.msgtype, encoding, definition.data)
            for connection, time_ns, data in bag.messages():
                counts[connection.topic] += 1
                last_ns = max(last_ns, time_ns)
                yield connection.topic, connection.msgtype, time_ns, _plain_data(data)
    if (path / "metadata.yaml").is_file():
        losses += _missing_by_metadata(path, counts, last_ns)


def _plain_data(data: bytes) -> bytes:
    """A message's bytes; compressed ones are told by their magic number, where CDR begins with a zero."""
    return bytes(decompressed(data, "zstd")) if data[:4] == _ZSTD_MAGIC else data


def salvaged_messages(path: Path, learn_type: LearnType, losses: list[str]) -> Iterator[StoredMessage]:
    """All messages that can be had without index and metadata, then what the metadata misses."""
    counts: Counter[str] = Counter()
    last_ns = 0
    for file in _storage_files(path):
        with _uncompressed(file) as (plain, whole):
            salvage = McapSalvage(plain) if plain.suffix == ".mcap" else SqliteSalvage(plain)
            for message in salvage:
                try:
                    data = _plain_data(message.data)
                except Exception:  # the decompressor raises its own kinds on damaged bytes
                    salvage.broken = True
                    continue
                learn_type(message.type_name, message.schema_encoding, message.schema)
                counts[message.topic] += 1
                last_ns = max(last_ns, message.time_ns)
                yield message.topic, message.type_name, message.time_ns, data
            if salvage.broken or not whole:
                losses.append(f"{file.name} breaks off: its end is lost")
    losses += _missing_by_metadata(path, counts, last_ns)


def _storage_files(path: Path) -> list[Path]:
    """The storage files of a bag, in the order of their names; split bags number theirs."""
    files = sorted(path.glob("*"), key=_natural) if path.is_dir() else [path]
    return [file for file in files if file.name.removesuffix(_ZSTD).endswith((".mcap", ".db3"))]


def _natural(path: Path) -> list[object]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


@contextmanager
def _uncompressed(file: Path) -> Iterator[tuple[Path, bool]]:
    """A storage file as it was before it was compressed, and whether all of it could be had."""
    if not file.name.endswith(_ZSTD):
        yield file, True
        return
    with TemporaryDirectory() as folder:
        plain = Path(folder, file.name.removesuffix(_ZSTD))
        whole = True
        with file.open("rb") as packed, plain.open("wb") as unpacked:
            parts = unpacked_parts(packed)
            while True:
                try:
                    part = next(parts, None)
                except Exception:  # the same
                    whole = False
                    break
                if part is None:
                    break
                unpacked.write(part)  # a full disk is no damage of the bag
        yield plain, whole


def _missing_by_metadata(path: Path, counts: Counter[str], last_ns: int) -> list[str]:
    """What metadata.yaml promises beyond what was read, in words."""
    try:
        return _missing(path, yaml.safe_load((path / "metadata.yaml").read_bytes()), counts, last_ns)
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return ["there is no usable metadata.yaml, so how much is lost at the end is unknown"]


def _missing(path: Path, metadata: Any, counts: Counter[str], last_ns: int) -> list[str]:
    info = metadata["rosbag2_bagfile_information"]
    end_ns = info["starting_time"]["nanoseconds_since_epoch"] + info["duration"]["nanoseconds"]
    promised = {entry["topic_metadata"]["name"]: entry["message_count"] for entry in info["topics_with_message_count"]}
    listed = [Path(str(name)).name for name in info.get("relative_file_paths") or ()]
    losses = [f"{name} is missing" for name in listed if path.is_dir() and not (path / name).exists()]
    if last_ns and end_ns - last_ns > 50_000_000:
        losses.append(f"the last {(end_ns - last_ns) / 1e9:.1f} s are lost")
    losses += [
        f"{topic}: {count - counts[topic]} of {count} messages are lost"
        for topic, count in sorted(promised.items())
        if counts[topic] < count
    ]
    return losses
