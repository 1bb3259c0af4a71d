"""Training: windows, masks, the loss, resuming; on conversations small enough to learn by heart."""

import argparse
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from timar_ros.errors import TimarError
from timar_ros.learn import train
from timar_ros.learn.augment import degrade
from timar_ros.learn.dataset import draw_open_turns, draw_window, load_conversations
from timar_ros.model.checkpoint import load_policy
from timar_ros.model.features import CONTEXT_SAMPLES
from timar_ros.motion.channels import CHANNELS, MOTION_DIM
from timar_ros.replay import offline
from timar_ros.stream.policy import IncrementalPolicy, Sampling

JAW = CHANNELS.index("jawOpen")
SECONDS = 24


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two conversations whose jaws follow bursts of noise in the own voice."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("a", "b"):
        rng = np.random.default_rng(ord(name))
        for speaker in ("speaker1", "speaker2"):
            loud = np.repeat(rng.random(SECONDS) < 0.5, 25).astype(np.float32)
            voice = 0.2 * np.repeat(loud, 640) * rng.standard_normal(SECONDS * 16000)
            soundfile.write(folder / f"{name}_{speaker}.wav", voice.clip(-1, 1), 16000, subtype="PCM_16")
            motion = np.zeros((SECONDS * 25, MOTION_DIM), np.float32)
            motion[:, JAW] = 0.5 * loud
            np.savez(folder / f"{name}_{speaker}.npz", motion=motion, channels=CHANNELS)
    return folder


def arguments(data, out, **changes) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    parsed = parser.parse_args(["--data", str(data), "--out", str(out)])
    small = {
        "steps": 4,
        "batch": 2,
        "window_frames": 60,
        "open_slots": 40,
        "short_window_frames": 40,
        "short_open_slots": 50,
        "warmup_steps": 2,
        "width": 32,
        "heads": 2,
        "blocks": 1,
    }
    for name, value in (small | changes).items():
        setattr(parsed, name, value)
    return parsed


@settings(deadline=None)
@given(st.integers(0, 2**32), st.sets(st.integers(1, 99)), st.integers(1, 200))
def test_open_turns_are_cut_from_turns_and_fill_their_slots(seed, starts, slots):
    turn_starts = np.array([0, *sorted(starts)])
    turns = draw_open_turns(np.random.default_rng(seed), turn_starts, 100, slots, 25)
    assert len(turns.frame) == slots
    assert (turns.frame == turns.turn_start + turns.place).all()
    assert turns.place.max() < 25 and turns.frame.max() < 100
    assert np.isin(turns.turn_start, turn_starts).all()
    for copy in np.unique(turns.copy):
        inside = turns.copy == copy
        assert turns.place[inside].tolist() == list(range(inside.sum()))
        masked = turns.masked[inside]
        assert masked[-1] and (np.diff(masked.astype(int)) >= 0).all()  # the newest frames, at least one


def test_nobody_sees_what_comes_later_or_another_copys_frames():
    frame = torch.tensor([[0, 1, 2, 3, 4, 5, 2, 3]])
    turn_start = torch.tensor([[0, 0, 2, 2, 4, 4, 2, 2]])
    copy = torch.tensor([[-1, -1, -1, -1, -1, -1, 0, 0]])
    sees = train.attention_mask(frame, turn_start, copy, window_frames=3)[0, 0, ::4, ::4].int().tolist()
    assert sees == [
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 1, 0, 0],  # frame 0 has left the window of 3 frames before the turn
        [0, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 0, 1, 1],
        [1, 1, 0, 0, 0, 0, 1, 1],
    ]


def test_degraded_voices_keep_their_shape_and_say_what_is_missing():
    rng = np.random.default_rng(0)
    voices = 0.1 * rng.standard_normal((2, CONTEXT_SAMPLES + 50 * 640))
    missing = 0
    for _ in range(60):
        received, heard = degrade(rng, voices, 50)
        assert received.shape == voices.shape and np.isfinite(received).all() and np.abs(received).max() <= 1
        silent = received[:, CONTEXT_SAMPLES:].reshape(2, 50, 640)[~heard]
        assert not silent.any()
        missing += (~heard).any()
    assert 0 < missing < 60


def test_a_window_is_seen_by_either_party(data):
    conversations = load_conversations(data, jobs=1)
    rng = np.random.default_rng(0)
    for _ in range(10):
        window = draw_window(rng, conversations, 60, 40, 25, clean=True)
        loud = window.voices[0, CONTEXT_SAMPLES:].reshape(60, 640).std(axis=1) > 0.1
        assert np.array_equal(loud, window.motion[0, :, JAW] > 0.25)


def test_a_run_that_is_resumed_gives_what_it_would_have_given(data, tmp_path):
    assert train.run(arguments(data, tmp_path / "straight", steps=6)) == 0
    args = arguments(data, tmp_path / "broken", steps=6, until=3)
    train.run(args)
    args.until = None
    assert train.run(args) == 0
    straight, broken = (load_policy(tmp_path / run / "policy").network.state_dict() for run in ("straight", "broken"))
    assert all(torch.equal(straight[name], broken[name]) for name in straight)


def test_workers_that_torchrun_starts_train_one_network(data, tmp_path):
    """Two processes on the CPU; what they learn differs from one's, as each has windows of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "timar_ros.cli", "train", "--data", str(data), "--out", str(tmp_path / "two")]
    command += ["--steps", "3", "--batch", "2", "--width", "32", "--blocks", "1", "--heads", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "two" / "metrics.csv").read_text().splitlines()) == 3
    assert done.stdout.count("the policy is in") == 1
    train.run(arguments(data, tmp_path / "one", steps=3, batch=2))
    two, one = (load_policy(tmp_path / name / "policy").network.state_dict() for name in ("two", "one"))
    assert two.keys() == one.keys()
    assert not torch.equal(two["blocks.0.mlp.0.weight"], one["blocks.0.mlp.0.weight"])


def test_the_own_voice_runs_ahead_and_the_network_is_told_by_how_much(data):
    conversations = load_conversations(data, jobs=1)
    seen = set()
    for seed in range(40):
        windows = [
            draw_window(np.random.default_rng(seed), conversations, 50, 40, 25, clean=True, most_lookahead=most)
            for most in (4, 0)
        ]
        ahead = windows[0].lookahead
        seen.add(ahead)
        own = [window.voices[0, CONTEXT_SAMPLES:].reshape(50, 640) for window in windows]
        assert np.array_equal(own[0][: 50 - ahead], own[1][ahead:])
        assert np.array_equal(windows[0].voices[1], windows[1].voices[1])
        assert np.array_equal(windows[0].motion, windows[1].motion)
    assert seen == {0, 1, 2, 3, 4}


def test_a_run_with_other_settings_is_not_resumed_by_mistake(data, tmp_path):
    train.run(arguments(data, tmp_path / "run", steps=2))
    with pytest.raises(TimarError, match="other settings"):
        train.run(arguments(data, tmp_path / "run", steps=3))


@pytest.mark.heavy
def test_the_jaw_learns_to_follow_the_own_voice_and_not_the_partners(data, tmp_path):
    train.run(arguments(data, tmp_path / "run", steps=400, batch=4, learning_rate=3e-3, ema=0.95))
    policy = load_policy(tmp_path / "run" / "policy")
    conversation = load_conversations(data, jobs=1)[0]
    stepper = IncrementalPolicy(policy, "cpu", sampling=Sampling(0.0, 0.0, 0.0))
    voices = conversation.voices / np.float32(32768)
    motion = offline.move(stepper, offline.hear(*voices))
    loud = voices.reshape(2, -1, 640)[:, : len(motion)].std(axis=2) > 0.1
    correlation = np.corrcoef(np.vstack([motion[:, JAW], loud]))[0, 1:]
    assert correlation[0] > 0.7
    assert abs(correlation[1]) < 0.3


def test_a_folder_without_conversations_says_how_to_get_some(tmp_path):
    with pytest.raises(TimarError, match="timar generate"):
        load_conversations(tmp_path)


def test_motion_in_other_channels_is_refused(data, tmp_path):
    for path in data.glob("a_*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    np.savez(tmp_path / "a_speaker1.npz", motion=np.zeros((600, 3)), channels=["x", "y", "z"])
    with pytest.raises(TimarError, match="head rotation and ARKit-52"):
        load_conversations(tmp_path, jobs=1)
