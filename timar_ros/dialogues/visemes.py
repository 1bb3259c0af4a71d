"""Phonemes to ARKit mouth shapes, with coarticulation.

Each phoneme has a target shape and a dominance in time (Cohen & Massaro 1993): a bell around its
middle whose width and weight say how strongly the phoneme insists on its shape. Overlapping bells
are averaged, so that neighbours colour each other. Where the lips must meet (p, b, m) or the lip
must touch the teeth (f, v) a closure is laid over the result that really closes.

Lips lead the sound by the person's lead, the heavier jaw by 30 ms more. The jaw opens with the
phoneme **and** with the vocal effort at that moment.
"""

from typing import NamedTuple

import numpy as np

from timar_ros.dialogues.traits import Traits
from timar_ros.dialogues.voices import CONTROL_RATE, PAUSE, Phoneme

# The shapes are made in these dimensions; the two sides of a face are told apart at the end.
SHAPES = (
    "jawOpen",
    "mouthFunnel",
    "mouthPucker",
    "mouthStretch",
    "mouthSmile",
    "mouthLowerDown",
    "mouthUpperUp",
    "mouthRollLower",
    "mouthShrugUpper",
    "mouthDimple",
    "tongueOut",
    "jawForward",
)
_VISEMES: dict[str, dict[str, float]] = {
    # open and spread vowels
    "aa": {"jawOpen": 0.62, "mouthLowerDown": 0.30, "mouthUpperUp": 0.12},
    "ae": {"jawOpen": 0.58, "mouthStretch": 0.25, "mouthLowerDown": 0.35, "mouthUpperUp": 0.18},
    "ah": {"jawOpen": 0.45, "mouthLowerDown": 0.25, "mouthUpperUp": 0.10},
    "ax": {"jawOpen": 0.26, "mouthLowerDown": 0.15, "mouthUpperUp": 0.06},
    "eh": {"jawOpen": 0.42, "mouthStretch": 0.22, "mouthLowerDown": 0.28, "mouthUpperUp": 0.14},
    "ih": {"jawOpen": 0.27, "mouthStretch": 0.20, "mouthLowerDown": 0.22, "mouthSmile": 0.03},
    "iy": {"jawOpen": 0.20, "mouthStretch": 0.28, "mouthSmile": 0.07, "mouthLowerDown": 0.24},
    # round vowels
    "ao": {"jawOpen": 0.50, "mouthFunnel": 0.42, "mouthPucker": 0.12, "mouthLowerDown": 0.15},
    "ow": {"jawOpen": 0.40, "mouthFunnel": 0.42, "mouthPucker": 0.28, "mouthLowerDown": 0.10},
    "uh": {"jawOpen": 0.26, "mouthFunnel": 0.30, "mouthPucker": 0.25},
    "uw": {"jawOpen": 0.20, "mouthFunnel": 0.30, "mouthPucker": 0.58},
    "er": {"jawOpen": 0.28, "mouthFunnel": 0.30, "mouthPucker": 0.14, "mouthLowerDown": 0.08},
    # consonants
    "p": {"jawOpen": 0.08},
    "f": {"jawOpen": 0.10, "mouthRollLower": 0.40, "mouthUpperUp": 0.22},
    "th": {"jawOpen": 0.16, "tongueOut": 0.25, "mouthLowerDown": 0.22, "mouthUpperUp": 0.08},
    "t": {"jawOpen": 0.12, "mouthStretch": 0.10, "mouthLowerDown": 0.22, "mouthUpperUp": 0.08},
    "s": {"jawOpen": 0.08, "mouthStretch": 0.22, "mouthLowerDown": 0.26, "mouthUpperUp": 0.10},
    "sh": {"jawOpen": 0.10, "mouthFunnel": 0.48, "mouthPucker": 0.20, "jawForward": 0.12},
    "k": {"jawOpen": 0.22, "mouthLowerDown": 0.16, "mouthUpperUp": 0.06},
    "l": {"jawOpen": 0.24, "mouthLowerDown": 0.20, "mouthUpperUp": 0.08},
    "r": {"jawOpen": 0.18, "mouthFunnel": 0.36, "mouthPucker": 0.20},
    "w": {"jawOpen": 0.14, "mouthFunnel": 0.28, "mouthPucker": 0.66},
    "y": {"jawOpen": 0.16, "mouthStretch": 0.22, "mouthSmile": 0.06, "mouthLowerDown": 0.18},
    "hh": {"jawOpen": 0.30, "mouthLowerDown": 0.12},
    PAUSE: {"jawOpen": 0.05},
}
_SAME = {
    "b": "p", "m": "p", "v": "f", "dh": "th", "d": "t", "n": "t", "z": "s", "zh": "sh",
    "ch": "sh", "jh": "sh", "g": "k", "ng": "k", "el": "l", "en": "t", "em": "p", "nx": "t",
    "dx": "t", "hv": "hh", "axr": "er", "ix": "ih", "wh": "w", "q": "ax", "h#": PAUSE,
}  # fmt: skip
_DIPHTHONGS = {
    "aw": ("aa", "uw"), "ay": ("aa", "iy"), "ey": ("eh", "iy"), "ow": ("ao", "uw"),
    "oy": ("ao", "iy"),
}  # fmt: skip
# How strongly a phoneme insists on its shape: lips of w, sh, f; hardly of k, t, hh.
_WEIGHT = {"p": 2.0, "f": 2.0, "w": 1.8, "sh": 1.6, "uw": 1.4, "s": 1.0, "t": 0.6, "k": 0.5}
_WEIGHT |= {"hh": 0.3, "l": 0.7, "r": 1.0, "ax": 0.6, PAUSE: 0.8}
_BILABIAL = frozenset(("p", "b", "m", "em"))
_LABIODENTAL = frozenset(("f", "v"))


def shape_of(phoneme: str) -> np.ndarray:
    """Target of one phoneme at ordinary effort, [len(SHAPES)] in [0, 1]; unknown ones a schwa's."""
    name = _SAME.get(phoneme, phoneme)
    target = _VISEMES.get(name, _VISEMES["ax"])
    return np.array([target.get(shape, 0.0) for shape in SHAPES])


def _targets(phonemes: list[Phoneme]) -> list[tuple[float, float, float, np.ndarray]]:
    """(middle s, length s, weight, shape) of every phoneme, diphthongs as two."""
    targets = []
    for p in phonemes:
        length = p.end - p.start
        if p.name in _DIPHTHONGS:
            for name, where in zip(_DIPHTHONGS[p.name], (0.3, 0.82), strict=True):
                targets.append((p.start + where * length, 0.55 * length, 1.0, shape_of(name)))
            continue
        weight = _WEIGHT.get(_SAME.get(p.name, p.name), 1.0)
        targets.append(((p.start + p.end) / 2, length, weight, shape_of(p.name)))
    return targets


def _blend(phonemes: list[Phoneme], count: int, lead_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Shapes [count, len(SHAPES)] at CONTROL_RATE and how present speech is, [count] in [0, 1]."""
    total = np.zeros((count, len(SHAPES)))
    weights = np.zeros(count)
    for middle, length, weight, shape in _targets(phonemes):
        centre = (middle - lead_s) * CONTROL_RATE
        width = (0.022 + 0.28 * length) * CONTROL_RATE
        low = max(0, int(centre - 3.5 * width))
        high = min(count, int(centre + 3.5 * width) + 2)
        if low >= high:
            continue
        bell = weight * np.exp(-0.5 * ((np.arange(low, high) - centre) / width) ** 2)
        total[low:high] += bell[:, None] * shape
        weights[low:high] += bell
    # A constant pull to rest closes the mouth where nothing is said.
    return total / (weights[:, None] + 0.06), weights / (weights + 0.06)


def _closure(phonemes: list[Phoneme], names: frozenset[str], count: int, lead_s: float) -> np.ndarray:
    """1 where the lips must touch, eased in and out over 60 ms with minimum jerk; [count].

    The touch lasts at least 60 ms, so that at 25 frames a second one frame shows it.
    """
    time = np.arange(count) / CONTROL_RATE
    closed = np.zeros(count)
    for p in phonemes:
        if p.name not in names:
            continue
        half = max(0.03, 0.35 * (p.end - p.start))
        middle = (p.start + p.end) / 2 - 0.5 * lead_s
        low = max(0, int((middle - half - 0.07) * CONTROL_RATE))
        high = min(count, int((middle + half + 0.07) * CONTROL_RATE) + 2)
        away = np.clip((np.abs(time[low:high] - middle) - half) / 0.06, 0.0, 1.0)
        closed[low:high] = np.maximum(closed[low:high], 1.0 - minimum_jerk(away))
    return closed


def minimum_jerk(x: np.ndarray) -> np.ndarray:
    """The smoothest way from 0 to 1 as x goes from 0 to 1 (Flash & Hogan 1985)."""
    x = np.clip(x, 0.0, 1.0)
    return x**3 * (10.0 - 15.0 * x + 6.0 * x**2)


class Mouth(NamedTuple):
    """A party's mouth over time at CONTROL_RATE, all [count] in [0, 1].

    channels: by ARKit name (without Left or Right where both sides are alike); speaking: presence
    of speech; closed: 1 where the lips touch for p, b, m.
    """

    channels: dict[str, np.ndarray]
    speaking: np.ndarray
    closed: np.ndarray


def mouth(phonemes: list[Phoneme], effort_db: np.ndarray, traits: Traits) -> Mouth:
    """Mouth channels of one party's speech at CONTROL_RATE.

    Args:
        phonemes: all of the party's, absolute times in s.
        effort_db: [count] vocal effort against ordinary, any value where nothing is said.
        traits: the person.
    """
    count = len(effort_db)
    lips, present = _blend(phonemes, count, traits.lip_lead_s)
    jaw_shapes, _ = _blend(phonemes, count, traits.lip_lead_s + 0.03)
    lead = round((traits.lip_lead_s + 0.03) * CONTROL_RATE)
    effort = _smooth(np.concatenate((effort_db[lead:], np.full(lead, effort_db[-1]))), 4.0)
    shape = dict(zip(SHAPES, lips.T, strict=True))
    # Twice as loud (10 dB) opens the jaw two to three times as far (Schulman 1989; Geumann 2001).
    loud = 10 ** (0.04 * effort)
    jaw = jaw_shapes[:, SHAPES.index("jawOpen")] * traits.jaw * loud
    jaw = 1.0 - np.exp(-np.maximum(jaw, 0.0) * 1.15)  # a mouth opens only so far
    spread = np.clip(0.6 + 0.4 * loud, 0.5, 1.5) * traits.articulation
    closed = _closure(phonemes, _BILABIAL, count, traits.lip_lead_s)
    labial = _closure(phonemes, _LABIODENTAL, count, traits.lip_lead_s)
    out = {name: np.clip(values * spread, 0.0, 1.0) for name, values in shape.items()}
    jaw *= (1.0 - 0.75 * closed) * (1.0 - 0.45 * labial)
    out["jawOpen"] = jaw
    for name in ("mouthLowerDown", "mouthUpperUp", "mouthFunnel", "mouthStretch"):
        out[name] = out[name] * (1.0 - closed)
    out["mouthLowerDown"] = out["mouthLowerDown"] * (1.0 - labial)
    out["mouthRollLower"] = np.maximum(0.55 * labial, 0.3 * closed) * traits.articulation
    out["mouthRollUpper"] = 0.22 * closed * traits.articulation
    out["mouthPress"] = 0.35 * closed * traits.articulation
    # ARKit's mouthClose undoes the lips' share of jawOpen: equal values mean closed lips.
    out["mouthClose"] = jaw * closed
    out["cheekPuff"] = 0.08 * closed
    out["mouthUpperUp"] = np.maximum(out["mouthUpperUp"], 0.2 * labial * (1.0 - closed))
    return Mouth(out, present, closed)


def _smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian of `sigma` samples, edges held."""
    radius = int(4 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    padded = np.pad(values, radius, mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")
