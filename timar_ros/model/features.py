"""Log-mel features of one voice, frame by frame, without looking ahead.

A 40 ms frame (640 samples at 16 kHz) yields four spectra of 25 ms windows that end 10, 20, 30 and 40 ms
into the frame, so the newest window ends with the frame. Beside them stands what led to it: the mean spectrum
of each of the 12 frames before, so that a sound's onset, or a pause of half a second, is seen at once.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from timar_ros.rates import FRAME_SAMPLES, SAMPLE_RATE

WINDOW_SAMPLES = 400
SHIFT_SAMPLES = 160
FRAMES_BEFORE = 12
OVERLAP_SAMPLES = WINDOW_SAMPLES - SHIFT_SAMPLES
CONTEXT_SAMPLES = FRAMES_BEFORE * FRAME_SAMPLES + OVERLAP_SAMPLES
FFT_SIZE = 512
MEL_BANDS = 40
SPECTRA_PER_FRAME = FRAME_SAMPLES // SHIFT_SAMPLES
FEATURES_PER_FRAME = MEL_BANDS * (SPECTRA_PER_FRAME + FRAMES_BEFORE)

# Full-scale speech spans about 1e-6 (the noise of a quiet room) to 1e2 in these units; this maps it to about [-1, 2].
LOG_FLOOR = 1e-6
LOG_OFFSET = 7.0
LOG_SCALE = 5.0

# What lies under a voice that is heard, rms; the same again after so many frames.
NOISE_FLOOR = 10.0 ** (-85 / 20)
_NOISE_FRAMES = 97


def _hz_to_mel(hz: np.ndarray | float) -> np.ndarray | float:
    """HTK's mel scale."""
    return 2595.0 * np.log10(1.0 + np.asarray(hz) / 700.0)


@functools.cache
def mel_filterbank() -> Tensor:
    """Triangular filters [FFT_SIZE // 2 + 1, MEL_BANDS] between 60 and 7600 Hz, equally spaced in mel."""
    edges_mel = np.linspace(_hz_to_mel(60.0), _hz_to_mel(7600.0), MEL_BANDS + 2)
    edges = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    bins = np.linspace(0.0, SAMPLE_RATE / 2, FFT_SIZE // 2 + 1)
    rising = (bins[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[None, 2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return torch.from_numpy(np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32))


@functools.cache
def _window() -> Tensor:
    return torch.hann_window(WINDOW_SAMPLES, periodic=False)


@functools.cache
def _noise() -> np.ndarray:
    """[2, _NOISE_FRAMES, 640] float32."""
    noise = np.random.default_rng(0).standard_normal((2, _NOISE_FRAMES, FRAME_SAMPLES), np.float32)
    return noise * np.float32(NOISE_FLOOR)


def over_noise(voices: np.ndarray, heard: np.ndarray, first_frame: int) -> np.ndarray:
    """Both voices over a faint noise wherever they are heard.

    A network learns from voices as microphones give them (learn/augment.py): silence to the last bit is a voice that is
    missing, whose party may be speaking. A synthesiser's voice is such between its words, and is not missing.

    Args:
        voices: [2, 640 * frames] float32.
        heard: [2, frames] bool.
        first_frame: number of the first frame, by which each has the same noise however they are cut into hops.
    """
    numbers = (first_frame + np.arange(heard.shape[1])) % _NOISE_FRAMES
    return voices + (_noise()[:, numbers] * heard[..., None]).reshape(voices.shape)


def log_mel(samples: Tensor) -> Tensor:
    """Features of consecutive frames.

    Args:
        samples: [..., CONTEXT_SAMPLES + 640 * frames] float32 in [-1, 1], 16 kHz; the context precedes the frames.

    Returns:
        [..., frames, FEATURES_PER_FRAME] float32, about -1 in silence and up to 2 in loud speech; the frame's own
        spectra, oldest first, then the means of the frames before it, oldest first. Level is kept.
    """
    spectra = frame_spectra(samples)
    return beside_means(spectra[..., FRAMES_BEFORE:, :, :], spectra[..., :-1, :, :].mean(dim=-2))


def frame_spectra(samples: Tensor) -> Tensor:
    """The frames' own spectra [..., frames, 4, MEL_BANDS] of samples [..., OVERLAP_SAMPLES + 640 * frames]."""
    windows = samples.unfold(-1, WINDOW_SAMPLES, SHIFT_SAMPLES)
    windows = windows * _window().to(samples.device)
    spectrum = torch.fft.rfft(windows, FFT_SIZE)
    power = spectrum.real.square() + spectrum.imag.square()
    mel = power @ mel_filterbank().to(samples.device)
    return ((torch.log(mel + LOG_FLOOR) + LOG_OFFSET) / LOG_SCALE).unflatten(-2, (-1, SPECTRA_PER_FRAME))


def beside_means(spectra: Tensor, means: Tensor) -> Tensor:
    """Features [..., frames, FEATURES_PER_FRAME] of frames with these spectra.

    Args:
        means: [..., FRAMES_BEFORE + frames - 1, MEL_BANDS] the mean spectra of the frames before each.
    """
    before = means.unfold(-2, FRAMES_BEFORE, 1).transpose(-1, -2)
    return torch.cat([spectra.flatten(-2), before.flatten(-2)], dim=-1)
