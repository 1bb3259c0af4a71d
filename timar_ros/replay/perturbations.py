"""Named disturbances of a conversation, to see how a policy stands them.

They follow the kinds of the published robustness test: bursts of noise and of silence in the partner's voice, a
partner's face that drops out, and, as a control of whether a policy listens at all, another conversation's partner.
How much of it and in what bursts is set here (`docs/metrics.md`). All are seeded by the clip's name, so that every
policy meets the same disturbance.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from timar_ros.errors import TimarError
from timar_ros.rates import FRAME_RATE, FRAME_SAMPLES
from timar_ros.replay.behaviour_metrics import frame_energy
from timar_ros.stream.frames import Frame

BURST_S = (0.4, 1.6)
NOISE_SHARE = 0.3
"""Part of the time that bursts of noise fill."""
FACE_BURST_S = (0.2, 1.0)

PERTURBATIONS = {
    "noiseXdB": "bursts of white noise in both voices, 30 % of the time, X dB below the voice's level (noise10dB)",
    "silenceP": "bursts of missing sound in the partner's voice, P % of the time (silence30)",
    "dropP": "the partner's face is not seen in bursts, P % of the time (drop30)",
    "swap-partner": "the partner of the next clip of other people; where there is none, the own one half the clip away",
    "no-partner": "no sound and no face of the partner",
}

Frames = Sequence[Frame]
Perturb = Callable[[Frames, np.random.Generator, Callable[[], Frames | None]], tuple[Frame, ...]]


def perturbation(name: str) -> Perturb:
    """What `name` stands for: (frames, random generator, frames of another clip when asked, or None) -> frames.

    Raises:
        TimarError: no such perturbation, or an amount out of range.
    """
    if name == "swap-partner":
        return _swap_partner
    if name == "no-partner":
        return lambda frames, rng, other: _lose_sound(_lose_face(frames, _all(frames)), _all(frames))
    found = re.fullmatch(r"(noise)(-?\d+(?:\.\d+)?)dB|(silence|drop)(\d+(?:\.\d+)?)", name)
    if found and found[1]:
        decibel = float(found[2])
        if -20 <= decibel <= 60:
            return lambda frames, rng, other: _add_noise(frames, rng, decibel)
    elif found and 0 < float(found[4]) <= 100:
        share = float(found[4]) / 100
        if found[3] == "silence":
            return lambda frames, rng, other: _lose_sound(frames, bursts(rng, len(frames), share, BURST_S))
        return lambda frames, rng, other: _lose_face(frames, bursts(rng, len(frames), share, FACE_BURST_S))
    raise TimarError(
        f"{name!r} is no perturbation; known are "
        + "; ".join(f"{known}: {what}" for known, what in PERTURBATIONS.items())
        + ". X is -20 to 60, P is above 0 and at most 100"
    )


def perturbed(name: str, frames: Frames, clip_name: str, other: Callable[[], Frames | None]) -> tuple[Frame, ...]:
    """A clip's frames under a perturbation; `other` gives the frames of a clip of other people, None: there is none."""
    seed = zlib.crc32(f"{name} {clip_name}".encode())
    return perturbation(name)(frames, np.random.default_rng(seed), other)


def bursts(rng: np.random.Generator, frames: int, share: float, length_s: tuple[float, float]) -> np.ndarray:
    """[frames] bool: bursts at random places until they fill `share` of the time, to the frame."""
    wanted, struck = round(share * frames), np.zeros(frames, bool)
    while (lacking := wanted - int(struck.sum())) > 0:
        length = min(round(rng.uniform(*length_s) * FRAME_RATE), frames)
        start = int(rng.integers(frames - length + 1))
        free = start + np.flatnonzero(~struck[start : start + length])
        struck[free[:lacking]] = True
    return struck


def _all(frames: Frames) -> np.ndarray:
    return np.ones(len(frames), bool)


def _add_noise(frames: Frames, rng: np.random.Generator, decibel: float) -> tuple[Frame, ...]:
    noisy = {}
    for party in ("own", "partner"):
        voice = np.concatenate([getattr(frame, party) for frame in frames])
        struck = np.repeat(bursts(rng, len(frames), NOISE_SHARE, BURST_S), FRAME_SAMPLES)
        level = _active_level(voice) * 10 ** (-decibel / 20)
        noise = level * rng.standard_normal(len(voice), dtype=np.float32)
        noisy[party] = (voice + struck * noise).clip(-1, 1).astype(np.float32).reshape(-1, FRAME_SAMPLES)
    pairs = zip(frames, noisy["own"], noisy["partner"], strict=True)
    return tuple(replace(frame, own=own, partner=partner) for frame, own, partner in pairs)


def _active_level(voice: np.ndarray) -> float:
    """RMS of the frames within 20 dB of the loudest twentieth: of the speech, not of its pauses."""
    energy = np.exp(frame_energy(voice))
    loud = np.percentile(energy, 95)
    return float(np.sqrt(energy[energy >= loud / 100].mean()))


def _lose_sound(frames: Frames, struck: np.ndarray) -> tuple[Frame, ...]:
    silence = np.zeros(FRAME_SAMPLES, np.float32)
    return tuple(
        replace(frame, partner=silence, partner_heard=False) if lost else frame
        for frame, lost in zip(frames, struck, strict=True)
    )


def _lose_face(frames: Frames, struck: np.ndarray) -> tuple[Frame, ...]:
    return tuple(
        replace(frame, partner_motion=None) if lost else frame for frame, lost in zip(frames, struck, strict=True)
    )


def _swap_partner(frames: Frames, rng: np.random.Generator, other: Callable[[], Frames | None]) -> tuple[Frame, ...]:
    """Where nobody else is there, what the own partner does half a clip later has as little to do with self."""
    strangers = other()
    if strangers is None:
        half = len(frames) // 2
        strangers = (*frames[half:], *frames[:half])
    return tuple(
        replace(frame, partner=who.partner, partner_heard=who.partner_heard, partner_motion=who.partner_motion)
        for frame, who in ((frame, strangers[k % len(strangers)]) for k, frame in enumerate(frames))
    )
