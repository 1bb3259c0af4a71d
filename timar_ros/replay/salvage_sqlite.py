"""Reads what is left of a rosbag2's SQLite file that breaks off or is damaged.

SQLite refuses a file whose tree of pages has holes. Rows lie whole in leaf pages, though, in the order of writing, so
they are taken from these one by one (https://www.sqlite.org/fileformat2.html, sections 1.6 and 2.1). Rows of the three
tables that matter are told apart by their columns:

    topics               number, name (begins with a slash), type, serialization format, ...
    messages             number, topic, time (8 bytes), data (a blob)
    message_definitions  number, type, encoding, definition, ...
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from timar_ros.replay.salvage import SalvagedMessage

MAGIC = b"SQLite format 3\0"
_LEAF_TABLE_PAGE = 0x0D
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_ZERO, _ONE = 8, 9  # serial types of these two, which take no bytes
_TIME = 6  # serial type of an integer of eight bytes

Value = int | str | bytes | None


class SqliteSalvage:
    """Iterates over the messages of one file; `broken` says afterwards whether it broke off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken = False

    def __iter__(self) -> Iterator[SalvagedMessage]:
        data = self.path.read_bytes()
        if len(data) < 100 or not data.startswith(MAGIC):
            self.broken = True
            return
        size, pages = struct.unpack_from(">H", data, 16)[0], struct.unpack_from(">I", data, 28)[0]
        self._size = 65536 if size == 1 else size
        self._usable = self._size - data[20]
        self._data = data
        if self._size < 512 or self._usable < 480:
            self.broken = True
            return
        self.broken = len(data) < pages * self._size
        topics: dict[int, tuple[str, str]] = {}
        definitions: dict[str, tuple[str, str]] = {}
        messages: list[tuple[int, int, int, bytes]] = []
        for row, types, values in self._rows():
            texts = [value for value in values[1:] if isinstance(value, str)]
            if len(types) == 4 and types[0] == 0 and types[2] == _TIME and isinstance(values[3], bytes):
                topic = values[1] if isinstance(values[1], int) else 0
                messages.append((row, topic, values[2], values[3]))
            elif len(texts) >= 3 and texts[0].startswith("/"):
                topics[row] = (texts[0], texts[1])
            elif len(texts) >= 3 and texts[1] in ("ros2msg", "ros2idl"):
                definitions[texts[0]] = (texts[1], texts[2])
        for _, topic, time_ns, content in sorted(messages, key=lambda message: message[0]):
            if topic in topics:
                name, type_name = topics[topic]
                yield SalvagedMessage(name, type_name, *definitions.get(type_name, ("", "")), time_ns, content)
            else:
                self.broken = True

    def _rows(self) -> Iterator[tuple[int, list[int], list[Value]]]:
        """(row number, serial types, values) of every row of every leaf page that is there."""
        for start in range(0, len(self._data) - self._size + 1, self._size):
            head = start + (100 if start == 0 else 0)
            if self._data[head] != _LEAF_TABLE_PAGE:
                continue
            (cells,) = struct.unpack_from(">H", self._data, head + 3)
            if 8 + 2 * cells > self._size:
                continue
            for place in struct.unpack_from(f">{cells}H", self._data, head + 8):
                try:
                    yield self._row(start + place)
                except (IndexError, struct.error, UnicodeDecodeError, ValueError):
                    self.broken = True  # most likely the rest of the row lies beyond the end

    def _row(self, at: int) -> tuple[int, list[int], list[Value]]:
        length, at = self._varint(self._data, at)
        number, at = self._varint(self._data, at)
        payload = self._payload(at, length)
        head, place = self._varint(payload, 0)
        types = []
        while place < head:
            kind, place = self._varint(payload, place)
            types.append(kind)
        values: list[Value] = []
        for kind in types:
            count = (kind - 12) // 2 if kind >= 12 else _INTEGER_BYTES.get(kind, 8 if kind == 7 else 0)
            part = payload[place : place + count]
            place += count
            if len(part) < count:
                raise ValueError("the row breaks off")
            if kind >= 12:
                values.append(part if kind % 2 == 0 else part.decode())
            else:
                values.append(_number(kind, part))
        return number, types, values

    def _payload(self, at: int, length: int) -> bytes:
        """A row's bytes: what lies in the page, then its chain of overflow pages."""
        most = self._usable - 35
        if length <= most:
            return self._data[at : at + length]
        least = (self._usable - 12) * 32 // 255 - 23
        local = least + (length - least) % (self._usable - 4)
        local = local if local <= most else least
        parts, lacking = [self._data[at : at + local]], length - local
        (page,) = struct.unpack_from(">I", self._data, at + local)
        while lacking > 0:
            start = (page - 1) * self._size
            if page == 0 or start + self._size > len(self._data):
                raise ValueError("an overflow page is missing")
            (page,) = struct.unpack_from(">I", self._data, start)
            parts.append(self._data[start + 4 : start + 4 + min(lacking, self._usable - 4)])
            lacking -= len(parts[-1])
        return b"".join(parts)

    @staticmethod
    def _varint(data: bytes, at: int) -> tuple[int, int]:
        value = 0
        for count in range(9):
            byte = data[at + count]
            if count == 8:
                return (value << 8) | byte, at + 9
            value = (value << 7) | (byte & 0x7F)
            if byte < 0x80:
                return value, at + count + 1
        raise ValueError("no number")


def _number(kind: int, part: bytes) -> int | None:
    """An integer; None for NULL and for a float, of which none is needed."""
    if kind in (_ZERO, _ONE):
        return kind - _ZERO
    return int.from_bytes(part, "big", signed=True) if kind in _INTEGER_BYTES else None
