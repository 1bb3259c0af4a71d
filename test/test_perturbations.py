"""Named disturbances do what their names say, the same to every policy."""

import numpy as np
import pytest

from timar_ros.errors import TimarError
from timar_ros.replay.offline import frames_of
from timar_ros.replay.perturbations import bursts, perturbed
from timar_ros.resources import share_path
from timar_ros.sound_files import read_voice
from timar_ros.stream.frames import Frame

OWN, PARTNER = (read_voice(share_path("demo", f"{party}.ogg"))[: 20 * 16_000] for party in ("self", "partner"))
FACE = np.ones(55, np.float32)
FRAMES = tuple(Frame(f.index, f.stamp_ns, f.own, f.partner, True, True, FACE) for f in frames_of(OWN, PARTNER))


def under(name: str, clip: str = "clip"):
    return perturbed(name, FRAMES, clip, lambda: frames_of(PARTNER, OWN))


def voice(frames, party: str) -> np.ndarray:
    return np.concatenate([getattr(frame, party) for frame in frames])


@pytest.mark.parametrize("name", ["noise10dB", "silence30", "drop30", "swap-partner", "no-partner"])
def test_the_same_name_and_clip_give_the_same_disturbance(name):
    first, second = under(name), under(name)
    assert len(first) == len(FRAMES) and [f.index for f in first] == [f.index for f in FRAMES]
    assert np.array_equal(voice(first, "partner"), voice(second, "partner"))
    if name in ("noise10dB", "silence30"):
        assert not np.array_equal(voice(first, "partner"), voice(under(name, "another"), "partner"))


@pytest.mark.parametrize("decibel", [0, 10])
def test_noise_lies_so_many_decibels_below_the_speech(decibel):
    frames = under(f"noise{decibel}dB")
    added = voice(frames, "partner") - voice(FRAMES, "partner")
    struck = np.abs(added.reshape(-1, 640)).max(axis=1) > 0
    assert struck.mean() == pytest.approx(0.3, abs=0.01)
    noise = np.sqrt(np.square(added.reshape(-1, 640)[struck]).mean())
    loud = np.square(voice(FRAMES, "partner").reshape(-1, 640)).mean(axis=1)
    speech = np.sqrt(loud[loud > np.percentile(loud, 95) / 100].mean())
    assert 20 * np.log10(speech / noise) == pytest.approx(decibel, abs=1.0)
    assert np.abs(voice(frames, "own")).max() <= 1.0


def test_lost_sound_is_not_heard_rather_than_silent_as_if_heard():
    frames = under("silence30")
    lost = [frame for frame in frames if not frame.partner_heard]
    assert len(lost) == round(0.3 * len(FRAMES))
    assert not any(frame.partner.any() for frame in lost)
    assert all(frame.own is FRAMES[frame.index].own for frame in frames)


def test_dropped_face_is_not_seen_rather_than_zero():
    frames = under("drop30")
    assert sum(frame.partner_motion is None for frame in frames) == round(0.3 * len(FRAMES))
    assert np.array_equal(voice(frames, "partner"), voice(FRAMES, "partner"))


def test_bursts_are_bursts():
    struck = bursts(np.random.default_rng(0), 10_000, 0.3, (0.4, 1.6))
    lengths = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], struck.astype(int), [0]]))).reshape(-1, 2), axis=1)
    assert struck.sum() == 3000 and np.median(lengths) > 10


def test_swapped_partner_is_another_clips():
    frames = under("swap-partner")
    assert np.array_equal(voice(frames, "own"), voice(FRAMES, "own"))
    assert np.array_equal(voice(frames, "partner"), voice(FRAMES, "own"))


def test_where_nobody_else_is_there_the_own_partner_comes_from_half_a_clip_away():
    """So also in the demo's own conversation, where the demo's partner would be no other."""
    frames = perturbed("swap-partner", FRAMES, "clip", lambda: None)
    assert np.array_equal(voice(frames, "own"), voice(FRAMES, "own"))
    half = len(FRAMES) // 2 * 640
    assert np.array_equal(voice(frames, "partner"), np.roll(voice(FRAMES, "partner"), -half))
    assert not np.array_equal(voice(frames, "partner"), voice(FRAMES, "partner"))


@pytest.mark.parametrize("name", ["noise", "noise99dB", "drop0", "drop101", "silence", "babble"])
def test_unknown_name_is_refused_with_those_that_are_known(name):
    with pytest.raises(TimarError, match="is no perturbation; known are noiseXdB"):
        under(name)
