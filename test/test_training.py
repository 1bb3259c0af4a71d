"""Training: windows, masks, the loss, resuming; on conversations small enough to learn by heart."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from timar_ros.channels import CHANNELS, MOTION_DIM
from timar_ros.dialogues.generate import generate
from timar_ros.errors import TimarError
from timar_ros.learn import objective, train
from timar_ros.learn.augment import degrade
from timar_ros.learn.dataset import NOD_AHEAD_FRAMES, load_conversations
from timar_ros.learn.motion_units import find_ways_back, set_motion_units
from timar_ros.learn.objective import Objective
from timar_ros.learn.uninterrupted import uninterrupted
from timar_ros.learn.wandering import HEAD_SPREAD, WHOLE, settle, wander_through
from timar_ros.learn.window_attention import WindowAttention, by_tokens, may_attend
from timar_ros.learn.windows import Windows, draw_open_turns, draw_window
from timar_ros.model import diffusion
from timar_ros.model.checkpoint import load_policy, save_policy
from timar_ros.model.config import NetworkConfig
from timar_ros.model.features import CONTEXT_SAMPLES
from timar_ros.model.network import NOD_FRAMES, TimarNetwork
from timar_ros.replay import offline
from timar_ros.stream.policy import IncrementalPolicy
from timar_ros.stream.sampling import Sampling

JAW = CHANNELS.index("jawOpen")
SECONDS = 24


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two conversations whose jaws follow bursts of noise in the own voice."""
    return write_conversations(tmp_path_factory.mktemp("data"), "ab")


@pytest.fixture(scope="module")
def unheard(tmp_path_factory):
    """Two more, to measure by."""
    return write_conversations(tmp_path_factory.mktemp("unheard"), "cd")


def write_conversations(folder: Path, names: str) -> Path:
    for name in names:
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
        "speech_steps": 2,
        "batch": 2,
        "window_frames": 60,
        "open_groups": 2,
        "short_window_frames": 40,
        "short_open_groups": 2,
        "warmup_steps": 2,
        "width": 32,
        "heads": 2,
        "blocks": 1,
        "look_every": 0,
    }
    for name, value in (small | changes).items():
        setattr(parsed, name, value)
    return parsed


def assert_same(one, other) -> None:
    """To the last bit on the CPU; a GPU adds up in another order each time."""
    room = {"atol": 1e-3, "rtol": 1e-2} if torch.cuda.is_available() else {"atol": 0.0, "rtol": 0.0}
    torch.testing.assert_close(one, other, **room)


def make_batch(windows, network, recipe, ways_back) -> objective.Batch:
    random = objective.Random(1, torch.device("cpu"))
    return objective.make_batch(Windows.stack(windows, seed=0), network, recipe, random, ways_back)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.sets(st.integers(1, 99)), st.integers(1, 8))
def test_open_turns_are_cut_from_turns_and_fill_their_slots(seed, starts, groups):
    turn_starts = np.array([0, *sorted(starts)])
    turns = draw_open_turns(np.random.default_rng(seed), turn_starts, 100, groups, 25)
    assert len(turns.frame) == 25 * groups
    place = turns.frame - turns.turn_start
    assert place.max() < 25 and turns.frame.max() < 100
    assert np.isin(turns.turn_start, turn_starts).all()
    for copy in np.unique(turns.copy):
        inside = turns.copy == copy
        assert len(np.unique(np.flatnonzero(inside) // 25)) == 1  # never from one group to the next
        assert place[inside].tolist() == list(range(inside.sum()))
        masked = turns.masked[inside]
        assert masked[-1] and (np.diff(masked.astype(int)) >= 0).all()  # the newest frames, at least one


def test_nobody_sees_what_comes_later_or_another_copys_frames():
    frame = torch.tensor([[0, 1, 2, 3, 4, 5, 2, 3]])
    turn_start = torch.tensor([[0, 0, 2, 2, 4, 4, 2, 2]])
    copy = torch.tensor([[-1, -1, -1, -1, -1, -1, 0, 0]])
    sees = may_attend(frame, turn_start, copy, window_frames=3)[0].int().tolist()
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


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.sets(st.integers(1, 39)), st.integers(1, 3))
def test_what_is_computed_in_groups_is_what_a_dense_mask_gives(seed, starts, groups):
    rng = np.random.default_rng(seed)
    turn_starts = np.array([0, *sorted(starts)])
    turns = draw_open_turns(rng, turn_starts, 40, groups, 25)
    closed = np.arange(40)
    closed_start = turn_starts[np.searchsorted(turn_starts, closed, side="right") - 1]
    frame, turn_start, copy = (
        torch.from_numpy(np.concatenate(parts)[None])
        for parts in ((closed, turns.frame), (closed_start, turns.turn_start), (np.full(40, -1), turns.copy))
    )
    may = may_attend(frame, turn_start, copy, window_frames=20)
    q, k, v = torch.from_numpy(rng.standard_normal((3, 1, 2, 4 * frame.shape[1], 8), dtype=np.float32))
    dense = scaled_dot_product_attention(q, k, v, attn_mask=by_tokens(may))
    for fused in (False, True):
        torch.testing.assert_close(WindowAttention(may, 40, 25, torch.float32, fused)(q, k, v), dense)


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
        window = draw_window(rng, conversations, 60, 2, 25, clean=True)
        loud = window.voices[0, CONTEXT_SAMPLES:].reshape(60, 640).std(axis=1) > 0.1
        assert np.array_equal(loud, window.motion[0, :, JAW] > 0.25)


def test_a_run_that_is_resumed_gives_what_it_would_have_given(data, tmp_path):
    assert train.run(arguments(data, tmp_path / "straight", steps=6)) == 0
    args = arguments(data, tmp_path / "broken", steps=6, until=3)
    train.run(args)
    args.until = None
    assert train.run(args) == 0
    straight, broken = (load_policy(tmp_path / run / "policy").network.state_dict() for run in ("straight", "broken"))
    assert_same(straight, broken)


def test_workers_that_torchrun_starts_train_one_network(data, tmp_path):
    """Two processes on the CPU; what they learn differs from one's, as each has windows of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "timar_ros.cli", "train", "--data", str(data), "--out", str(tmp_path / "two")]
    command += ["--steps", "3", "--speech-steps", "2", "--batch", "2", "--width", "32", "--blocks", "1", "--heads", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "two" / "metrics.csv").read_text().splitlines()) == 1 + 3
    assert done.stdout.count("the policy is in") == 1
    train.run(arguments(data, tmp_path / "one", steps=3, batch=2))
    two, one = (load_policy(tmp_path / name / "policy").network.state_dict() for name in ("two", "one"))
    assert two.keys() == one.keys()
    assert not torch.equal(two["blocks.0.mlp.0.weight"], one["blocks.0.mlp.0.weight"])
    # The speech encoder was taught by one of them, and what it was then it stays.
    taught = torch.load(tmp_path / "two" / "speech_encoder.pt", weights_only=True)["reading"]
    assert all(torch.equal(two[f"speech_{name}"], value) for name, value in taught.items() if name[:7] == "encoder")


def test_the_own_voice_runs_ahead_and_the_network_is_told_by_how_much(data):
    conversations = load_conversations(data, jobs=1)
    seen = set()
    for seed in range(40):
        windows = [
            draw_window(np.random.default_rng(seed), conversations, 50, 2, 25, clean=True, most_lookahead=most)
            for most in (4, 0)
        ]
        ahead = windows[0].lookahead
        seen.add(ahead)
        own = [window.voices[0, CONTEXT_SAMPLES:].reshape(50, 640) for window in windows]
        assert np.array_equal(own[0][: 50 - ahead], own[1][ahead:])
        assert np.array_equal(windows[0].voices[1], windows[1].voices[1])
        assert np.array_equal(windows[0].motion, windows[1].motion)
    assert seen == {0, 1, 2, 3, 4}


def test_voices_are_heard_from_before_the_window_on(data):
    conversations = load_conversations(data, jobs=1)
    alone, longer = (
        draw_window(np.random.default_rng(3), conversations, 50, 2, 25, clean=True, heard_before=before)
        for before in (0, 32)
    )
    assert longer.voices.shape[1] == alone.voices.shape[1] + 32 * 640
    assert np.array_equal(longer.voices[:, 32 * 640 :], alone.voices)
    assert np.array_equal(longer.motion, alone.motion) and longer.heard.shape == alone.heard.shape
    degraded = draw_window(np.random.default_rng(3), conversations, 50, 2, 25, heard_before=32)
    assert degraded.heard.shape == (2, 50)


def test_what_is_not_finite_spoils_no_weights(data, tmp_path, monkeypatch):
    args = arguments(data, tmp_path / "run", steps=4, until=2)
    train.run(args)
    before = load_policy(tmp_path / "run" / "policy").network.state_dict()
    monkeypatch.setattr(Objective, "forward", lambda self, windows: _not_finite(self))
    args.until = None
    with pytest.raises(TimarError, match="not finite"):
        train.run(args)
    assert_same(before, load_policy(tmp_path / "run" / "policy").network.state_dict())


def _not_finite(objective: Objective) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss = sum(p.sum() for p in objective.network.parameters() if p.requires_grad) * float("nan")
    return loss, {}


def test_a_step_that_is_interrupted_is_completed():
    done = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            with uninterrupted():
                signal.raise_signal(signal.SIGINT)
                done.append("first")
            done.append("next")
        assert done == ["first"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_wanders_again_and_again_and_resumed_gives_the_same(data, tmp_path):
    wandering = {"steps": 6, "wandering": 0.7, "wander_every": 2, "wandering_conversations": 1}
    train.run(arguments(data, tmp_path / "straight", **wandering))
    for until in (3, 4, None):
        train.run(arguments(data, tmp_path / "broken", until=until, **wandering))
    for run in ("straight", "broken"):
        assert sorted(path.name for path in (tmp_path / run).glob("wandered_*")) == [
            "wandered_000002.npz",
            "wandered_000004.npz",
        ]
    straight, broken = (load_policy(tmp_path / run / "policy").network.state_dict() for run in ("straight", "broken"))
    assert_same(straight, broken)
    rows = [np.loadtxt(tmp_path / run / "metrics.csv", delimiter=",", skiprows=1) for run in ("straight", "broken")]
    assert len(rows[0]) == 6
    assert_same(*map(torch.from_numpy, rows))


@pytest.mark.parametrize(
    ("number", "group"),
    [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGHUP, True)],
    ids=["SIGTERM", "SIGTERM to all", "SIGHUP to all"],
)
def test_a_run_that_is_told_to_end_keeps_what_it_learned(data, tmp_path, number, group):
    """By itself, or with its loaders, as by a terminal that closes, torchrun, systemd or timeout."""
    command = [sys.executable, "-m", "timar_ros.cli", "train", "--data", str(data), "--out", str(tmp_path)]
    command += ["--steps", "100000", "--speech-steps", "2", "--batch", "2", "--window-frames", "60"]
    command += ["--width", "32", "--heads", "2", "--blocks", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as run:
        try:
            while "/100000" not in run.stderr.readline():  # the progress bar
                assert run.poll() is None
        finally:
            (os.killpg if group else os.kill)(run.pid, number)
        rest = run.stderr.read()
    assert run.returncode == 128 + number and "DataLoader" not in rest
    # Of a whole group, helpers of joblib and multiprocessing may have a traceback whose peers have ended; we have none.
    assert ("timar_ros/" if group else "Traceback") not in rest
    assert load_policy(f"{tmp_path / 'policy'}/").network.config.width == 32


def test_a_run_with_other_settings_is_not_resumed_by_mistake(data, tmp_path):
    train.run(arguments(data, tmp_path / "run", steps=2))
    with pytest.raises(TimarError, match="other settings"):
        train.run(arguments(data, tmp_path / "run", steps=3))


def test_a_run_is_not_resumed_with_other_data_or_from_another_start(data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(data, other)
    for path in other.glob("*_speaker?.npz"):
        with np.load(path) as told:
            np.savez(path, **dict(told) | {"motion": told["motion"][::-1]})
    train.run(arguments(data, tmp_path / "run", steps=2))
    with pytest.raises(TimarError, match="speech_encoder.pt was made with other settings or of other data"):
        train.run(arguments(other, tmp_path / "run", steps=2))
    (tmp_path / "run" / "speech_encoder.pt").unlink()
    with pytest.raises(TimarError, match="was made of other data or from another --start"):
        train.run(arguments(other, tmp_path / "run", steps=2))

    train.run(arguments(data, tmp_path / "one", steps=2, seed=1))
    starts = [f"{tmp_path / name / 'policy'}/" for name in ("run", "one")]
    train.run(arguments(data, tmp_path / "further", steps=2, start=starts[:1]))
    with pytest.raises(TimarError, match="was made of other data or from another --start"):
        train.run(arguments(data, tmp_path / "further", steps=2, start=starts[1:]))


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch", 0), ("open_groups", 0), ("draws", 0), ("seed", -1), ("steps", -1), ("short_window_frames", 0)]
    + [
        ("ema", 1.0),
        ("ema", 2.0),
        ("learning_rate", float("nan")),
        ("history_noise", float("inf")),
        ("wandering", 7.0),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_with_a_sentence(data, tmp_path, name, value):
    with pytest.raises(TimarError, match=f"--{name.replace('_', '-')} is {value}; . (and more|to .*) is allowed"):
        train.run(arguments(data, tmp_path / "run", **{name: value}))


@pytest.mark.parametrize("kept", ["checkpoint.pt", "speech_encoder.pt"])
def test_a_run_is_not_resumed_from_a_damaged_file(data, tmp_path, kept):
    args = arguments(data, tmp_path / "run", steps=2)
    train.run(args)
    file = tmp_path / "run" / kept
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(TimarError, match=f"{kept} is damaged .*; remove it to begin anew"):
        train.run(args)


def test_a_run_of_another_network_is_not_resumed(data, tmp_path):
    args = arguments(data, tmp_path / "run", steps=2)
    train.run(args)
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    del state["objective"]["network.partner_mean"]
    torch.save(state, tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(TimarError, match="is of another version of timar_ros"):
        train.run(args)


def test_what_a_run_is_watched_by_does_not_end_it(data, tmp_path, monkeypatch, capsys):
    def no_video(*_: object) -> None:
        raise OSError("no encoder")

    monkeypatch.setattr(train, "write_sample_video", no_video)
    assert train.run(arguments(data, tmp_path / "run", steps=2, look_every=1)) == 0
    assert "no sample video of step 1: no encoder" in capsys.readouterr().err
    with pytest.raises(TimarError, match="no conversation is longer than a training window of 600 frames"):
        train.run(arguments(data, tmp_path / "short", held_out=data, short_window_frames=SECONDS * 25))


def test_turns_are_found_anew_where_the_voices_are_others(data, tmp_path):
    for path in data.glob("a_speaker*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (before,) = load_conversations(tmp_path, jobs=1)
    kept = (tmp_path / "a_turns.npz").read_bytes()
    assert np.array_equal(load_conversations(tmp_path, jobs=1)[0].turn_starts, before.turn_starts)
    assert (tmp_path / "a_turns.npz").read_bytes() == kept
    for speaker in ("speaker1", "speaker2"):
        soundfile.write(tmp_path / f"a_{speaker}.wav", np.zeros((SECONDS - 1) * 16000), 16000)
    (after,) = load_conversations(tmp_path, jobs=1)
    assert after.frames == (SECONDS - 1) * 25
    assert len(set(np.diff(after.turn_starts))) == 1  # in silence all turns are as long as they can be


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE", "PCM_24"])
def test_sound_of_any_kind_is_heard(data, tmp_path, subtype):
    for path in data.glob("a_speaker*"):
        shutil.copy(path, tmp_path)
        if path.suffix == ".wav":
            soundfile.write(tmp_path / path.name, *soundfile.read(path), subtype=subtype)
    expected, other = load_conversations(data, jobs=1)[0], load_conversations(tmp_path, jobs=1)[0]
    assert np.array_equal(other.voices, expected.voices) and np.array_equal(other.turn_starts, expected.turn_starts)


def test_motion_of_another_frame_rate_is_refused(data, tmp_path):
    for path in data.glob("a_speaker*"):
        shutil.copy(path, tmp_path)
    motion = np.zeros((SECONDS * 30, MOTION_DIM), np.float32)
    np.savez(tmp_path / "a_speaker2.npz", motion=motion, channels=CHANNELS)
    with pytest.raises(TimarError, match="the motions 600 and 720; .* with 25 frames a second"):
        load_conversations(tmp_path, jobs=1)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"channels": [name.title() for name in CHANNELS]}, "`channels` lacks headRoll"),
        ({"channels": ["tongue" if name == "tongueOut" else name for name in CHANNELS]}, "`channels` lacks tongueOut"),
        ({"motion": np.full((SECONDS * 25, MOTION_DIM), 60.0)}, "weights of up to 60; rad and weights in"),
    ],
)
def test_motion_that_is_not_ours_is_refused(data, tmp_path, changed, sentence):
    for path in data.glob("a_speaker*"):
        shutil.copy(path, tmp_path)
    motion = np.zeros((SECONDS * 25, MOTION_DIM), np.float32)
    np.savez(tmp_path / "a_speaker1.npz", **({"motion": motion, "channels": CHANNELS} | changed))
    with pytest.raises(TimarError, match=sentence):
        load_conversations(tmp_path, jobs=1)


def test_a_short_conversation_beside_longer_ones_spoils_no_units(data):
    conversations = load_conversations(data, jobs=1)
    whole, cut = (TimarNetwork(NetworkConfig(width=32, blocks=1, heads=2)) for _ in range(2))
    set_motion_units(whole, conversations)
    few = {"motion": conversations[0].motion[:, :20], "nod_place": conversations[0].nod_place[:, :20]}
    set_motion_units(cut, [*conversations, replace(conversations[0], **few)])
    assert torch.isfinite(cut.motion_step).all() and torch.allclose(cut.motion_step, whole.motion_step, rtol=0.05)


def test_no_frame_that_is_asked_for_a_nod_to_come_is_shown_it(data):
    """A frame further on in the same copy tells that a nod begins there; live none does."""
    (conversation, _) = load_conversations(data, jobs=1)
    place = np.zeros_like(conversation.nod_place)
    place[:, ::10] = 1
    window = draw_window(np.random.default_rng(3), [replace(conversation, nod_place=place)], 100, 4, 25, clean=True)
    network = TimarNetwork(NetworkConfig(width=32, blocks=1, heads=2))
    set_motion_units(network, [conversation])
    batch = make_batch([window], network, train.Recipe(), find_ways_back(network, [conversation]))
    copies, frames = window.open_turns.copy, window.open_turns.frame
    begins = window.nod_place[frames] == 1
    shown = [(begins & (copies == copy) & (frames > frame)).any() for copy, frame in zip(copies, frames, strict=True)]
    assert batch.nod_shown[0].tolist() == shown and 0 < sum(shown) < len(shown)


def test_what_is_learned_from_is_nothing_to_measure_by(data, unheard, tmp_path):
    shutil.copytree(unheard, tmp_path / "held_out")
    for path in data.glob("a_*"):
        shutil.copy(path, tmp_path / "held_out" / f"z{path.name}")
    with pytest.raises(TimarError, match="--held-out: za is learned from as well"):
        train.run(arguments(data, tmp_path / "run", held_out=tmp_path / "held_out"))


def test_a_run_is_watched_on_conversations_it_does_not_learn_from(data, unheard, tmp_path):
    args = arguments(data, tmp_path / "run", steps=4, held_out=unheard, look_every=2)
    assert train.run(args) == 0
    measured = np.loadtxt(tmp_path / "run" / "held_out.csv", delimiter=",")
    assert measured[:, 0].tolist() == [2, 4] and np.isfinite(measured).all()
    videos = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert videos == ["step_000002.mp4", "step_000004.mp4"]
    with av.open(str(tmp_path / "run" / "samples" / videos[1])) as video:
        assert sum(1 for _ in video.decode(video=0)) == 12 * 25


def test_training_can_begin_with_another_policys_weights(data, tmp_path):
    train.run(arguments(data, tmp_path / "first", steps=2))
    trained = load_policy(tmp_path / "first" / "policy")
    save_policy(tmp_path / "first" / "policy", trained.network, CHANNELS, {"head_temperature": 0.4})
    args = arguments(data, tmp_path / "second", steps=1, start=[str(tmp_path / "first" / "policy")], learning_rate=0.0)
    assert train.run(args) == 0
    policies = [load_policy(tmp_path / run / "policy") for run in ("first", "second")]
    first, second = (policy.network.state_dict() for policy in policies)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert policies[1].sampling == {"head_temperature": 0.4}


def test_training_can_begin_with_the_mean_of_two_policies(data, tmp_path):
    for number, width in ((1, 32), (2, 32), (3, 64)):
        args = arguments(data, tmp_path / str(number), steps=1, seed=number, width=width, heads=2)
        train.run(args)
    folders = [str(tmp_path / str(number) / "policy") for number in (1, 2, 3)]
    train.run(arguments(data, tmp_path / "mean", steps=1, start=folders[:2], learning_rate=0.0))
    one, other, mean = (
        load_policy(folder).network.state_dict() for folder in (*folders[:2], tmp_path / "mean" / "policy")
    )
    assert all(torch.allclose(mean[name], (one[name] + other[name]) / 2, atol=1e-6) for name in one)
    with pytest.raises(TimarError, match="of another size than policy"):
        train.run(arguments(data, tmp_path / "none", start=[folders[0], folders[2]]))


def test_flame_motion_is_learned_from_where_it_tells_of_a_channel(data, tmp_path):
    """DualTalk's files: expression without names, the jaw's and the neck's rotation."""
    rng = np.random.default_rng(4)
    for speaker in ("speaker1", "speaker2"):
        (tmp_path / f"c_{speaker}.wav").write_bytes((data / f"a_{speaker}.wav").read_bytes())
        pose = rng.uniform(0, 0.3, (SECONDS * 25, 6))
        np.savez(tmp_path / f"c_{speaker}.npz", exp=rng.standard_normal((SECONDS * 25, 50)), pose=pose)
    (conversation,) = load_conversations(tmp_path, jobs=1)
    assert [CHANNELS[i] for i in np.flatnonzero(conversation.known)] == ["headRoll", "headPitch", "headYaw", "jawOpen"]
    assert np.allclose(conversation.motion[1, :, JAW], pose[:, 3] / 0.35, atol=1e-3)
    before = train.Run(tmp_path / "run", NetworkConfig(width=32, blocks=1, heads=2), train.Recipe(), [conversation])
    parts = objective.Objective(before.network, train.Recipe(), [conversation])(
        Windows.stack([draw_window(np.random.default_rng(0), [conversation], 60, 2, 25, clean=True)], seed=0)
    )[1]
    assert (
        set(parts) == {"head", "jaw", "face", "variational", "nod_ahead", "lips"}
        and np.isfinite(list(parts.values())).all()
    )
    assert parts["face"] == pytest.approx(parts["jaw"])  # of the face nothing else is known
    tracked = before.network.normalise_partner(torch.rand(MOTION_DIM))
    assert np.array_equal(np.flatnonzero(tracked), np.flatnonzero(conversation.known))


def test_a_policy_of_flame_motion_can_be_used_and_keeps_the_face_that_it_began_with(data, tmp_path):
    rng = np.random.default_rng(4)
    (tmp_path / "flame").mkdir()
    for speaker in ("speaker1", "speaker2"):
        shutil.copy(data / f"a_{speaker}.wav", tmp_path / "flame" / f"c_{speaker}.wav")
        expression, pose = rng.standard_normal((SECONDS * 25, 50)), rng.uniform(0, 0.3, (SECONDS * 25, 6))
        np.savez(tmp_path / "flame" / f"c_{speaker}.npz", exp=expression, pose=pose)
    assert train.run(arguments(tmp_path / "flame", tmp_path / "alone", steps=2, settle_conversations=1)) == 0
    alone = load_policy(f"{tmp_path / 'alone' / 'policy'}/").network
    (conversation,) = load_conversations(tmp_path / "flame", jobs=1)
    assert np.array_equal(np.isinf(alone.partner_scale.numpy()), ~conversation.known)
    train.run(arguments(tmp_path / "flame", tmp_path / "begun", steps=0, start=["default"]))
    begun, default = (load_policy(name).network for name in (f"{tmp_path / 'begun' / 'policy'}/", "default"))
    for name in ("motion_mean", "motion_scale", "motion_step", "motion_kept"):
        one, other = getattr(begun, name)[..., ~conversation.known], getattr(default, name)[..., ~conversation.known]
        assert torch.equal(one, other), name
    assert not torch.equal(begun.motion_mean[:3], default.motion_mean[:3])


def test_a_run_begun_anew_uses_nothing_of_the_one_before(data, tmp_path):
    wandering = {"steps": 3, "wandering": 0.7, "wander_every": 2, "wandering_conversations": 1}
    train.run(arguments(data, tmp_path, **wandering))
    before = (tmp_path / "wandered_000002.npz").read_bytes()
    for name in ("checkpoint.pt", "speech_encoder.pt"):
        (tmp_path / name).unlink()
    train.run(arguments(data, tmp_path, **wandering | {"seed": 1}))
    assert (tmp_path / "wandered_000002.npz").read_bytes() != before
    assert [row.split(",")[0] for row in (tmp_path / "metrics.csv").read_text().splitlines()] == ["step", *"123"]


def test_steps_that_are_made_once_more_are_logged_once(data, tmp_path):
    train.run(arguments(data, tmp_path, steps=4, until=2))
    with (tmp_path / "metrics.csv").open("a") as log:  # of steps after which it was not saved
        log.write("3,1.0\n4,1.0\n")
    train.run(arguments(data, tmp_path, steps=4))
    assert [row.split(",")[0] for row in (tmp_path / "metrics.csv").read_text().splitlines()] == ["step", *"1234"]


def test_a_finished_run_is_left_as_it_is(data, tmp_path, capsys):
    """What its policy's config.yaml was changed to, and that it was settled."""
    asked = {"steps": 2, "settle_conversations": 1}
    train.run(arguments(data, tmp_path, **asked))
    config = tmp_path / "policy" / "config.yaml"
    config.write_text(config.read_text().replace("head_temperature: 1.1", "head_temperature: 0.5"))
    weights = (tmp_path / "policy" / "weights.safetensors").read_bytes()
    assert "the head was moved" in capsys.readouterr().out
    train.run(arguments(data, tmp_path, **asked))
    assert "the head was moved" not in capsys.readouterr().out
    assert "head_temperature: 0.5" in config.read_text()
    assert (tmp_path / "policy" / "weights.safetensors").read_bytes() == weights


def test_noise_is_alike_from_frame_to_frame_and_standard_normal():
    noise = objective.correlated_noise(objective.Random(0, torch.device("cpu")), (4, 500, 55), 1.0)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.03)
    assert float((noise[:, 1:] * noise[:, :-1]).mean()) == pytest.approx(np.exp(-0.25), abs=0.03)


def test_a_nod_is_announced_before_it_begins_and_then_told_to_its_end(tmp_path):
    rng = np.random.default_rng(5)
    motion = np.zeros((2, SECONDS * 25, MOTION_DIM), np.float32)
    time = np.arange(SECONDS * 25) / 25
    nodding = (time > 10.0) & (time < 11.0)
    motion[0, nodding, CHANNELS.index("headPitch")] = np.radians(2.5) * (1 - np.cos(4 * np.pi * (time[nodding] - 10)))
    for speaker, track in enumerate(motion, start=1):
        soundfile.write(tmp_path / f"n_speaker{speaker}.wav", 0.1 * rng.random(SECONDS * 16000), 16000)
        np.savez(tmp_path / f"n_speaker{speaker}.npz", motion=track, channels=CHANNELS)
    (conversation,) = load_conversations(tmp_path, jobs=1)
    announced = np.flatnonzero(conversation.nod_ahead[0])
    assert len(announced) == NOD_AHEAD_FRAMES and (np.diff(announced) == 1).all()
    begins = announced[-1] + 1
    assert 247 <= begins <= 255
    assert conversation.nod_place[0, begins : begins + NOD_FRAMES].tolist() == list(range(1, NOD_FRAMES + 1))
    assert np.count_nonzero(conversation.nod_place[0]) == NOD_FRAMES
    assert not conversation.nod_ahead[1].any() and not conversation.nod_place[1].any()
    window = draw_window(np.random.default_rng(0), [conversation], SECONDS * 25 - 1, 1, 25, clean=True)
    assert window.nod_ahead.sum() in (0, NOD_AHEAD_FRAMES)
    network = TimarNetwork(NetworkConfig(width=32, blocks=1, heads=2))
    set_motion_units(network, [conversation])
    pitch = CHANNELS.index("headPitch")
    course = network.nod_course[:, pitch] * network.motion_scale[pitch]
    assert torch.allclose(course[1:], torch.from_numpy(motion[0, begins : begins + NOD_FRAMES, pitch]), atol=1e-5)
    assert course[0] == 0 and np.degrees(float(course.max())) == pytest.approx(5.0, abs=0.3)


def test_a_nod_that_began_runs_its_usual_course_where_nothing_else_is_drawn():
    torch.manual_seed(0)
    network = TimarNetwork(NetworkConfig(width=32, blocks=1, heads=2))
    network.motion_kept[:] = 1.0
    network.nod_course[1:].normal_()
    motion = [torch.zeros(55)]
    for place in range(1, NOD_FRAMES + 1, 2):  # hops of two frames, and one behind the nod
        for lag in (1, 2):
            basis = torch.cat([motion[-lag], torch.zeros(55)])
            motion.append(network.from_change(torch.zeros(55), basis, torch.tensor(lag), torch.tensor(place + lag - 1)))
    assert torch.allclose(torch.stack(motion), network.nod_course, atol=1e-5)
    after = network.from_change(
        torch.zeros(55), torch.cat([motion[-1], torch.zeros(55)]), torch.tensor(1), torch.tensor(0)
    )
    assert torch.equal(after, motion[-1])


def test_windows_that_begin_astray_come_back(data):
    """Where no person was, the target leads back to where the person is, as fast as RETURN_FRAMES says."""
    conversations = load_conversations(data, jobs=1)
    network = TimarNetwork(NetworkConfig(width=32, blocks=1, heads=2))
    set_motion_units(network, conversations)
    network.motion_kept[:] = 1.0
    network.motion_step[:] = 1.0
    recipe = train.Recipe(astray=50.0, history_noise=0.0, history_dropped=0.0)
    rng = np.random.default_rng(1)
    windows = [draw_window(rng, conversations, 100, 2, 25, clean=True) for _ in range(8)]
    batch = make_batch(windows, network, recipe, find_ways_back(network, conversations))
    inputs, frame, target, masked = batch.inputs, batch.frame, batch.target, batch.masked
    given = inputs.own_motion[:, :100, 0].numpy()  # roll, which never moves in this data
    strayed = np.abs(given[:, 0]) > 1.0
    assert 0 < strayed.sum() < 8
    ratio = given[strayed, 40] / given[strayed, 0]
    assert np.allclose(ratio, np.exp(-40 / objective.RETURN_FRAMES), atol=1e-3)
    row = int(np.flatnonzero(strayed)[0])
    slots = np.flatnonzero(masked[row].numpy() & (inputs.lag[row, 100:].numpy() > 0))
    for slot in slots:
        reached = inputs.basis[row, 100 + slot, 0] + target[row, slot, 0]
        assert float(reached) == pytest.approx(given[row, int(frame[row, 100 + slot])], abs=1e-3)


def test_a_wanderers_deviation_dies_away_while_the_person_goes_on(data):
    """With another's motion as the past, the target is the person's plus what remains of the deviation."""
    (conversation, _) = load_conversations(data, jobs=1)
    pitch = CHANNELS.index("headPitch")
    sway = np.cumsum(np.random.default_rng(6).normal(0.0, 0.01, conversation.motion.shape[:2]), axis=1)
    motion = conversation.motion.copy()
    motion[:, :, pitch] = sway - sway.mean(axis=1, keepdims=True)
    drawn = motion + np.float32(0.1) * (np.arange(55) == pitch)
    conversation = replace(conversation, motion=motion, drawn=drawn.astype(np.float32))
    network = TimarNetwork(NetworkConfig(width=32, blocks=1, heads=2))
    set_motion_units(network, [conversation])
    ways_back = find_ways_back(network, [conversation])
    remains = ways_back[0, :, pitch]
    assert 0.0 < remains[20] < remains[1] <= 1.0 and not ways_back[:, :, JAW].any()
    recipe = train.Recipe(astray=0.0, history_noise=0.0, history_dropped=0.0)
    rng = np.random.default_rng(0)
    windows = [draw_window(rng, [conversation], 100, 2, 25, clean=True, wandering=1.0) for _ in range(4)]
    assert all(np.allclose(w.given[:, pitch] - w.motion[0, :, pitch], 0.1, atol=1e-5) for w in windows)
    batch = make_batch(windows, network, recipe, ways_back)
    inputs = batch.inputs
    of_open_turns = (of[:, 100:] for of in (inputs.basis, inputs.lag, inputs.nod_place))
    reached = network.from_change(batch.target, *of_open_turns)[..., pitch]
    person = batch.motion[:, 100:, pitch]
    asked = batch.masked & (inputs.lag[:, 100:] > 0)
    expected = 0.1 / network.motion_scale[pitch] * remains[inputs.lag[:, 100:]]
    torch.testing.assert_close((reached - person)[asked], expected[asked], atol=1e-4, rtol=1e-3)


def test_a_policy_wanders_through_the_data_and_learns_from_where_it_got(data, tmp_path):
    with pytest.raises(TimarError, match="give it as --start"):
        train.run(arguments(data, tmp_path / "none", wandering=0.5))
    train.run(arguments(data, tmp_path / "first", steps=2))
    first = load_policy(tmp_path / "first" / "policy")
    conversations = load_conversations(data, jobs=1)
    drawn = wander_through(first, conversations, 0)
    assert all(track.shape == c.motion.shape for track, c in zip(drawn, conversations, strict=True))
    assert not np.allclose(drawn[0], conversations[0].motion) and np.isfinite(drawn[0]).all()
    assert np.array_equal(drawn[0], wander_through(first, conversations, 0)[0])
    args = arguments(data, tmp_path / "second", steps=2, wandering=0.5, start=[str(tmp_path / "first" / "policy")])
    assert train.run(args) == 0


@pytest.fixture(scope="module")
def slice_of_dialogues(tmp_path_factory):
    """Ten minutes of generated dialogues, and two more to measure by."""
    folder = tmp_path_factory.mktemp("slice")
    generate(folder / "train", hours=1 / 6, seed=50, jobs=2)
    generate(folder / "held_out", hours=1 / 30, seed=51, jobs=2)
    return folder


def test_a_policy_that_holds_head_and_brows_askew_is_settled_where_people_hold_theirs(data, tmp_path, capsys):
    rng = np.random.default_rng(7)
    brow, tongue = CHANNELS.index("browInnerUp"), CHANNELS.index("tongueOut")
    conversations = load_conversations(data, jobs=1)
    for conversation in conversations:
        motion = conversation.motion
        motion[..., :3] += rng.normal(0.0, 0.05, motion[..., :3].shape)
        motion[..., brow] = rng.uniform(0.3, 0.5, motion.shape[:-1])
    lived_through = len(conversations) - 1  # and the people of all of them
    assert train.run(arguments(data, tmp_path / "run", steps=1, settle_conversations=lived_through)) == 0
    told = capsys.readouterr().out
    assert "the head was moved by roll" in told and "browInnerUp " in told
    policy = load_policy(tmp_path / "run" / "policy")
    policy.network.diffusion.final_layer.linear.bias[:3] = 10.0
    policy.network.motion_mean[brow], policy.network.motion_scale[brow] = 0.3, 0.03
    partner = policy.network.normalise_partner(torch.from_numpy(conversations[0].motion[1]))
    moved, wider = settle(policy, conversations, lived_through, seed=0)
    assert (np.degrees(moved[:3]) < -0.1).any() and (np.abs(wider[:3] - 1) > 0.1).any() and abs(moved[brow]) > 0.02
    assert moved[tongue] == 0.0 and wider[tongue] == wider[brow] == 1.0  # that brow does not move
    # The partner is seen as before.
    assert torch.equal(policy.network.normalise_partner(torch.from_numpy(conversations[0].motion[1])), partner)
    lived = wander_through(policy, conversations[:lived_through], 0, WHOLE)
    for measure, power, share in ((np.mean, 1.0, 1.0), (np.var, 0.5, HEAD_SPREAD)):
        drawn, people = (
            np.mean([measure(track[:, :3], axis=0) for motion in motions for track in motion], axis=0) ** power
            for motions in (lived, [c.motion for c in conversations])
        )
        np.testing.assert_allclose(drawn, share * people, atol=np.radians(0.05))
    assert np.mean([track[:, brow] for motion in lived for track in motion]) == pytest.approx(0.4, abs=0.01)


@pytest.fixture(scope="module")
def learned_from_ten_minutes(slice_of_dialogues, tmp_path_factory):
    """The settings, and the folder of a run from scratch with them."""
    size = {"steps": 600, "batch": 4, "width": 96, "blocks": 2, "heads": 4, "learning_rate": 1.5e-3, "ema": 0.97}
    size |= {"short_window_frames": 60, "short_open_groups": 6, "warmup_steps": 20, "look_every": 0}
    folder = tmp_path_factory.mktemp("straight")
    train.run(arguments(slice_of_dialogues / "train", folder, **size))
    return size, folder


@pytest.mark.heavy
@pytest.mark.timeout(1500)
def test_ten_minutes_of_dialogue_beat_the_mean_on_others_and_resuming_gives_the_same(
    learned_from_ten_minutes, slice_of_dialogues, tmp_path
):
    """Frames of hops to come, each hop from what people did until then, against their mean and, harder, against what
    each channel's own past leads to by linear regression."""
    size, straight = learned_from_ten_minutes
    args = arguments(slice_of_dialogues / "train", tmp_path / "broken", until=250, **size)
    train.run(args)
    args.until = None
    train.run(args)
    policies = [load_policy(run / "policy") for run in (straight, tmp_path / "broken")]
    assert_same(*(policy.network.state_dict() for policy in policies))

    network, others = policies[0].network, load_conversations(slice_of_dialogues / "held_out", jobs=1)
    predicted, changes, motion, true = hops_to_come(network, others)
    assert np.square(motion - true).mean() < 0.8 * np.square(true).mean()
    for group in (slice(3), JAW, slice(3, None)):
        assert np.square(predicted - changes)[:, group].mean() < np.square(changes)[:, group].mean()


@pytest.mark.heavy
@pytest.mark.timeout(1500)
def test_living_on_its_own_motion_ten_minutes_of_dialogue_beat_the_mean(learned_from_ten_minutes, slice_of_dialogues):
    """As the policy is run, but for the noise, whose mean is what can be held against another mean."""
    policy = load_policy(learned_from_ten_minutes[1] / "policy")
    mean = policy.network.motion_mean.numpy()
    errors = []
    for conversation in load_conversations(slice_of_dialogues / "held_out", jobs=1):
        stepper = IncrementalPolicy(policy, "cpu", sampling=Sampling.from_policy(policy, temperature=0.0))
        motion = offline.move(stepper, offline.hear(*(conversation.voices / np.float32(32768))))
        truth = conversation.motion[0, : len(motion)]
        errors.append([np.mean(np.square(truth - guess), axis=0) for guess in (motion, mean)])
    predicted, mean_predictor = np.mean(errors, axis=0) / policy.network.motion_scale.numpy() ** 2
    assert predicted[JAW] < 0.8 * mean_predictor[JAW]
    assert predicted.mean() < mean_predictor.mean()


def hops_to_come(network: TimarNetwork, conversations) -> list[np.ndarray]:
    """Of masked frames, [frames, 55] each in normalised units: the change predicted and the true one, the motion
    predicted and the true one."""
    rng = np.random.default_rng(0)
    windows = [draw_window(rng, conversations, 200, 4, 25) for _ in range(60)]
    recipe = train.Recipe(history_dropped=0.0, history_noise=0.0, astray=0.0, partner_seen=0.0)
    schedule, steps = diffusion.make_schedule(network.config.sampling_steps), network.config.sampling_steps
    with torch.inference_mode():
        batch = make_batch(windows, network, recipe, find_ways_back(network, conversations))
        history, masked = batch.frame.shape[1] - batch.masked.shape[1], batch.masked
        attend = WindowAttention(batch.may, history, network.config.max_turn_frames, torch.float32)
        rotation = torch.from_numpy(network.rotation(np.arange(history)))[batch.frame]
        z = network.conditions(batch.inputs, rotation, attend=attend)[:, history:][masked]
        everywhere = torch.ones(MOTION_DIM, dtype=torch.bool)
        noise = torch.zeros(steps, len(z), MOTION_DIM)
        predicted = diffusion.sample(network.diffusion, schedule, z, noise, 0.0, mean=everywhere, posterior=True)
        told = [
            values[:, history:][masked] for values in (batch.inputs.basis, batch.inputs.lag, batch.inputs.nod_place)
        ]
        motion = network.from_change(predicted, *told)
    return [t.numpy() for t in (predicted, batch.target[masked], motion, batch.motion[:, history:][masked])]


@pytest.mark.heavy
def test_the_jaw_learns_to_follow_the_own_voice_and_not_the_partners(data, tmp_path):
    train.run(arguments(data, tmp_path / "run", steps=400, batch=4, learning_rate=3e-3, ema=0.95))
    policy = load_policy(tmp_path / "run" / "policy")
    conversation = load_conversations(data, jobs=1)[0]
    stepper = IncrementalPolicy(policy, "cpu", sampling=Sampling.mean())
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
