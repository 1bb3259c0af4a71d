"""The figures of a recording: measured, or null; and the goals they are held against."""

import json
from dataclasses import replace

import numpy as np
import pytest
from synthetic_bag import START_NS, Invented, write_bag

from timar_ros.channels import MOTION_DIM
from timar_ros.rates import FRAME_SAMPLES
from timar_ros.replay.bag import read_recording
from timar_ros.replay.recording import Signal
from timar_ros.replay.summary import GOALS, check_goals, motion_delay_ms, summarise, table
from timar_ros.stream.conversation import Hop
from timar_ros.stream.frames import Frame
from timar_ros.stream.trace import TracedHop

INVENTED = Invented()
DESIGN_KEYS = {
    "seconds",
    "frames",
    "commands",
    "refusals",
    "blendshape_messages",
    "latency_ms",
    "reaction_ms",
    "motion_delay_ms",
    "deadline_misses",
    "limit_violations",
    "turns",
    "turns_by_floor",
    "policy",
    "device",
    "realtime_factor",
    "rss_mb",
}


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return read_recording(write_bag(tmp_path_factory.mktemp("recorded") / "bag", INVENTED))


@pytest.fixture(scope="module")
def summary(recording):
    return summarise(recording)


def test_all_promised_figures_are_there_and_go_into_json(summary):
    assert set(summary) >= DESIGN_KEYS
    assert set(summary["latency_ms"]) == set(summary["reaction_ms"]) == {"p50", "p95", "p99"}
    assert json.loads(json.dumps(summary)) == summary


def test_counts_are_those_of_the_conversation(summary):
    assert summary["frames"] == summary["blendshape_messages"] == INVENTED.frames
    assert summary["seconds"] == INVENTED.seconds
    assert summary["hops"] == summary["commands"] == INVENTED.frames // 2
    assert summary["commands_percent"] == summary["blendshape_percent"] == 100.0
    assert summary["hop_frames"] == 2
    assert summary["refusals"] == summary["limit_violations"] == summary["deadline_misses"] == 0
    assert summary["turns_by_floor"] == 16
    assert (summary["policy"], summary["device"]) == ("timar-small", "cpu")


def test_latency_and_reaction_are_those_the_simulated_head_measured(summary):
    assert summary["latency_ms"] == {"p50": 60.0, "p95": 72.0, "p99": 75.0}
    assert summary["reaction_ms"] == {"p50": 100.0, "p95": 142.0, "p99": 150.0}


def test_live_conversation_runs_in_real_time(summary):
    assert summary["realtime_factor"] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("neck_ms", [0.0, 15.0, 112.0])
def test_motion_delay_is_found_to_the_millisecond(tmp_path, neck_ms):
    invented = replace(INVENTED, neck_ms=neck_ms)
    recording = read_recording(write_bag(tmp_path / "bag", invented))
    assert motion_delay_ms(recording) == pytest.approx(165.0 + neck_ms, abs=2.0)


def test_commands_of_another_joint_group_at_100_hz_are_counted(recording):
    """As an arm's are, where a recording began late."""
    dense = replace(recording.trajectories, stamps_ns=START_NS + 10_000_000 * np.arange(len(recording.trajectories)))
    assert summarise(replace(recording, trajectories=dense))["hop_frames"] == 1


def test_motion_delay_of_a_robot_with_other_names_and_directions(recording):
    joints = recording.joint_states
    other = Signal(joints.times_ns, joints.stamps_ns, ("head_1", "head_2"), -joints.values[:, :2])
    assert motion_delay_ms(replace(recording, joint_states=other)) == pytest.approx(180.0, abs=2.0)


def test_motion_delay_is_null_where_the_joints_do_not_follow(recording):
    joints = recording.joint_states
    noise = np.cumsum(np.random.default_rng(0).normal(0.0, 1e-3, joints.values.shape), axis=0)
    for values in (noise, np.zeros_like(joints.values)):
        stray = Signal(joints.times_ns, joints.stamps_ns, joints.names, values)
        assert motion_delay_ms(replace(recording, joint_states=stray)) is None


def test_messages_that_were_lost_show_in_the_percentages(recording):
    faces = recording.blendshapes
    kept = np.arange(len(faces)) % 10 != 5
    fewer = Signal(faces.times_ns[kept], faces.stamps_ns[kept], faces.names, faces.values[kept])
    summary = summarise(replace(recording, blendshapes=fewer))
    assert summary["blendshape_percent"] == 90.0
    checks = {check.label: check.ok for check in check_goals(summary | {"seconds": 47.0})}
    assert checks["face messages, of frames"] is False


@pytest.mark.parametrize("kept_frames", [0, 20, 60])
def test_what_went_by_before_the_recording_began_is_not_missed(recording, kept_frames):
    """A recorder that comes late hears of `kept_frames` that the head node kept, and of nothing before them."""
    begin = 100  # the first frame of which all was recorded
    faces, latency = recording.blendshapes, recording.command_latency
    begin_ns = int(faces.stamps_ns[begin]) + 150_000_000

    def later(signal, first):
        return Signal(signal.times_ns[first:], signal.stamps_ns[first:], signal.names, signal.values[first:])

    late = replace(
        recording,
        blendshapes=later(faces, begin),
        trajectories=later(recording.trajectories, begin // 2),
        command_latency=later(latency, int((latency.times_ns < begin_ns).sum())),
        hops=[
            traced_hop(k, int(faces.stamps_ns[k]) + 100_000_000) for k in range(begin - kept_frames, len(faces) - 1, 2)
        ],
        hops_from_ns=begin_ns,
    )
    summary = summarise(late)
    assert summary["blendshape_messages"] == INVENTED.frames - begin
    assert 0 <= summary["frames"] - (INVENTED.frames - begin) <= 2  # of a hop, which may have come at once
    assert summary["blendshape_percent"] > 98 and summary["commands_percent"] > 98
    latency = later(late.command_latency, 40)  # the robot's topics were found later than the head's
    assert summarise(replace(late, command_latency=latency))["commands_percent"] > 98
    lost = replace(late, blendshapes=later(late.blendshapes, len(late.blendshapes) // 2))
    assert summarise(lost)["blendshape_percent"] < 55


def traced_hop(index, planned_ns):
    silence = np.zeros(FRAME_SAMPLES, np.float32)
    frames = tuple(Frame(k, planned_ns, silence, silence, True, True) for k in (index, index + 1))
    return TracedHop(Hop(frames, (), np.zeros((2, MOTION_DIM), np.float32)), planned_ns, 1.0)


def test_shares_and_counts_are_not_judged_in_a_conversation_of_a_few_seconds(summary):
    few = summary | {"seconds": 7.0, "commands_percent": 88.0, "turns_by_floor": 0}
    checks = {check.label: check for check in check_goals(few)}
    assert checks["commands, of hops"].ok is None and checks["commands, of hops"].shown == "88 %"
    assert checks["turns ended by the floor"].ok is None
    assert checks["motion delay"].ok is True


def test_what_was_not_recorded_is_null_and_neither_ok_nor_missed(tmp_path):
    without = ("/diagnostics", "/joint_states", "/simulated_head/command_latency_ms")
    summary = summarise(read_recording(write_bag(tmp_path / "bag", INVENTED, without=without)))
    absent = (
        "commands",
        "commands_percent",
        "refusals",
        "motion_delay_ms",
        "deadline_misses",
        "limit_violations",
        "policy",
        "device",
        "rss_mb",
    )
    assert [summary[key] for key in absent] == [None] * len(absent)
    assert summary["reaction_ms"] == {"p50": None, "p95": None, "p99": None}
    checks = {check.label: check for check in check_goals(summary | {"seconds": 47.0})}
    assert checks["median reaction"].ok is None
    assert checks["median reaction"].shown == "not measured"
    assert checks["turns ended by the floor"].ok is True


def test_latency_of_commands_that_came_before_their_sound_is_null_and_said(recording):
    commands = recording.trajectories
    ahead = replace(commands, stamps_ns=commands.stamps_ns + 100_000_000)
    summary = summarise(replace(recording, trajectories=ahead))
    assert summary["latency_ms"]["p50"] is None and summary["reaction_ms"]["p99"] is None
    assert "came before the sound" in summary["losses"][-1]


def test_goals_tell_met_from_missed(summary):
    checks = {check.label: check.ok for check in check_goals(summary)}
    assert len(checks) == len(GOALS)
    assert checks["median reaction"] is False and checks["p99 reaction"] is False
    assert checks["motion delay"] is True and checks["limit violations"] is True


def test_goals_of_reaction_are_tighter_at_a_hop_of_one_frame(summary):
    quick = summary | {"reaction_ms": {"p50": 70.0, "p95": 90.0, "p99": 99.0}}
    assert [check.ok for check in check_goals(quick)[:2]] == [True, True]
    assert [check.ok for check in check_goals(quick | {"hop_frames": 1})[:2]] == [False, True]


def test_table_has_a_line_for_each_goal(summary):
    lines = table(summary).splitlines()
    assert len(lines) == len(GOALS) + 1
    assert lines[1].split() == ["median", "reaction", "100", "ms", "<=", "90", "ms", "MISSED"]
    assert lines[3].endswith("ok")
