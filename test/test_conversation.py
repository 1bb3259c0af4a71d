"""A conversation hears frames one by one and draws what is waiting in as few steps as it can."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from timar_ros.channels import CHANNELS
from timar_ros.model.checkpoint import Policy
from timar_ros.model.config import NetworkConfig
from timar_ros.model.network import TimarNetwork
from timar_ros.rates import FRAME_NS, FRAME_SAMPLES
from timar_ros.replay.offline import hear_frames, move
from timar_ros.stream.audio_messages import AudioChunk
from timar_ros.stream.conversation import Conversation
from timar_ros.stream.frames import PARTNER, SELF, Frame, FramePairer
from timar_ros.stream.lookahead import own_voice_ahead, own_voice_as_known
from timar_ros.stream.policy import IncrementalPolicy
from timar_ros.stream.trace import decode_hop, encode_hop
from timar_ros.stream.turns import TurnSegmenter


@pytest.fixture
def conversation() -> Conversation:
    return small_conversation()


def small_policy(lookahead_frames: int = 0) -> IncrementalPolicy:
    torch.manual_seed(0)
    config = NetworkConfig(width=32, blocks=1, heads=2, diffusion_width=16, diffusion_depth=1, window_frames=50)
    policy = Policy("small", TimarNetwork(config).eval().requires_grad_(False), CHANNELS, {})
    return IncrementalPolicy(policy, "cpu", lookahead_frames=lookahead_frames)


def small_conversation() -> Conversation:
    return Conversation(small_policy(), TurnSegmenter(hop_frames=2), 2)


def frames(first: int, count: int) -> list[Frame]:
    silence = np.zeros(FRAME_SAMPLES, np.float32)
    return [Frame(i, i * FRAME_NS, silence, silence, True, True) for i in range(first, first + count)]


def numbers(hop) -> list[int]:
    return [frame.index for frame in hop.frames]


def test_a_hop_comes_when_its_frames_are_there(conversation):
    for frame in frames(0, 1):
        conversation.hear(frame)
    assert conversation.draw() is None
    for frame in frames(1, 1):
        conversation.hear(frame)
    hop = conversation.draw()
    assert (numbers(hop), hop.motion.shape, conversation.merged) == ([0, 1], (2, 55), 0)


def test_a_clock_that_went_back_within_a_hop_leaves_its_frames_in_a_row(conversation):
    before, after = frames(0, 2)
    conversation.hear(replace(before, stamp_ns=500 * 10**9))
    conversation.hear(replace(after, stamp_ns=7_000_000))
    hop = conversation.draw()
    assert hop.stamps_ns == [7_000_000 - FRAME_NS, 7_000_000]
    assert hop.heard_until_ns == 7_000_000 + FRAME_NS


def test_late_hops_are_merged_into_one_and_counted_and_half_a_hop_waits(conversation):
    for frame in frames(0, 7):
        conversation.hear(frame)
    hop = conversation.draw()
    assert (numbers(hop), hop.motion.shape, conversation.merged) == (list(range(6)), (6, 55), 2)
    assert conversation.draw() is None
    for frame in frames(7, 1):
        conversation.hear(frame)
    assert numbers(conversation.draw()) == [6, 7]


def test_after_a_long_stall_nothing_is_lost_and_turns_stay_right(conversation):
    for frame in frames(0, 80):
        conversation.hear(frame)
    hops = []
    while hop := conversation.draw():
        hops.append(hop)
    assert sum((numbers(hop) for hop in hops), []) == list(range(80))
    assert len(hops) == 4
    assert [b.frame for hop in hops for b in hop.boundaries] == [24, 48, 72]


CUTS = st.lists(st.integers(20, 3000), min_size=1, max_size=30)


@settings(deadline=None, max_examples=12)
@given(CUTS, CUTS)
def test_however_packets_are_cut_the_same_hops_give_the_same_bits(own_cuts, partner_cuts):
    """Both voices in packets of any size, each arriving when its last sample is due, against packets of 10 ms."""
    assert np.array_equal(motion_of(own_cuts, partner_cuts), motion_of([160], [160]))


def motion_of(own_cuts: list[int], partner_cuts: list[int]) -> np.ndarray:
    """Two seconds of noise in bursts through pairing, turns and policy; `*_cuts`: samples in each packet, repeated."""
    rng = np.random.default_rng(0)
    level = np.repeat(rng.random((2, 8)) < 0.5, 4000, axis=1)
    voices = (level * rng.normal(0, 0.1, level.shape)).astype(np.float32)
    packets = []
    for party, voice, cuts in ((SELF, voices[0], own_cuts), (PARTNER, voices[1], partner_cuts)):
        ends = np.minimum(np.cumsum(np.resize(cuts, len(voice))), len(voice))
        ends = ends[: int(np.argmax(ends == len(voice))) + 1]
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            packets.append((int(end), party, AudioChunk(int(start) * 62_500, 16_000, voice[start:end], 0)))
    pairer, conversation, motion = FramePairer(max_wait_ms=500), small_conversation(), []
    for end, party, chunk in sorted(packets, key=lambda packet: packet[:2]):
        now_ns = end * 62_500
        pairer.push(party, chunk, now_ns)
        for frame in pairer.poll(now_ns):
            conversation.hear(frame)
            if hop := conversation.draw():
                motion.append(hop.motion)
    return np.concatenate(motion)


def spoken_frames(count: int) -> list[Frame]:
    """Both voices by turns, loud noise in bursts of half a second."""
    random = np.random.default_rng(0)
    voices = (0.2 * random.normal(size=(2, count, FRAME_SAMPLES))).astype(np.float32)
    return [
        Frame(i, i * FRAME_NS, voices[0, i] * (i % 50 < 25), voices[1, i] * (i % 50 >= 25), True, True)
        for i in range(count)
    ]


def drawn_live(frames: list[Frame], own_ahead) -> list:
    conversation = Conversation(small_policy(3), TurnSegmenter(hop_frames=2), 2, own_ahead)
    hops = []
    for frame in frames:
        conversation.hear(frame)
        if hop := conversation.draw():
            hops.append(hop)
    return hops


def test_a_voice_that_is_all_known_ahead_moves_the_head_as_offline_and_turns_stay_those_of_what_is_heard():
    frames = spoken_frames(120)
    later = own_voice_ahead(frames, 3)
    hops = drawn_live(frames, lambda stamp_ns: later[stamp_ns // FRAME_NS].own)
    heard = hear_frames(frames)
    offline = move(small_policy(3), replace(heard, frames=later))
    assert np.concatenate([hop.motion for hop in hops]).tobytes() == offline.tobytes()
    assert tuple(update for hop in hops for update in hop.updates) == heard.updates
    assert not np.array_equal(offline, move(small_policy(3), heard))


def test_a_hop_tells_what_was_known_ahead_and_that_gives_the_same_motion_again():
    """Of every other frame nothing was known, as of sentences that came late."""
    frames = spoken_frames(80)
    later = own_voice_ahead(frames, 3)

    def known(stamp_ns: int) -> np.ndarray:
        i = stamp_ns // FRAME_NS
        return later[i].own * np.float32(i % 2)

    hops = drawn_live(frames, known)
    told = tuple(frame for hop in hops for frame in decode_hop(encode_hop(hop, 0, 1.0)).hop.frames)
    assert all(frame.own.tobytes() == heard.own.tobytes() for frame, heard in zip(told, frames, strict=True))
    again = move(small_policy(3), replace(hear_frames(told), frames=own_voice_as_known(told)))
    assert np.concatenate([hop.motion for hop in hops]).tobytes() == again.tobytes()
