"""What a recording keeps of stamped poses, joints and trajectories, straight from their bytes.

A bag holds thousands of them, and of most of their bytes nothing is kept: 52 names are always the same, and of a
trajectory the first point counts. So they are read up to what is kept, and names are compared, not decoded.

The bytes are CDR as in DDS-XTypes 1.3, 7.4.3 (plain, version 1): numbers are aligned to their size, counted from behind
the 4 bytes that tell the byte order, and strings and sequences begin with their length in 32 bits.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

_HEADER_BYTES = 4
_NAMES_KEPT = 32


class SignalMessage(NamedTuple):
    """Named values of one message. `stamp_ns` and `frame_id` are its header's."""

    stamp_ns: int
    frame_id: str
    names: tuple[str, ...]
    values: np.ndarray  # float64


class SignalReader:
    """Reads messages of the types in `TYPES`; remembers the names that it met."""

    TYPES = (
        "sensor_msgs/msg/JointState",
        "trajectory_msgs/msg/JointTrajectory",
        "geometry_msgs/msg/QuaternionStamped",
    )

    def __init__(self) -> None:
        self._known_names: dict[bytes, tuple[str, ...]] = {}

    def read(self, type_name: str, data: bytes) -> SignalMessage:
        """Positions by joint (of a trajectory its first point's, zeros where it has none), or a quaternion's numbers.

        Raises:
            ValueError: another type, or bytes that break off or are no such message.
        """
        if type_name not in self.TYPES:
            raise ValueError(f"{type_name} is not one of {', '.join(self.TYPES)}")
        cdr = _Cdr(data)
        seconds, nanoseconds = cdr.whole("i"), cdr.whole("I")
        stamp_ns, frame_id = seconds * 1_000_000_000 + nanoseconds, cdr.text()
        if type_name.endswith("QuaternionStamped"):
            return SignalMessage(stamp_ns, frame_id, ("x", "y", "z", "w"), cdr.numbers(4))
        names = self._names(cdr)
        points = cdr.whole("I") if type_name.endswith("JointTrajectory") else 1
        values = cdr.numbers(cdr.whole("I")) if points else np.zeros(len(names))
        return SignalMessage(stamp_ns, frame_id, names, values)

    def _names(self, cdr: _Cdr) -> tuple[str, ...]:
        for block, names in self._known_names.items():
            if cdr.skip(block):
                return names
        start = cdr.at
        names = tuple(cdr.text() for _ in range(cdr.whole("I")))
        if len(self._known_names) < _NAMES_KEPT:
            self._known_names[bytes(cdr.data[start : cdr.at])] = names
        return names


class _Cdr:
    """A place in a message's bytes that moves on as they are read."""

    def __init__(self, data: bytes) -> None:
        if bytes(data[:2]) not in (b"\x00\x00", b"\x00\x01"):
            raise ValueError("the encapsulation is not plain CDR")
        self.data = data
        self.at = _HEADER_BYTES
        self._order = "<" if data[1] else ">"

    def whole(self, kind: str) -> int:
        """The next 32 bits, `i` or `I` (as in struct)."""
        self._align(4)
        try:
            (value,) = struct.unpack_from(self._order + kind, self.data, self.at)
        except struct.error as error:
            raise ValueError("the message breaks off") from error
        self.at += 4
        return value

    def text(self) -> str:
        end = self.whole("I") + self.at
        if end > len(self.data):
            raise ValueError("the message breaks off")
        text = bytes(self.data[self.at : end]).removesuffix(b"\x00").decode()
        self.at = end
        return text

    def numbers(self, count: int) -> np.ndarray:
        """The next `count` doubles as float64."""
        if not count:
            return np.zeros(0)
        self._align(8)
        values = np.frombuffer(self.data, self._order + "f8", count, self.at)
        self.at += 8 * count
        return values.astype(np.float64)

    def skip(self, block: bytes) -> bool:
        """Whether `block` comes next; then go past it."""
        found = self.data[self.at : self.at + len(block)] == block
        if found:
            self.at += len(block)
        return found

    def _align(self, size: int) -> None:
        self.at += -(self.at - _HEADER_BYTES) % size
