"""How far the lips are off the sound, as both reach the person: the mouth as it was shown, the voice as it was played.

Mouths open ahead of the sound they make, so the jaw's best correlation with loudness lies ahead of it even in perfect
lip-synchrony: by 120 ms in a recording of a person. What counts is how far it lies from there. People do not notice
sound that comes up to 45 ms early or 125 ms late (ITU-R BT.1359-1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from timar_ros.rates import SAMPLE_RATE
from timar_ros.replay.recording import Recording, Voice

STEP_NS = 10_000_000
REACH_STEPS = 40
NATURAL_LEAD_MS = 120.0
LEAST_CORRELATION = 0.2
"""Below it the jaw does not follow this voice, and a lag means nothing."""
_FLOOR = 1e-5
_WINDOW = SAMPLE_RATE // 25


@dataclass(frozen=True)
class LipsLag:
    """Where jaw and loudness agree best.

    Attributes:
        ms: positive: the jaw is later than the sound.
        correlation: there.
    """

    ms: float
    correlation: float

    @property
    def offset_ms(self) -> float:
        """How much later the lips come than a person's would; negative: earlier, as when the sound is late."""
        return self.ms + NATURAL_LEAD_MS


def lips_lag(times_ns: np.ndarray, jaw: np.ndarray, voice: Voice) -> LipsLag | None:
    """The lag of a jaw's opening, shown at `times_ns`, behind the loudness of a voice; None where either is still.

    Args:
        times_ns: int64 [n], rising. jaw: float [n].
    """
    start_ns, end_ns = max(int(times_ns[0]), voice.start_ns), min(int(times_ns[-1]), voice.end_ns)
    count = (end_ns - start_ns) // STEP_NS
    if count < 4 * REACH_STEPS:
        return None
    grid_ns = np.arange(count) * STEP_NS
    opening = np.interp(grid_ns, (times_ns - start_ns).astype(np.float64), jaw)
    loudness = _loudness(voice, start_ns, count)
    inner = slice(REACH_STEPS, count - REACH_STEPS)
    if opening.std() < 1e-6 or loudness.std() < 1e-6:
        return None
    lags = range(-REACH_STEPS, REACH_STEPS + 1)
    values = [np.corrcoef(np.roll(opening, -lag)[inner], loudness[inner])[0, 1] for lag in lags]
    best = int(np.argmax(values))
    return LipsLag(lags[best] * STEP_NS / 1e6, float(values[best]))


def shown_lag(recording: Recording) -> LipsLag | None:
    """Of the head's jaw behind the voice as the loudspeaker played it; None where either was not recorded or is still.

    The jaw is that of the joint states, or, where a head has none in them, of the blendshapes when they arrived.
    """
    jaw, faces = recording.jaw, recording.blendshapes
    if recording.played is None or (jaw is None and faces is None):
        return None
    if jaw is not None:
        lag = lips_lag(jaw.stamps_ns, jaw.values[:, 0], recording.played)
    else:
        lag = lips_lag(faces.times_ns, faces.column("jawOpen"), recording.played)
    return lag if lag is not None and lag.correlation >= LEAST_CORRELATION else None


def _loudness(voice: Voice, start_ns: int, count: int) -> np.ndarray:
    """Log of the mean square over 40 ms around each step, [count]."""
    half_ns = _WINDOW * 1_000_000_000 // SAMPLE_RATE // 2
    samples = voice.between(start_ns - half_ns, start_ns + count * STEP_NS + half_ns).astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(np.square(samples))])
    at = np.arange(count) * (SAMPLE_RATE // 100)
    return np.log((sums[at + _WINDOW] - sums[at]) / _WINDOW + _FLOOR)
