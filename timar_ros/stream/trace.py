"""What a bag needs, beside the sound, to repeat a live conversation to the last bit.

Two topics of the head node, both of types that every ROS installation has:

- `~/conversation` (std_msgs/String, latched): one JSON object when a conversation begins (`conversation_facts`).
- `~/trace` (std_msgs/UInt8MultiArray): one message a hop. A line of JSON, then the arrays that it lists, one after the
  other as little-endian bytes: the hop's frames as they were paired (16-bit where that is exact), the decisions of
  voice activity and turns, the motion drawn, when and with what intensity it was planned.

The noise is keyed by seed and frame number, so it needs no place here.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from timar_ros.errors import TimarError
from timar_ros.stream.conversation import Hop
from timar_ros.stream.floor import Floor
from timar_ros.stream.frames import Frame
from timar_ros.stream.turns import TurnBoundary, TurnUpdate

VERSION = 1
_FINGERPRINTED_BYTES = 1 << 20


@dataclass(frozen=True)
class TracedHop:
    """One hop as it went live.

    Attributes:
        hop: frames, decisions and motion, equal to what the live node had.
        planned_ns: ROS time at which its motion was planned.
        intensity: factor on the head's rotation at that time.
    """

    hop: Hop
    planned_ns: int
    intensity: float


def encode_hop(hop: Hop, planned_ns: int, intensity: float) -> bytes:
    """One hop as the payload of a `~/trace` message."""
    arrays: list[bytes] = []
    head = {
        "version": VERSION,
        "planned_ns": planned_ns,
        "intensity": intensity,
        "frames": [_encode_frame(frame, arrays) for frame in hop.frames],
        "updates": [_encode_update(update) for update in hop.updates],
        "motion": _encode_array(hop.motion, arrays),
    }
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + b"".join(arrays)


def decode_hop(payload: bytes) -> TracedHop:
    """The inverse of `encode_hop`.

    Raises:
        TimarError: it is no such payload, or one of a later version.
    """
    line, _, rest = bytes(payload).partition(b"\n")
    try:
        head = json.loads(line)
        if head["version"] != VERSION:
            raise TimarError(
                f"the trace is of version {head['version']}, this package reads version {VERSION}; "
                "evaluate the bag with the version of timar_ros that recorded it"
            )
        arrays = _Arrays(rest)
        frames = tuple(_decode_frame(frame, arrays) for frame in head["frames"])
        updates = tuple(_decode_update(update) for update in head["updates"])
        hop = Hop(frames, updates, arrays.take(head["motion"]))
        return TracedHop(hop, int(head["planned_ns"]), float(head["intensity"]))
    except (KeyError, TypeError, ValueError) as error:
        raise TimarError(f"a message of the trace cannot be read ({error}); record the conversation again") from error


def conversation_facts(parameters: Mapping[str, object], policy: str, folder: Path | None, **facts: object) -> str:
    """The JSON of a `~/conversation` message: all that bears on the motion beside what each hop's trace tells.

    Args:
        parameters: of the head node; `policy`, `seed`, `threads`, `turns`, `temperature` are among them.
        policy, folder: name and place of the policy that was loaded.
        facts: what the parameters left open: hop_frames, precision, device, version of torch.
    """
    told = {
        "version": VERSION,
        "policy": policy,
        "fingerprint": policy_fingerprint(folder),
        "processor": _processor(),
        **facts,
        "parameters": dict(parameters),
    }
    return json.dumps(told, default=str)


def policy_fingerprint(folder: Path | None) -> str | None:
    """Tells policies of one name apart: a digest of config.yaml and of size and both ends of weights.safetensors.

    Only the ends of the weights, since those of the published sizes take seconds to read. None where there are no
    such files.
    """
    digest = hashlib.sha256()
    try:
        digest.update((folder / "config.yaml").read_bytes())
        with (folder / "weights.safetensors").open("rb") as weights:
            digest.update(weights.read(_FINGERPRINTED_BYTES))
            size = weights.seek(0, os.SEEK_END)
            weights.seek(max(0, size - _FINGERPRINTED_BYTES))
            digest.update(weights.read() + str(size).encode())
    except (OSError, TypeError):
        return None
    return digest.hexdigest()[:16]


def _processor() -> str:
    """The processor's model: another one may round otherwise."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _encode_frame(frame: Frame, arrays: list[bytes]) -> dict[str, Any]:
    """Every field by its name, so that a frame that comes to hold more is carried whole."""
    values = {field.name: getattr(frame, field.name) for field in fields(frame)}
    return {
        name: {"array": _encode_array(value, arrays)} if isinstance(value, np.ndarray) else _plain(value)
        for name, value in values.items()
    }


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value


def _decode_frame(values: Mapping[str, Any], arrays: _Arrays) -> Frame:
    taken = {name: arrays.take(value["array"]) if isinstance(value, dict) else value for name, value in values.items()}
    known = {field.name for field in fields(Frame)}
    return Frame(**{name: value for name, value in taken.items() if name in known})


def _encode_array(values: np.ndarray, arrays: list[bytes]) -> list[object]:
    """Type and shape; the bytes go to `arrays`. Sound that came as 16-bit samples goes as such."""
    values = np.asarray(values)
    if values.dtype == np.float32:
        scaled = values * np.float32(32768)
        # Exact both ways: the scale is a power of two. -0.0 is left to float32.
        small = np.abs(scaled, out=np.zeros_like(scaled), where=np.isfinite(scaled)).max(initial=0) < 32768
        if small and np.isfinite(values).all():
            short = scaled.astype("<i2")
            if (short.astype(np.float32) / np.float32(32768)).tobytes() == values.tobytes():
                arrays.append(short.tobytes())
                return ["sound", list(values.shape)]
    little = values.astype(values.dtype.newbyteorder("<"))
    arrays.append(little.tobytes())
    return [little.dtype.str, list(values.shape)]


class _Arrays:
    """The arrays of a payload, taken in order."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, described: list[Any]) -> np.ndarray:
        kind, shape = described
        dtype = np.dtype("<i2" if kind == "sound" else kind)
        end = self._at + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        if end > len(self._data):
            raise ValueError("it breaks off")
        values = np.frombuffer(self._data[self._at : end], dtype).reshape(shape)
        self._at = end
        if kind == "sound":
            return values.astype(np.float32) / np.float32(32768)
        return values.astype(dtype.newbyteorder("="))


def _encode_update(update: TurnUpdate) -> list[object]:
    return [
        int(update.own_speaking),
        int(update.partner_speaking),
        float(update.own_probability),
        float(update.partner_probability),
        update.floor.value,
        [[b.frame, b.reason, b.floor.value] for b in update.boundaries],
    ]


def _decode_update(values: list[Any]) -> TurnUpdate:
    own, partner, own_probability, partner_probability, floor, boundaries = values
    return TurnUpdate(
        bool(own),
        bool(partner),
        own_probability,
        partner_probability,
        Floor(floor),
        tuple(TurnBoundary(frame, reason, Floor(whose)) for frame, reason, whose in boundaries),
    )
