"""The mouth closes at once when speech is broken off, and without a jump."""

import numpy as np

from timar_ros.motion.channels import ARKIT_BLENDSHAPES
from timar_ros.motion.mouth import MouthCloser
from timar_ros.rates import FRAME_NS

MS = 1_000_000
JAW, SMILE, BLINK = (ARKIT_BLENDSHAPES.index(name) for name in ("jawOpen", "mouthSmileLeft", "eyeBlinkLeft"))
DELAY_NS = 172 * MS


def shown(closer, until, close_at_ns=None):
    """Frames of an open mouth, smiling, with a wink, as they are shown: (time in ms, motion)."""
    motion = np.zeros(len(ARKIT_BLENDSHAPES), np.float32)
    motion[[JAW, SMILE, BLINK]] = 0.6, 0.4, 0.2
    frames = []
    for frame in range(until):
        now_ns = frame * FRAME_NS + DELAY_NS
        if close_at_ns is not None and now_ns > close_at_ns:
            closer.close(close_at_ns)
            close_at_ns = None
        frames.append((now_ns / MS, closer(now_ns, frame * FRAME_NS, motion)))
    return frames


def test_nothing_is_changed_before_it_is_told_to_close():
    assert all(m[JAW] == np.float32(0.6) for _, m in shown(MouthCloser(), 20))


def test_it_is_closed_within_200_ms_step_by_step():
    frames = shown(MouthCloser(), 60, close_at_ns=900 * MS)
    jaw = np.array([m[JAW] for _, m in frames])
    closed_ms = min(t for t, m in frames if m[JAW] < 0.01)
    assert 900 < closed_ms <= 1100
    assert np.abs(np.diff(jaw)).max() < 0.45  # of 0.6 in a frame: three frames at least


def test_smile_and_eyes_go_on():
    frames = shown(MouthCloser(), 60, close_at_ns=900 * MS)
    assert all(m[SMILE] == np.float32(0.4) and m[BLINK] == np.float32(0.2) for _, m in frames)


def test_it_opens_again_for_what_is_said_afterwards():
    frames = shown(MouthCloser(), 60, close_at_ns=900 * MS)
    assert frames[-1][1][JAW] == np.float32(0.6)
    opening = np.diff([m[JAW] for t, m in frames if t > 1100])
    assert opening.min() >= 0 and opening.max() < 0.45


def test_told_twice_it_goes_on_closing():
    closer = MouthCloser()
    motion = np.full(len(ARKIT_BLENDSHAPES), 0.5, np.float32)
    closer.close(0)
    values = []
    for ms in range(0, 200, 20):
        if ms == 60:
            closer.close(60 * MS)
        values.append(closer(ms * MS, ms * MS - DELAY_NS, motion)[JAW])
    assert (np.diff(values) <= 0).all() and values[-1] == 0
