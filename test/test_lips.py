"""Lips against sound as both reach the person: the jaw that moved, the voice that the loudspeaker played."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic_bag import Invented, write_bag

from timar_ros.channels import ARKIT_BLENDSHAPES
from timar_ros.replay.bag import read_recording
from timar_ros.replay.clips import find_clips
from timar_ros.replay.lips import NATURAL_LEAD_MS, shown_lag
from timar_ros.replay.recording import Recording, Signal
from timar_ros.replay.summary import check_goals, summarise
from timar_ros.stream.lookahead import lips_lead_ms

PLAYOUT_MS = 165.0
# A step of the lag, a packet's place in time, and the 40 ms over which loudness is taken.
NEAR_MS = 20.0


def recorded(folder, heard_ms: float | None) -> Recording:
    """A head whose jaw follows its syllables at once, shown and played so long after their capture."""
    return read_recording(write_bag(folder / "bag", Invented(playout_ms=PLAYOUT_MS, heard_ms=heard_ms)))


@pytest.mark.parametrize("heard_ms", [PLAYOUT_MS, 285.0, 65.0])
def test_the_jaw_is_held_against_the_sound_that_is_heard(tmp_path, heard_ms):
    lag = shown_lag(recorded(tmp_path, heard_ms))
    assert lag.ms == pytest.approx(PLAYOUT_MS - heard_ms, abs=NEAR_MS)
    assert lag.offset_ms == lag.ms + NATURAL_LEAD_MS
    assert lag.correlation > 0.8


def test_a_head_without_a_jaw_in_its_joint_states_is_judged_by_its_blendshapes(tmp_path):
    recording = recorded(tmp_path, 285.0)
    lag = shown_lag(replace(recording, jaw=None))
    assert lag.ms == pytest.approx(shown_lag(recording).ms, abs=NEAR_MS)


def test_lips_in_time_are_as_far_ahead_of_the_sound_as_a_persons_and_the_goal_is_what_goes_unnoticed(tmp_path):
    words = {True: "ok", False: "missed", None: "not measured"}

    def verdicts(folder, heard_ms):
        folder.mkdir()
        summary = summarise(recorded(folder, heard_ms))
        checks = {check.label: words[check.ok] for check in check_goals(summary) if check.label.startswith("lips")}
        return summary["lips"]["offset_ms"], [
            checks[f"lips {how}, against the sound heard"] for how in ("late", "early")
        ]

    in_time = PLAYOUT_MS + NATURAL_LEAD_MS
    offset_ms, met = verdicts(tmp_path / "in time", in_time)
    assert offset_ms == pytest.approx(0.0, abs=NEAR_MS) and met == ["ok", "ok"]
    assert verdicts(tmp_path / "sound early", in_time - 80.0)[1] == ["missed", "ok"]
    assert verdicts(tmp_path / "sound late", in_time + 160.0)[1] == ["ok", "missed"]
    assert verdicts(tmp_path / "unheard", None) == (None, ["not measured"] * 2)


def test_a_mouth_that_does_not_follow_the_voice_has_no_lag(tmp_path):
    recording = recorded(tmp_path, 285.0)
    faces, random = recording.blendshapes, np.random.default_rng(0)
    for values in (np.zeros((len(faces), 1)), random.normal(size=(len(faces), 1))):
        jaw = Signal(faces.times_ns, faces.times_ns, ("jaw",), values)
        assert shown_lag(replace(recording, jaw=jaw)) is None


def test_a_live_bag_is_evaluated_with_it(tmp_path):
    bag = write_bag(tmp_path / "bag", Invented(heard_ms=285.0))
    (source,) = find_clips(bag)
    assert source.read().system["lips"]["offset_ms"] == pytest.approx(0.0, abs=NEAR_MS)


def test_the_recording_keeps_the_neck_and_the_jaw_apart(tmp_path):
    recording = recorded(tmp_path, 285.0)
    assert "jaw" not in recording.joint_states.names and recording.jaw.names == ("jaw",)
    jaw_open = recording.blendshapes.values[:, ARKIT_BLENDSHAPES.index("jawOpen")]
    assert len(recording.jaw) == len(jaw_open)


def test_the_more_a_policy_knows_ahead_the_sooner_its_sound_is_played():
    leads = [lips_lead_ms(frames) for frames in range(5)]
    assert leads == sorted(leads, reverse=True) and leads[0] == 60.0 and leads[3] == 0.0 and min(leads) == 0.0
