"""The incremental policy against the network run over the whole conversation at once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from timar_ros.channels import CHANNELS
from timar_ros.errors import TimarError
from timar_ros.learn.window_attention import by_tokens, may_attend
from timar_ros.model import diffusion
from timar_ros.model.checkpoint import Policy
from timar_ros.model.config import NetworkConfig
from timar_ros.model.features import CONTEXT_SAMPLES, log_mel, over_noise
from timar_ros.model.network import NOD_FRAMES, FrameInputs, TimarNetwork
from timar_ros.rates import FRAME_NS, FRAME_RATE, FRAME_SAMPLES
from timar_ros.stream.device import choose_device
from timar_ros.stream.floor import Floor
from timar_ros.stream.frames import Frame
from timar_ros.stream.noise import FrameNoise
from timar_ros.stream.policy import Hop, IncrementalPolicy, PolicyBatch
from timar_ros.stream.sampling import POSTURE_S, Sampling, region
from timar_ros.stream.turns import TurnBoundary

WINDOW = 60
SAMPLING = Sampling(
    head_temperature=0.7,
    eyes_temperature=0.9,
    mouth_temperature=0.0,
    mouth_gain=1.2,
    mouth_spread_frames=1.0,
    head_return_per_s=0.8,
    posture_return_per_s=2.0,
    face_posture_return_per_s=1.0,
    face_temperature=0.8,
    head_correlation_frames=3.0,
    eyes_correlation_frames=1.0,
    face_correlation_frames=2.0,
)


def small_policy() -> Policy:
    torch.manual_seed(0)
    config = NetworkConfig(width=32, blocks=2, heads=2, diffusion_width=16, diffusion_depth=1, window_frames=WINDOW)
    network = TimarNetwork(config).eval().requires_grad_(False)
    with torch.no_grad():
        network.motion_scale.uniform_(0.1, 0.5)
        network.motion_mean.uniform_(0.2, 0.4)
        network.partner_scale.uniform_(0.1, 0.5)
        network.partner_mean.uniform_(0.2, 0.4)
        network.motion_kept[1:].uniform_(0.5, 1.0)
        network.motion_step[1:].uniform_(0.1, 1.0)
        network.nod_course[1:].normal_()
    return Policy("small", network, CHANNELS, {})


def conversation(count: int, first: int = 0) -> list[Frame]:
    rng = np.random.default_rng(3)
    frames = []
    for index in range(first, first + count):
        own, partner = (0.1 * rng.standard_normal((2, FRAME_SAMPLES))).astype(np.float32)
        seen = rng.random(len(CHANNELS)).astype(np.float32) if 30 <= index < 70 else None
        heard = not 40 <= index < 50
        frames.append(Frame(index, index * FRAME_NS, own, partner if heard else 0 * partner, True, heard, seen))
    return frames


def play(
    policy: IncrementalPolicy,
    frames: list[Frame],
    hops: list[int],
    known: dict[int, int],
    nods: list[int] | None = None,
) -> np.ndarray:
    """Motion of all frames; `known` maps a turn's first frame to the frame at which that is known.

    The first frames of nods are appended to `nods`.
    """
    motion, at = [], 0
    for hop in hops:
        now = frames[at : at + hop]
        boundaries = [
            TurnBoundary(start, "floor", Floor.SELF)
            for start, sure in sorted(known.items())
            if now[0].index <= sure <= now[-1].index
        ]
        motion.append(policy.step(now, boundaries))
        if nods is not None and policy.nod_start not in (None, *nods[-1:]):
            nods.append(policy.nod_start)
        at += hop
    return np.concatenate(motion)


def whole_pass(
    policy: Policy,
    frames: list[Frame],
    motion: np.ndarray,
    turn_starts: list[int],
    nods: list[int],
    new: range,
    seed: int,
):
    """Motion of the frames `new` drawn in one pass over all frames up to them, the motion before as given."""
    network, count = policy.network, new.stop
    voices = np.stack([np.concatenate([getattr(f, party) for f in frames[:count]]) for party in ("own", "partner")])
    heard = np.array([[f.own_heard for f in frames[:count]], [f.partner_heard for f in frames[:count]]])
    voices = over_noise(voices, heard, 0)
    features = log_mel(torch.from_numpy(np.pad(voices, ((0, 0), (CONTEXT_SAMPLES, 0)))))
    speech = network.speech_encoder(features)[0][:, None]
    seen = torch.tensor([[f.partner_motion is not None for f in frames[:count]]])
    faces = np.stack(
        [np.zeros(len(CHANNELS)) if f.partner_motion is None else f.partner_motion for f in frames[:count]]
    )
    frame = torch.arange(count)[None]
    starts = torch.tensor([[max(s for s in turn_starts if s <= f) for f in range(count)]])
    given = network.normalise(torch.from_numpy(motion[None, :count]))
    basis, lag = torch.zeros(1, count, 2 * len(CHANNELS)), torch.zeros_like(frame)
    if new.start > 0:
        newest, before = given[:, new.start - 1], given[:, max(new.start - 2, 0)]
        basis[:, new.start :] = torch.cat([newest, (newest - before) / network.motion_step[1]], dim=1)[:, None]
        lag[:, new.start :] = 1 + torch.arange(len(new))
    inputs = FrameInputs(
        own_speech=speech[0],
        partner_speech=speech[1],
        own_heard=torch.from_numpy(heard[:1]),
        partner_heard=torch.from_numpy(heard[1:]),
        own_motion=given,
        own_given=frame < new.start,
        basis=basis,
        lag=lag,
        partner_motion=network.normalise_partner(torch.from_numpy(faces[None].astype(np.float32))),
        partner_seen=seen,
        turn_place=frame - starts,
        nod_place=torch.tensor([[sum(f - n + 1 for n in nods if 0 <= f - n < NOD_FRAMES) for f in range(count)]]),
        lookahead=torch.zeros_like(frame),
    )
    mask = by_tokens(may_attend(frame, starts, torch.full_like(frame, -1), WINDOW))
    z = network.encode(inputs, frame.numpy(), mask)
    noise = FrameNoise(seed, 5, SAMPLING.correlations())
    draws = torch.from_numpy(np.stack([noise.at(f) for f in new], axis=1))
    drawn = diffusion.sample(
        network.diffusion,
        diffusion.make_schedule(5),
        z[0, new.start :],
        draws,
        torch.from_numpy(SAMPLING.temperatures()),
        mean=torch.from_numpy(SAMPLING.temperatures() == 0),
        posterior=True,
    )
    newest = basis[0, new.start :, : len(CHANNELS)].clone()
    basis[..., : len(CHANNELS)] *= torch.from_numpy(SAMPLING.returns(26))[lag]
    posture = torch.zeros(len(CHANNELS))
    for place in given[0, : new.start]:
        posture += (place - posture) / (POSTURE_S * FRAME_RATE)
    basis[..., : len(CHANNELS)] -= posture * torch.from_numpy(SAMPLING.posture_returns(26))[lag]
    drawn = network.from_change(drawn, *(of[0, new.start :] for of in (basis, lag, inputs.nod_place)))
    drawn = drawn * torch.from_numpy(SAMPLING.gains())
    drawn = drawn - torch.from_numpy(SAMPLING.spreads(26, 0))[lag[0, new.start :]] * (drawn[:1] - newest)
    drawn = network.denormalise(drawn).numpy()
    drawn[:, 3:] = drawn[:, 3:].clip(0, 1)
    return drawn


LATE_TURNS = st.tuples(st.integers(1, 25), st.integers(0, 6))


def known_late(turns: list[tuple[int, int]]) -> tuple[list[int], dict[int, int]]:
    """Starts of turns, and the conversation's end, of (length, frames until it is known); and `known` for `play`."""
    starts = np.cumsum([0, *(length for length, _ in turns)]).tolist()
    late = dict(zip(starts[1:-1], (frames for _, frames in turns), strict=False))
    # A turn is known before the one after it begins, and before the turn that it ends has grown too long.
    ends = dict(zip(starts, starts[1:], strict=False))
    begins = dict(zip(starts[1:], starts, strict=False))
    known = {s: min(s + d, ends[s] - 1, begins[s] + 24) for s, d in late.items()}
    return starts, {s: max(k, s) for s, k in known.items()}


@settings(deadline=None, max_examples=10)
@given(st.lists(LATE_TURNS, min_size=5, max_size=9), st.randoms())
def test_every_hop_equals_one_pass_over_the_whole_conversation(turns, random):
    """However turns fall and however late they are known, also when old frames have left the window."""
    starts, known = known_late(turns)
    count = starts[-1]
    policy, frames, nods = small_policy(), conversation(count), []
    motion = play(IncrementalPolicy(policy, "cpu", 5, SAMPLING), frames, [1] * count, known, nods)
    for frame in (count - 1, count // 2, random.randrange(count)):
        begun = [0] + [s for s in starts[1:-1] if known[s] <= frame]
        wanted = whole_pass(policy, frames, motion, begun, nods, range(frame, frame + 1), seed=5)
        assert np.abs(motion[frame] - wanted[0]).max() < 1e-4


@pytest.mark.parametrize(
    ("ahead", "left"), [(0, [0, 1 / 2, 0, 0]), (1, [0, 2 / 3, 1 / 3, 0]), (3, [0, 2 / 3, 1 / 3, 0])]
)
def test_the_mouths_jump_sets_in_over_as_many_frames_as_the_look_ahead_allows(ahead, left):
    spreads = Sampling(mouth_spread_frames=2.0).spreads(4, ahead)
    assert spreads[:, CHANNELS.index("jawOpen")] == pytest.approx(left)
    assert not spreads[:, [CHANNELS.index(name) for name in ("headYaw", "eyeBlinkLeft", "browInnerUp")]].any()
    assert not Sampling().spreads(4, ahead).any()


def test_hops_of_several_frames_equal_one_pass_too():
    policy, frames, nods = small_policy(), conversation(100), []
    known = {24: 24, 48: 48, 61: 66, 85: 85}
    motion = play(IncrementalPolicy(policy, "cpu", 5, SAMPLING), frames, [2] * 50, known, nods)
    assert nods
    for first in (22, 66, 98):
        turns = [0] + [s for s, sure in known.items() if sure <= first + 1]
        wanted = whole_pass(policy, frames, motion, turns, nods, range(first, first + 2), seed=5)
        assert np.abs(motion[first : first + 2] - wanted).max() < 1e-4


def test_a_boundary_inside_a_hop_ends_the_old_turn_before_the_new_one_begins():
    policy, frames, nods = small_policy(), conversation(26), []
    stepper = IncrementalPolicy(policy, "cpu", 5, SAMPLING)
    motion = play(stepper, frames, [2] * 13, {25: 25}, nods)
    wanted = whole_pass(policy, frames, motion, [0, 25], nods, range(25, 26), seed=5)
    assert np.abs(motion[25] - wanted[0]).max() < 1e-4


def test_the_same_hops_give_the_same_bits_and_reset_begins_anew():
    frames = conversation(80)
    stepper = IncrementalPolicy(small_policy(), "cpu", 5, SAMPLING)
    known = {20: 25, 44: 44, 60: 62}
    first = play(stepper, frames, [2] * 40, known)
    stepper.reset()
    assert np.array_equal(first, play(stepper, frames, [2] * 40, known))
    other = IncrementalPolicy(small_policy(), "cpu", 6, SAMPLING)
    assert not np.allclose(first, play(other, frames, [2] * 40, known))


def test_heads_that_share_a_network_move_as_each_would_alone():
    """Streams with turns of their own, hops of their own length, and one that waits at times."""
    frames = conversation(80)
    known = ({20: 25, 44: 44, 60: 62}, {24: 24, 48: 48, 72: 72}, {10: 12, 24: 24, 48: 49, 65: 66})
    hops = ([2] * 40, [4] * 20, [2] * 20 + [1] * 40)
    alone = [
        play(IncrementalPolicy(small_policy(), "cpu", seed, SAMPLING), frames, lengths, turns)
        for seed, lengths, turns in zip((5, 6, 7), hops, known, strict=True)
    ]
    batch, motion, at = PolicyBatch(small_policy(), (5, 6, 7), "cpu", SAMPLING), [[], [], []], [0, 0, 0]
    for step in range(60):
        now = []
        for stream, lengths in enumerate(hops):
            if step >= len(lengths):
                now.append(None)
                continue
            heard = frames[at[stream] : at[stream] + lengths[step]]
            at[stream] += lengths[step]
            numbers = range(heard[0].index, heard[-1].index + 1)
            turns = [TurnBoundary(s, "floor", Floor.SELF) for s, sure in known[stream].items() if sure in numbers]
            now.append(Hop(heard, turns))
        for stream, drawn in enumerate(batch.step(now)):
            assert (drawn is None) == (now[stream] is None)
            if drawn is not None:
                motion[stream].append(drawn)
    for together, wanted in zip(motion, alone, strict=True):
        assert np.abs(np.concatenate(together) - wanted).max() < 1e-4


def test_one_conversation_of_a_batch_can_begin_anew():
    frames = conversation(30)
    batch = PolicyBatch(small_policy(), (5, 5), "cpu", SAMPLING)
    first = batch.step([Hop(frames[:20], []), Hop(frames[:20], [])])
    batch.reset(1)
    again = batch.step([Hop(frames[20:], [TurnBoundary(24, "length", Floor.SELF)]), Hop(frames[:20], [])])
    assert np.array_equal(again[1], first[1])
    whole = play(IncrementalPolicy(small_policy(), "cpu", 5, SAMPLING), frames, [20, 10], {24: 24})
    assert np.abs(again[0] - whole[20:]).max() < 1e-4


@settings(deadline=None, max_examples=20)
@given(st.lists(LATE_TURNS, min_size=1, max_size=9), st.sampled_from([1, 2, 3, 5, 25]), st.randoms())
def test_every_pass_has_a_graph_made_before_the_conversation(turns, hop_frames, random):
    """On CUDA passes are padded to shapes that were captured; here the same shapes run on the CPU."""
    starts, known = known_late(turns)
    frames, hops, left = conversation(starts[-1]), [], starts[-1]
    while left:  # now and then hops were late and are made up for together
        hops.append(min(left, hop_frames * random.choice([1, 1, 1, random.randint(1, 25 // hop_frames)])))
        left -= hops[-1]
    policy = small_policy()
    wanted = play(IncrementalPolicy(policy, "cpu", 5, SAMPLING, hop_frames=hop_frames), frames, hops, known)
    padded = IncrementalPolicy(policy, "cpu", 5, SAMPLING, hop_frames=hop_frames)
    batch = padded._batch
    run, captured = batch._runner, batch._graphs()

    def replay(shape, packed):
        assert shape in captured
        return run(shape, packed)

    batch._by_graphs, batch._runner = True, replay
    assert np.abs(play(padded, frames, hops, known) - wanted).max() < 1e-4


@pytest.mark.parametrize("hops", [[2] * 40, [1] * 80, [25, 25, 25, 5]])
def test_an_own_voice_that_is_not_heard_for_half_a_second_is_silent_and_not_missing(hops):
    """From frame 20 on it is not heard, for twelve frames a gap amid what may be speech."""
    silence, known = np.zeros(FRAME_SAMPLES, np.float32), {start: start for start in range(25, 80, 25)}
    gone = [replace(f, own=silence, own_heard=False) if f.index >= 20 else f for f in conversation(80)]

    def with_silence_from(first):
        frames = [replace(frame, own_heard=True) if frame.index >= first else frame for frame in gone]
        return play(IncrementalPolicy(small_policy(), "cpu", 5), frames, hops, known)

    assert np.array_equal(with_silence_from(80), with_silence_from(32))
    assert not np.array_equal(with_silence_from(32), with_silence_from(20))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    ],
)
def test_when_the_gpus_memory_runs_out_the_head_goes_on_on_the_cpu(monkeypatch, error):
    """What CUDA would raise is raised in its place; what is remembered goes along."""
    frames, known = conversation(60), {20: 24, 44: 44}
    wanted = play(IncrementalPolicy(small_policy(), "cpu", 5, SAMPLING), frames, [2] * 30, known)
    stepper = IncrementalPolicy(small_policy(), "cpu", 5, SAMPLING)
    begun = play(stepper, frames[:30], [2] * 15, {20: 24})
    stepper._batch.device = torch.device("cuda")

    def full(shape, packed):
        raise error

    monkeypatch.setattr(stepper._batch, "_runner", full)
    rest = play(stepper, frames[30:], [2] * 15, {44: 44})
    assert np.array_equal(np.concatenate([begun, rest]), wanted)
    assert stepper.device.type == "cpu"
    assert f"memory ran out ({str(error).splitlines()[0]}); the policy goes on" in stepper.fallback


def test_a_gpu_that_cannot_be_used_is_none(monkeypatch):
    """torch finds it, but has no kernels for it, or its memory is full; here this torch is without CUDA."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here that can be used")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(TimarError, match="the GPU cannot be used"):
        choose_device("cuda")


def test_a_conversation_is_forgotten_even_if_it_was_spoiled():
    frames, stepper = conversation(60), IncrementalPolicy(small_policy(), "cpu", 5, SAMPLING)
    wanted = play(IncrementalPolicy(small_policy(), "cpu", 5, SAMPLING), frames, [2] * 30, {20: 24, 44: 44})
    spoiled = [replace(frame, own=np.full_like(frame.own, np.nan)) for frame in frames]
    assert np.isnan(play(stepper, spoiled, [2] * 30, {20: 24, 44: 44})).any()
    stepper.reset()
    assert np.array_equal(play(stepper, frames, [2] * 30, {20: 24, 44: 44}), wanted)


def test_distances_alone_count_however_long_the_conversation():
    network = small_policy().network
    frames = 20
    torch.manual_seed(1)

    def z(first: int) -> torch.Tensor:
        g = torch.Generator().manual_seed(2)
        inputs = FrameInputs(
            *(torch.randn(1, frames, network.heard_width, generator=g) for _ in range(2)),
            *(torch.ones(1, frames, dtype=torch.bool) for _ in range(2)),
            torch.randn(1, frames, 55, generator=g),
            torch.arange(frames)[None] < 18,
            torch.randn(1, frames, 110, generator=g),
            torch.zeros(1, frames, dtype=torch.long),
            torch.randn(1, frames, 55, generator=g),
            torch.zeros(1, frames, dtype=torch.bool),
            torch.arange(frames)[None],
            *(torch.zeros(1, frames, dtype=torch.long) for _ in range(2)),
        )
        return network.encode(inputs, first + np.arange(frames)[None])

    a_week = 7 * 24 * 3600 * 25
    assert torch.allclose(z(0), z(a_week), atol=1e-4)


def test_a_nod_begins_behind_the_hop_that_foresaw_it_and_runs_its_course():
    policy, frames, nods = small_policy(), conversation(100), []
    known = {start: start for start in (24, 48, 72, 96)}
    policy.network.nod_readout.bias.fill_(5.0)
    nodding = play(IncrementalPolicy(policy, "cpu", 5, SAMPLING), frames, [4] * 25, known, nods)
    assert nods == [4, 4 + NOD_FRAMES, 4 + 2 * NOD_FRAMES]
    never = IncrementalPolicy(policy, "cpu", 5, replace(SAMPLING, nod_threshold=1.0))
    still = play(never, frames, [4] * 25, known)
    assert never.nod_start is None
    assert np.array_equal(nodding[:4], still[:4]) and not np.allclose(nodding[4:8], still[4:8])


HEAD, BROWS = slice(3), [k for k, name in enumerate(CHANNELS) if name.startswith("brow")]


@pytest.mark.parametrize(
    "setting, channels, left",
    [("head_return_per_s", HEAD, 0.5), ("posture_return_per_s", HEAD, 0.5), ("face_posture_return_per_s", BROWS, 0.8)],
)
def test_what_is_to_return_stays_nearer_to_its_usual_place(setting, channels, left):
    policy, frames = small_policy(), conversation(300)
    policy.network.motion_kept[1:] = 1.0
    away = []
    for rate in (0.0, 2.0):
        sampling = replace(SAMPLING, head_return_per_s=0.0, posture_return_per_s=0.0)
        sampling = replace(sampling, **{setting: rate})
        stepper = IncrementalPolicy(policy, "cpu", 5, sampling)
        motion = play(stepper, frames, [4] * 75, {start: start for start in range(24, 300, 24)})
        way = (motion - policy.network.motion_mean.numpy()) / policy.network.motion_scale.numpy()
        away.append(np.abs(way[:, channels].mean(axis=0)).mean())
    assert away[1] < left * away[0]


def test_what_is_left_of_a_way_and_of_a_posture_falls_exponentially():
    sampling = Sampling(head_return_per_s=2.0, posture_return_per_s=0.5, face_posture_return_per_s=0.25)
    left, back = sampling.returns(26), sampling.posture_returns(26)
    assert left[25, :3] == pytest.approx(np.exp(-2.0)) and (left[:, 3:] == 1.0).all()
    face = np.array([region(name) == "face" for name in CHANNELS])
    assert back[25, :3] == pytest.approx(1 - np.exp(-0.5)) and back[25, face] == pytest.approx(1 - np.exp(-0.25))
    assert (back[:, 3:][:, ~face[3:]] == 0.0).all() and (back[0] == 0.0).all()


def test_being_told_that_a_voice_is_not_known_differs_from_silence():
    frames = conversation(10)
    quiet = [Frame(f.index, f.stamp_ns, f.own, 0 * f.partner, True, True) for f in frames]
    unheard = [Frame(f.index, f.stamp_ns, f.own, 0 * f.partner, True, False) for f in frames]
    motions = [IncrementalPolicy(small_policy(), "cpu", 5, SAMPLING).step(f, []) for f in (quiet, unheard)]
    assert not np.allclose(*motions)


def test_a_policy_is_told_how_far_it_looks_ahead():
    frames = conversation(6)
    motions = [
        IncrementalPolicy(small_policy(), "cpu", 5, SAMPLING, lookahead_frames=ahead).step(frames, [])
        for ahead in (0, 3)
    ]
    assert not np.allclose(*motions, atol=1e-4)


def test_what_a_tracker_does_not_tell_of_a_face_stands_at_its_mean():
    frames = conversation(2)
    policy = small_policy()
    partly = np.full(len(CHANNELS), np.nan, np.float32)
    mean = policy.network.partner_mean.numpy()
    motions = [
        IncrementalPolicy(policy, "cpu", 5, SAMPLING).step(
            [Frame(f.index, f.stamp_ns, f.own, f.partner, True, True, face) for f in frames], []
        )
        for face in (partly, mean)
    ]
    assert np.allclose(*motions, atol=1e-6)


def test_frames_that_do_not_follow_on_are_refused():
    stepper = IncrementalPolicy(small_policy(), "cpu", 5, SAMPLING)
    stepper.step(conversation(2), [])
    with pytest.raises(ValueError, match="expected 2 next"):
        stepper.step(conversation(2, first=5), [])


def test_cuda_where_there_is_none_is_refused_with_what_to_do():
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(TimarError, match="use device auto or cpu"):
        IncrementalPolicy(small_policy(), "cuda")


def test_cuda_moves_as_the_cpu_does():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    frames, turns = conversation(60), {20: 24, 40: 44}
    on = {
        device: play(IncrementalPolicy(small_policy(), device, 5, SAMPLING, "float32"), frames, [2] * 30, turns)
        for device in ("cpu", "cuda")
    }
    assert np.abs(on["cpu"] - on["cuda"]).max() < 1e-3
    assert np.ptp(on["cuda"], axis=0)[:3].min() > 1e-2
