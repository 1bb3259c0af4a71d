"""The mouth closes at once when speech is broken off, and without a jump."""

import numpy as np
import pytest

from timar_ros.channels import ARKIT_BLENDSHAPES
from timar_ros.motion.mouth import MouthCloser
from timar_ros.rates import FRAME_NS

MS = 1_000_000
JAW, SMILE, BLINK = (ARKIT_BLENDSHAPES.index(name) for name in ("jawOpen", "mouthSmileLeft", "eyeBlinkLeft"))


def shown(closer, until, orders=None):
    """Frames of an open mouth, smiling, with a wink, as shown: (time in ms, motion); orders by their time in ms."""
    motion = np.zeros(len(ARKIT_BLENDSHAPES), np.float32)
    motion[[JAW, SMILE, BLINK]] = 0.6, 0.4, 0.2
    orders, frames = dict(orders or {}), []
    for frame in range(until):
        now_ns = frame * FRAME_NS
        for ms in [ms for ms in orders if ms * MS < now_ns]:
            orders.pop(ms)(closer, ms * MS)
        frames.append((now_ns / MS, closer(now_ns, motion)))
    return frames


def test_nothing_is_changed_before_it_is_told_to_close():
    assert all(m[JAW] == np.float32(0.6) for _, m in shown(MouthCloser(), 20, {310: MouthCloser.open}))


def test_it_is_closed_within_200_ms_step_by_step():
    frames = shown(MouthCloser(), 60, {900: MouthCloser.close})
    jaw = np.array([m[JAW] for _, m in frames])
    closed_ms = min(t for t, m in frames if m[JAW] < 0.01)
    assert 900 < closed_ms <= 1100
    assert np.abs(np.diff(jaw)).max() < 0.45  # of 0.6 in a frame: three frames at least
    assert all(m[JAW] == 0 for t, m in frames if t > 1100)  # and stays so


def test_smile_and_eyes_go_on():
    frames = shown(MouthCloser(), 60, {900: MouthCloser.close})
    assert all(m[SMILE] == np.float32(0.4) and m[BLINK] == np.float32(0.2) for _, m in frames)


def test_it_opens_again_for_what_is_said_afterwards():
    frames = shown(MouthCloser(), 60, {900: MouthCloser.close, 1510: MouthCloser.open})
    assert all(m[JAW] == 0 for t, m in frames if 1100 < t < 1510)
    assert all(m[JAW] == np.float32(0.6) for t, m in frames if t >= 1510 + 160)
    opening = np.diff([m[JAW] for t, m in frames if t > 1100])
    assert opening.min() >= 0 and opening.max() < 0.45


@pytest.mark.parametrize("open_ms", range(910, 1100, 30))
def test_what_is_said_before_it_has_closed_does_not_make_it_jump(open_ms):
    frames = shown(MouthCloser(), 60, {900: MouthCloser.close, open_ms: MouthCloser.open})
    jaw = np.array([m[JAW] for _, m in frames])
    assert np.abs(np.diff(jaw)).max() < 0.45 and jaw[-1] == np.float32(0.6)


def test_told_twice_it_goes_on_closing():
    closer = MouthCloser()
    motion = np.full(len(ARKIT_BLENDSHAPES), 0.5, np.float32)
    closer.close(0)
    values = []
    for ms in range(0, 200, 20):
        if ms == 60:
            closer.close(60 * MS)
        values.append(closer(ms * MS, motion)[JAW])
    assert (np.diff(values) <= 0).all() and values[-1] == 0
