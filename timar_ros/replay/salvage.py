"""Reads what is left of an MCAP file that has no index or breaks off in the middle.

A recorder that was killed leaves neither footer nor index; ordinary readers then refuse the file.
Records follow each other as opcode, length, content (https://mcap.dev/spec), so everything before
the break can still be read in order.
"""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

MAGIC = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, DATA_END = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0F
_HEAD = struct.Struct("<BQ")


class SalvagedMessage(NamedTuple):
    """One message as it was stored, with what is needed to decode it."""

    topic: str
    type_name: str
    schema_encoding: str
    schema: str
    time_ns: int
    data: bytes


class McapSalvage:
    """Iterates over the messages of one file; `broken` says afterwards whether it broke off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken = False
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._channels: dict[int, tuple[str, int]] = {}

    def __iter__(self) -> Iterator[SalvagedMessage]:
        data = memoryview(self.path.read_bytes())
        if bytes(data[: len(MAGIC)]) != MAGIC:
            self.broken = True
            return
        ended = yield from self._records(data[len(MAGIC) :])
        self.broken = self.broken or not ended

    def _records(self, data: memoryview) -> Iterator[SalvagedMessage]:
        """Yields the messages of a run of records; returns whether the data ended properly."""
        at = 0
        while at + _HEAD.size <= len(data):
            opcode, length = _HEAD.unpack_from(data, at)
            content = data[at + _HEAD.size : at + _HEAD.size + length]
            whole = len(content) == length
            at += _HEAD.size + length
            if opcode in (DATA_END, FOOTER):
                return True
            if opcode == CHUNK:
                # The last chunk of a broken file holds messages up to the break.
                yield from self._chunk(content)
            elif whole:
                try:
                    message = self._record(opcode, content)
                except (struct.error, UnicodeDecodeError, KeyError):
                    self.broken = True
                    continue
                if message is not None:
                    yield message
        return False

    def _chunk(self, content: memoryview) -> Iterator[SalvagedMessage]:
        try:
            (name_length,) = struct.unpack_from("<I", content, 28)
            compression = bytes(content[32 : 32 + name_length]).decode()
            inside = decompressed(content[32 + name_length + 8 :], compression)
        except Exception:  # each decompressor raises its own kinds on damaged bytes
            self.broken = True
            return
        yield from self._records(memoryview(inside))

    def _record(self, opcode: int, content: memoryview) -> SalvagedMessage | None:
        if opcode == SCHEMA:
            (number,) = struct.unpack_from("<H", content)
            name, at = _string(content, 2)
            encoding, at = _string(content, at)
            definition, _ = _string(content, at)
            self._schemas[number] = (name, encoding, definition)
        elif opcode == CHANNEL:
            number, schema = struct.unpack_from("<HH", content)
            topic, _ = _string(content, 4)
            self._channels[number] = (topic, schema)
        elif opcode == MESSAGE:
            channel, _, time_ns, _ = struct.unpack_from("<HIQQ", content)
            topic, schema = self._channels[channel]
            name, encoding, definition = self._schemas[schema]
            return SalvagedMessage(topic, name, encoding, definition, time_ns, bytes(content[22:]))
        return None


def _string(content: memoryview, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", content, at)
    return bytes(content[at + 4 : at + 4 + length]).decode(), at + 4 + length


def decompressed(data: memoryview | bytes, compression: str) -> bytes | memoryview:
    """As much of a chunk as can be had; the decompressors stop where the data stops."""
    if compression == "":
        return data
    if compression == "lz4":
        from lz4.frame import LZ4FrameDecompressor

        return LZ4FrameDecompressor().decompress(bytes(data))
    if compression == "zstd":
        return _zstd_decompressor().decompress(bytes(data))
    raise ValueError(f"unknown compression {compression}")


def unpacked_parts(packed: BinaryIO) -> Iterator[bytes]:
    """What a file in zstd's format held, part by part; raises EOFError where it breaks off."""
    decompressor = _zstd_decompressor()
    while part := packed.read(1 << 20):
        while part:
            if decompressor.eof:  # several frames may follow each other
                decompressor = _zstd_decompressor()
            yield decompressor.decompress(part)
            part = decompressor.unused_data if decompressor.eof else b""
    if not decompressor.eof:
        raise EOFError("the file breaks off")


def _zstd_decompressor() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd.ZstdDecompressor()
