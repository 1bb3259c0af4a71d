"""The trace of a live run: what goes in comes out, bit by bit; what is no trace is refused in words."""

import json
from pathlib import Path

import numpy as np
import pytest

from timar_ros.errors import TimarError
from timar_ros.resources import share_path
from timar_ros.stream.conversation import Hop
from timar_ros.stream.floor import Floor
from timar_ros.stream.frames import Frame
from timar_ros.stream.trace import conversation_facts, decode_hop, encode_hop, policy_fingerprint
from timar_ros.stream.turns import TurnBoundary, TurnUpdate

RNG = np.random.default_rng(0)


def hop_of(own: np.ndarray, partner: np.ndarray) -> Hop:
    seen = RNG.normal(size=55).astype(np.float32)
    seen[7] = np.nan
    frames = (
        Frame(40, 1_780_000_000_123_456_789, own, partner, True, False),
        Frame(41, 1_780_000_000_163_456_789, partner, own, False, True, seen),
    )
    boundary = TurnBoundary(38, "floor", Floor.BOTH)
    updates = (
        TurnUpdate(True, False, 0.1 + 0.2, 1 / 3, Floor.SELF, (boundary,)),
        TurnUpdate(False, True, 0.0, 1.0, Floor.PARTNER, ()),
    )
    return Hop(frames, updates, RNG.normal(size=(2, 55)).astype(np.float32))


def sixteen_bit() -> np.ndarray:
    return RNG.integers(-32768, 32768, 640).astype(np.float32) / np.float32(32768)


VOICES = {
    "16-bit sound": sixteen_bit(),
    "resampled sound": (RNG.normal(size=640) * 0.1).astype(np.float32),
    "silence": np.zeros(640, np.float32),
    "full scale": np.full(640, 1.0, np.float32),
    "negative zero": np.full(640, -0.0, np.float32),
}


@pytest.mark.parametrize("name", VOICES)
def test_a_hop_comes_back_to_the_last_bit(name):
    hop = hop_of(VOICES[name], sixteen_bit())
    traced = decode_hop(encode_hop(hop, 1_780_000_000_200_000_001, 0.7))
    assert (traced.planned_ns, traced.intensity) == (1_780_000_000_200_000_001, 0.7)
    assert traced.hop.updates == hop.updates
    assert traced.hop.motion.tobytes() == hop.motion.tobytes()
    for back, frame in zip(traced.hop.frames, hop.frames, strict=True):
        for field in ("own", "partner", "partner_motion"):
            one, other = getattr(back, field), getattr(frame, field)
            assert (one is None and other is None) or one.tobytes() == other.tobytes()
        assert (back.index, back.stamp_ns) == (frame.index, frame.stamp_ns)
        assert (back.own_heard, back.partner_heard) == (frame.own_heard, frame.partner_heard)


def test_sound_of_16_bit_takes_two_bytes_a_sample():
    hop = hop_of(sixteen_bit(), sixteen_bit())
    assert len(encode_hop(hop, 0, 1.0)) < 2 * 2 * 640 * 2 + 2000


@pytest.mark.parametrize(
    "payload", [b"", b"{}", b"no json\n123", encode_hop(hop_of(*[sixteen_bit()] * 2), 0, 1.0)[:-9]]
)
def test_what_is_no_trace_is_refused_with_a_sentence(payload):
    with pytest.raises(TimarError, match="a message of the trace cannot be read"):
        decode_hop(payload)


def test_trace_of_a_later_version_is_refused_with_a_sentence():
    payload = encode_hop(hop_of(sixteen_bit(), sixteen_bit()), 0, 1.0).replace(b'"version":1', b'"version":9', 1)
    with pytest.raises(TimarError, match="version 9, this package reads version 1"):
        decode_hop(payload)


def test_policies_of_one_name_are_told_apart(tmp_path):
    default = share_path("models", "default")
    for name in ("config.yaml", "weights.safetensors"):
        (tmp_path / name).write_bytes((default / name).read_bytes())
    assert policy_fingerprint(tmp_path) == policy_fingerprint(default) is not None
    with (tmp_path / "weights.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x01\x02\x03\x04")
    assert policy_fingerprint(tmp_path) != policy_fingerprint(default)
    assert policy_fingerprint(None) is None and policy_fingerprint(Path("nowhere")) is None


def test_facts_hold_the_parameters_and_what_was_settled():
    facts = json.loads(conversation_facts({"seed": 3, "precision": "auto"}, "default", None, precision="float32"))
    assert facts["parameters"] == {"seed": 3, "precision": "auto"} and facts["precision"] == "float32"
    assert facts["policy"] == "default" and facts["processor"]
