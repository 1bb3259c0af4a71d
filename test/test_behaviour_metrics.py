"""Figures of a head's behaviour, on motion whose figures are known."""

import numpy as np
import pytest

from timar_ros.channels import CHANNELS
from timar_ros.motion.track import FLAME, MotionTrack
from timar_ros.replay.behaviour_metrics import (
    behaviour_metrics,
    best_offset,
    cue_answers,
    floor_by_frame,
    frozen_stretches,
    jerk,
    lips,
    nod_onsets,
    shapes_correlation,
)
from timar_ros.stream.floor import Floor
from timar_ros.stream.turns import TurnBoundary

SECONDS = 60
TIME = np.arange(25 * SECONDS) / 25
FLOOR = np.where(TIME % 20 < 10, "partner", "self").astype("<U8")


def head(**channels: np.ndarray) -> MotionTrack:
    """Motion with some channels given (degrees for the head), the rest at rest."""
    motion = np.zeros((len(TIME), len(CHANNELS)))
    for name, values in channels.items():
        motion[:, CHANNELS.index(name)] = np.radians(values) if name.startswith("head") else values
    return MotionTrack(motion)


def nods_at(times: list[float], degrees: float = 4.0, cycles: int = 2) -> np.ndarray:
    pitch = np.zeros(len(TIME))
    for start in times:
        inside = (start <= TIME) & (start + cycles / 2.0 > TIME)
        pitch[inside] += degrees / 2 * (1 - np.cos(2 * np.pi * 2.0 * (TIME[inside] - start)))
    return pitch


def test_each_nod_counts_once_however_many_cycles_it_has():
    onsets = nod_onsets(head(headPitch=nods_at([3.0, 12.0, 25.0, 41.0]))) / 25
    assert np.abs(onsets - [3.0, 12.0, 25.0, 41.0]).max() < 0.4


def test_two_steps_the_same_way_are_no_nod():
    """A small swing between them is none, so that of large ones both lead the same way."""
    way = ((10.0, 3.0), (10.3, -0.4), (10.6, 3.0), (13.0, -6.0))
    down_twice = sum(degrees * np.clip((TIME - at) / 0.3, 0, 1) for at, degrees in way)
    for pitch in (down_twice, -down_twice):
        onsets = nod_onsets(head(headPitch=pitch)) / 25
        assert ((onsets > 12) & (onsets < 15)).all(), "only where the head swings back, if anywhere"


def test_small_or_slow_pitch_is_no_nod():
    assert not len(nod_onsets(head(headPitch=nods_at([3.0, 20.0], degrees=0.7))))
    assert not len(nod_onsets(head(headPitch=8 * np.sin(2 * np.pi * 0.1 * TIME))))


def test_nods_a_minute_are_told_by_floor():
    figures = behaviour_metrics(head(headPitch=nods_at([3.0, 5.5, 22.0])), FLOOR)
    assert figures["nods_per_minute"]["partner"] == pytest.approx(3 * 60 / 30)
    assert figures["nods_per_minute"]["self"] == 0.0
    assert figures["nods_per_minute"]["nobody"] is None  # nobody never had the floor


def test_movement_is_told_by_floor():
    yaw = np.where(FLOOR == "partner", 10 * np.sin(2 * np.pi * 0.5 * TIME), 0.0)
    jaw = np.where(FLOOR == "self", 0.5 + 0.5 * np.sin(2 * np.pi * 2 * TIME), 0.0)
    moves = behaviour_metrics(head(headYaw=yaw, jawOpen=jaw), FLOOR)["movement"]
    assert moves["head"]["partner"] == pytest.approx(4 * 10 * 0.5, rel=0.02)  # mean of |d/dt A sin| is 4 A f
    assert moves["head"]["self"] < 0.2
    assert moves["mouth"]["self"] == pytest.approx(4 * 0.5 * 2, rel=0.05)
    assert moves["mouth"]["both"] is None


def test_head_has_spread_speed_and_acceleration():
    figures = behaviour_metrics(head(headYaw=6 * np.sin(2 * np.pi * 0.5 * TIME)))["head"]
    assert figures["sd_yaw_deg"] == pytest.approx(6 / np.sqrt(2), rel=0.01)
    assert figures["sd_deg"] == pytest.approx(6 / np.sqrt(2) / 3, rel=0.01)
    assert figures["speed_p95_deg_s"] == pytest.approx(2 * np.pi * 0.5 * 6, rel=0.02)


def test_jerk_ratio_of_a_sine_is_the_square_of_its_frequency():
    slow, fast = (head(headPitch=np.sin(2 * np.pi * hertz * TIME)) for hertz in (1.0, 2.0))
    assert jerk(fast) / jerk(slow) == pytest.approx(4.0, rel=0.05)
    assert behaviour_metrics(fast, truth=slow)["jerk"]["ratio"] == pytest.approx(4.0, rel=0.05)
    assert jerk(head()) is None


def test_shaking_frame_by_frame_raises_jerk():
    calm = 4 * np.sin(2 * np.pi * 0.4 * TIME)
    shaky = calm + np.random.default_rng(0).normal(0, 0.3, len(TIME))
    assert jerk(head(headPitch=shaky)) > 5 * jerk(head(headPitch=calm))


def test_stillness_of_three_seconds_is_frozen():
    yaw = 5 * np.sin(2 * np.pi * 0.5 * TIME)
    yaw[250:375] = yaw[250]
    yaw[500:550] = yaw[500]  # two seconds are a rest
    assert frozen_stretches(head(headYaw=yaw))["count"] == 1
    assert frozen_stretches(head(headYaw=yaw))["seconds"] == pytest.approx(5.0, abs=0.2)


def test_late_mouth_has_a_positive_offset():
    true = np.random.default_rng(1).normal(size=400).cumsum()
    late = np.roll(true, 3)
    value, lag = best_offset([late[20:]], [true[20:]])
    assert lag == 3 and value == pytest.approx(1.0)
    assert best_offset([np.zeros(100)], [true[:100]]) == (None, None)


def test_lips_are_held_against_the_true_mouth_and_against_the_voice():
    loud = np.repeat((np.sin(2 * np.pi * 1.5 * TIME) > 0).astype(np.float32), 640)
    voice = loud * np.random.default_rng(2).normal(0, 0.1, len(loud)).astype(np.float32)
    opening = (np.sin(2 * np.pi * 1.5 * TIME) > 0).astype(float)
    truth = np.zeros((len(TIME), 56))
    truth[:, 50] = 0.3 * np.roll(opening, -2)
    figures = lips(head(jawOpen=opening), voice, MotionTrack(truth, FLAME))
    assert figures["against"] == "truth" and figures["offset_ms"] == 80
    assert figures["correlation"] == pytest.approx(1.0, abs=0.02)
    assert figures["voice_offset_ms"] == 0 and figures["voice_correlation"] > 0.95
    assert lips(head(jawOpen=opening), voice, None)["correlation"] == figures["voice_correlation"]


def test_blinks_are_counted_and_timed():
    lid = np.zeros(len(TIME))
    for start in range(100, 1400, 100):
        lid[start : start + 3] = 1.0
    figures = behaviour_metrics(head(eyeBlinkLeft=lid, eyeBlinkRight=lid))["blinks"]
    assert figures == {"per_minute": 13.0, "closed_ms": 120.0}


def test_expression_is_how_much_is_smiled_and_how_much_brows_move():
    lifted = np.where(np.arange(len(TIME)) % 2, 0.5, 0.1)
    still = dict.fromkeys(("browOuterUpLeft", "browOuterUpRight"), np.full(len(TIME), 0.3))
    track = head(
        mouthSmileLeft=np.full(len(TIME), 0.2), mouthSmileRight=np.full(len(TIME), 0.1), browInnerUp=lifted, **still
    )
    assert behaviour_metrics(track)["expression"] == {
        "smile_mean": pytest.approx(0.15),
        "brows_sd": pytest.approx(0.2 / 3),
    }


def test_answers_to_the_partners_pauses_are_found_and_timed():
    # The partner stops at 10, 30 and 50 s; the own voice starts there too, so only motion tells.
    figures = behaviour_metrics(head(headPitch=nods_at([10.5, 50.5])), FLOOR)["responses"]
    assert figures["pauses"] == 3 and figures["motion_share"] == pytest.approx(2 / 3)
    assert figures["motion_delay_ms"] == pytest.approx(500, abs=250)


def test_answers_on_cues_are_counted_one_for_each_cue():
    # Nods of the listener at 3.4, 8.4 and 45.4 s; one at 12.4 s, while self speaks, answers nobody.
    nods = head(headPitch=nods_at([3.4, 8.4, 12.4, 45.4]))
    figures = cue_answers(nods, FLOOR, np.array([3.0, 3.1, 7.0, 45.0, 47.0]))
    assert (figures["offered"], figures["answers"], figures["on_cue"]) == (5, 3, 2)
    assert figures["precision"] == pytest.approx(2 / 3) and figures["recall"] == pytest.approx(2 / 5)
    assert figures["f1"] == pytest.approx(4 / 8)
    assert cue_answers(nods, FLOOR, np.zeros(0))["f1"] is None
    assert cue_answers(head(), FLOOR, np.array([3.0])) | {"precision": 0} == {
        "offered": 1, "answers": 0, "on_cue": 0, "precision": 0, "recall": 0.0, "f1": 0.0,
    }  # fmt: skip


def test_a_smile_is_an_answer():
    smile = np.clip((TIME - 4.0) / 0.5, 0.0, 0.4)
    assert cue_answers(head(mouthSmileLeft=smile, mouthSmileRight=smile), FLOOR, np.array([3.5]))["on_cue"] == 1


def test_mouth_while_listening_is_told_against_the_mouth_while_speaking():
    jaw = 0.5 + np.where(FLOOR == "partner", 0.05, 0.25) * np.sin(2 * np.pi * 2 * TIME)
    assert behaviour_metrics(head(jawOpen=jaw), FLOOR)["mouth_while_listening"] == pytest.approx(0.2, rel=0.05)


def test_only_shapes_that_move_count_for_the_mouths_correlation():
    wave, other = np.sin(2 * np.pi * 1.0 * TIME), np.cos(2 * np.pi * 1.0 * TIME)
    truth = head(mouthFunnel=0.5 + 0.2 * wave, mouthPucker=0.5 + 0.2 * wave, mouthPressLeft=0.01 * wave)
    drawn = head(mouthFunnel=0.5 + 0.1 * wave, mouthPucker=0.5 + 0.1 * other, mouthPressLeft=other)
    assert shapes_correlation(drawn, truth) == pytest.approx(0.5, abs=1e-6)
    assert shapes_correlation(head(), truth) == 0.0  # what does not move follows nothing
    assert shapes_correlation(drawn, head()) is None


@pytest.mark.parametrize("late", [-3, 0, 2])
def test_shapes_of_a_late_mouth_are_held_against_the_truth_where_its_opening_fits(late):
    true_jaw, true_lips = np.random.default_rng(4).random((2, len(TIME)))
    shapes = {"jawOpen": true_jaw, "mouthFunnel": true_lips}
    truth, drawn = head(**shapes), head(**{name: np.roll(shape, late) for name, shape in shapes.items()})
    figures = lips(drawn, None, truth)
    assert figures["offset_ms"] == 40 * late
    assert figures["shapes_at_offset"] == pytest.approx(1.0)
    assert (figures["shapes"] == pytest.approx(1.0)) == (late == 0)
    assert lips(head(), None, truth)["shapes_at_offset"] is None


def test_floor_is_set_back_to_where_it_changed():
    boundaries = [
        TurnBoundary(10, "floor", Floor.SELF),
        TurnBoundary(34, "length", Floor.SELF),
        TurnBoundary(40, "floor", Floor.PARTNER),
    ]
    floor = floor_by_frame(boundaries, 50)
    assert [floor[0], floor[9], floor[10], floor[39], floor[40], floor[49]] == [
        "nobody", "nobody", "self", "self", "partner", "partner",
    ]  # fmt: skip
