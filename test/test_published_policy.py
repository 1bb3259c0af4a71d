"""The published network in a running conversation: windows, open seconds, running level, faces."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from timar_ros.channels import CHANNELS
from timar_ros.errors import TimarError
from timar_ros.model.checkpoint import Policy
from timar_ros.model.config import NetworkConfig
from timar_ros.model.network import TimarNetwork
from timar_ros.model.published import FRAMES, MOTION_DIM, PublishedNetwork
from timar_ros.model.published_checkpoint import published_network, speech_config
from timar_ros.motion.flame import FLAME_CHANNELS
from timar_ros.rates import FRAME_NS, FRAME_SAMPLES
from timar_ros.stream.frames import Frame
from timar_ros.stream.published_policy import PublishedPolicy, PublishedSampling, PublishedWindow, RunningLevel
from timar_ros.stream.steppers import frames_in_hop, make_stepper

FIXTURE = Path(__file__).parent / "data" / "published" / "official_tiny"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> PublishedNetwork:
    tensors = load_file(f"{FIXTURE}.safetensors")
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    return published_network(weights, speech_config(json.loads(Path(f"{FIXTURE}.json").read_text())["wav2vec2"]), 4)


@pytest.fixture
def policy(network, tmp_path) -> Policy:
    return Policy("tiny", copy.deepcopy(network), FLAME_CHANNELS, {}, tmp_path)


def inputs(turn: int, steps: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(turn)
    return {
        "voices": rng.standard_normal((2, 16000)),
        "user_motion": 0.3 * rng.standard_normal((FRAMES, MOTION_DIM)),
        "agent_motion": np.zeros((FRAMES, MOTION_DIM)),
        "user_heard": np.ones(FRAMES),
        "user_seen": rng.random(FRAMES) < 0.7,
        "agent_given": np.zeros(FRAMES),
        "noise": rng.standard_normal((steps, FRAMES, MOTION_DIM)),
    }


def conversation(count: int, first: int = 0) -> list[Frame]:
    rng = np.random.default_rng(first)
    frames = []
    for index in range(first, first + count):
        own, partner = (0.1 * rng.standard_normal((2, FRAME_SAMPLES))).astype(np.float32)
        frames.append(Frame(index, index * FRAME_NS, own, partner, True, True))
    return frames


def play(stepper, frames: list[Frame], hops: list[int]) -> np.ndarray:
    motion, at = [], 0
    for hop in hops:
        motion.append(stepper.step(frames[at : at + hop], []))
        at += hop
    return np.concatenate(motion)


@pytest.mark.parametrize("mask_history", [True, False])
@pytest.mark.parametrize(("window_turns", "kept_turns"), [(8, 2), (8, 4), (4, 0), (5, 4)])
def test_every_turn_equals_the_reference_computation_on_the_same_window(
    network, window_turns, kept_turns, mask_history
):
    """Seventeen turns, so that the window slides often; the reference encodes the whole window at once each time."""
    live = PublishedWindow(network, CPU, PublishedSampling(), window_turns, kept_turns, mask_history)
    shape, window = live._cache.shape, []
    for turn in range(17):
        motion = live.draw(inputs(turn))
        window.append(live._turns[live.place].clone())
        with torch.inference_mode():
            wanted = network.encode(torch.stack(window), 0, torch.zeros(shape))
        assert (live.z - wanted).abs().max() < 1e-4
        live.close(motion)
        if not mask_history:
            window[-1] = network.give_motion(window[-1], torch.from_numpy(motion))
        if len(window) == window_turns:
            window = window[window_turns - kept_turns :]


def test_turn_by_turn_a_second_is_drawn_when_it_is_over(policy):
    motion = PublishedPolicy(policy, "cpu").step(conversation(25), [])
    assert motion.shape == (25, len(CHANNELS))
    assert np.isfinite(motion).all()
    assert (motion[:, 3:] >= 0).all() and (motion[:, 3:] <= 1).all()


@settings(deadline=None, max_examples=8)
@given(st.lists(st.integers(1, 25), min_size=4, max_size=9), st.randoms(use_true_random=False))
def test_the_same_hops_give_the_same_bits_whatever_came_before(hops, random):
    tensors = load_file(f"{FIXTURE}.safetensors")
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    speech = speech_config(json.loads(Path(f"{FIXTURE}.json").read_text())["wav2vec2"])
    stepper = PublishedPolicy(Policy("tiny", published_network(weights, speech, 4), FLAME_CHANNELS, {}), "cpu", seed=3)
    frames = conversation(sum(hops))
    first = play(stepper, frames, hops)
    stepper.reset()
    play(stepper, conversation(40, first=7), [1] * 40)
    stepper.reset()
    assert np.array_equal(first, play(stepper, frames, hops))


def test_settling_after_a_second_changes_nothing_but_when_the_work_is_done(policy):
    frames = conversation(300)
    plain = play(PublishedPolicy(policy, "cpu"), frames, [25] * 12)
    settling, motion = PublishedPolicy(policy, "cpu"), []
    for first in range(0, 300, 25):
        motion.append(settling.step(frames[first : first + 25], []))
        settling.settle()
    assert np.array_equal(plain, np.concatenate(motion))


def test_hop_by_hop_the_last_hop_of_a_second_sees_what_turn_by_turn_sees(policy):
    """Both have heard the whole second then, and hide the motion before, as published."""
    frames = conversation(75)
    by_turn = play(PublishedPolicy(policy, "cpu"), frames, [25] * 3)
    by_hop = play(PublishedPolicy(policy, "cpu"), frames, [5] * 15)
    last = np.arange(75) % 25 >= 20
    level = 1e-3  # the running level differs by what the second adds to it
    assert np.abs(by_turn - by_hop)[last].max() < level
    assert np.abs(by_turn - by_hop)[~last].max() > level


def test_the_open_second_is_drawn_from_what_was_heard_alone(policy):
    frames = conversation(30)
    other = [*frames[:26], *conversation(4, first=26)]
    motion = [play(PublishedPolicy(policy, "cpu"), f, [25, 1, 4]) for f in (frames, other)]
    assert np.array_equal(motion[0][:26], motion[1][:26])
    assert not np.array_equal(motion[0][26:], motion[1][26:])


def test_the_running_level_comes_to_the_whole_recordings():
    rng = np.random.default_rng(0)
    voice = (0.01 + 0.2 * rng.standard_normal(60 * 16000)).astype(np.float32)
    level = RunningLevel()
    level.add(voice)
    assert np.abs(level.normalised(voice) - (voice - voice.mean()) / voice.std()).max() < 0.15
    level = RunningLevel()
    for _ in range(3600):  # listens for an hour, to nothing and to a microphone's noise
        level.add(np.zeros(16000, np.float32))
        level.add((3e-4 * voice[:16000] / 0.2).astype(np.float32))
    assert level.normalised(voice[:16000]).std() < 5.0
    for _ in range(180):
        level.add(voice[:16000])
    assert level.normalised(voice[:16000]).std() == pytest.approx(1.0, abs=0.05)
    silent = RunningLevel()
    silent.add(np.zeros(16000, np.float32))
    assert np.abs(silent.normalised(1e-4 * voice)).max() < 0.05


def expression_map(folder: Path) -> None:
    header = ",".join(["blendshape", "bias", *FLAME_CHANNELS[:50]])
    row = ",".join(["mouthSmileLeft", "0.2", "0.5", *["0"] * 49])
    (folder / "expression.csv").write_text(f"{header}\n{row}\n")


def test_without_an_expression_map_only_the_jaw_is_known_and_that_is_said(policy, tmp_path):
    plain = PublishedPolicy(policy, "cpu")
    assert "no expression.csv: of the face only jawOpen moves" in plain.limitation
    motion = play(plain, conversation(25), [25])
    assert {CHANNELS[i] for i in np.flatnonzero(np.abs(motion).max(axis=0))} <= {*CHANNELS[:3], "jawOpen"}
    expression_map(tmp_path)
    mapped = PublishedPolicy(policy, "cpu")
    assert mapped.limitation is None
    assert np.ptp(play(mapped, conversation(25), [25])[:, CHANNELS.index("mouthSmileLeft")]) > 0


def test_the_partners_face_reaches_the_network_where_its_expression_can_be_told(policy, tmp_path):
    frames = conversation(25)
    face = np.linspace(0, 0.5, len(CHANNELS)).astype(np.float32)
    seen = [Frame(f.index, f.stamp_ns, f.own, f.partner, True, True, face) for f in frames]
    assert np.array_equal(*(play(PublishedPolicy(policy, "cpu"), f, [25]) for f in (frames, seen)))
    expression_map(tmp_path)
    assert not np.array_equal(*(play(PublishedPolicy(policy, "cpu"), f, [25]) for f in (frames, seen)))


def test_the_parameter_that_waits_for_the_second_or_does_not(policy):
    own = Policy("own", TimarNetwork(NetworkConfig(width=32, blocks=1, heads=2)), CHANNELS, {})
    cuda = torch.device("cuda")
    assert [frames_in_hop(policy, "auto", 5, device) for device in (CPU, cuda)] == [25, 5]
    assert [frames_in_hop(policy, predict_by, 5, CPU) for predict_by in ("hop", "turn")] == [5, 25]
    assert frames_in_hop(own, "auto", 2, CPU) == 2
    with pytest.raises(TimarError, match="turns of policy own are the conversation's"):
        frames_in_hop(own, "turn", 2, CPU)
    with pytest.raises(TimarError, match="published weights need a divisor of 25: 1, 5 or 25"):
        frames_in_hop(policy, "hop", 2, CPU)
    assert isinstance(make_stepper(policy, "cpu"), PublishedPolicy)


def test_cuda_moves_as_the_cpu_does(policy, network):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    other = Policy("tiny", copy.deepcopy(network), FLAME_CHANNELS, {})
    frames = conversation(250)
    on_cpu = play(PublishedPolicy(policy, "cpu"), frames, [25] * 10)
    on_cuda = play(PublishedPolicy(other, "cuda", precision="float32"), frames, [25] * 10)
    assert np.abs(on_cpu - on_cuda).max() < 1e-3
