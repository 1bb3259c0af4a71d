"""Noise for the diffusion head: keyed by frame number and correlated in time.

Independent noise in each frame would make the drawn motion shake at 25 Hz. Here white noise, itself a pure
function of seed and frame number, is smoothed along time with a Gaussian kernel; every single number stays
standard normal, so the head sees what it was trained on. Equal seed and frame give equal noise, whatever the
hops, restarts or machine.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np


class FrameNoise:
    """Standard normal noise [draws, channels] for any frame.

    Args:
        seed: any whole number.
        draws: arrays needed for one frame (x_T and one for each diffusion step).
        correlation_frames: [channels] standard deviation of the smoothing kernel in frames; 0 leaves a channel white.
    """

    def __init__(self, seed: int, draws: int, correlation_frames: np.ndarray) -> None:
        self._key = seed % 2**64
        self._shape = (draws, len(correlation_frames))
        sigma = np.asarray(correlation_frames, dtype=np.float64)
        reach = int(np.ceil(3 * sigma.max(initial=0)))
        lag = np.arange(-reach, reach + 1)[:, None]
        kernel = np.where(sigma > 0, np.exp(-0.5 * (lag / np.where(sigma > 0, sigma, 1.0)) ** 2), lag == 0)
        self._kernel = (kernel / np.sqrt((kernel**2).sum(axis=0))).astype(np.float32)
        self._white: OrderedDict[int, np.ndarray] = OrderedDict()

    def at(self, frame: int) -> np.ndarray:
        """Noise [draws, channels] float32 of one frame."""
        reach = len(self._kernel) // 2
        white = np.stack([self._white_at(frame + lag) for lag in range(-reach, reach + 1)])
        return np.einsum("ldc,lc->dc", white, self._kernel)

    def _white_at(self, frame: int) -> np.ndarray:
        if frame not in self._white:
            # Philox is counter based: (key, counter) gives the stream directly. Frames before the first are negative.
            counter = np.array([0, 0, 0, frame % 2**64], dtype=np.uint64)
            generator = np.random.Generator(np.random.Philox(key=self._key, counter=counter))
            self._white[frame] = generator.standard_normal(self._shape, dtype=np.float32)
            if len(self._white) > 2 * len(self._kernel):
                self._white.popitem(last=False)
        return self._white[frame]
