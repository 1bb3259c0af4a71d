"""Speech from espeak-ng with the time of every phoneme.

espeak-ng (https://github.com/espeak-ng/espeak-ng, Debian package `espeak-ng`) makes speech by formants: many voices,
none of a recorded person. Its library reports a phoneme's mnemonic and its first sample as it speaks
(espeakEVENT_PHONEME), which is as exact as flite's. The program `espeak-ng` does not print them, so a small script
(espeak_speaker.py) calls the library; in a process of its own for each sentence, because the library keeps state that
would make a sentence sound unlike itself after another one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from timar_ros.errors import TimarError

PAUSE = "pau"
# Median pitch and its deviation in Hz, measured on one long sentence at espeak-ng's own settings.
_VARIANTS = {
    "f1": (188.0, 30.0),
    "f2": (205.0, 31.0),
    "f3": (225.0, 33.0),
    "f4": (188.0, 30.0),
    "f5": (215.0, 32.0),
    "m1": (99.0, 22.0),
    "m3": (112.0, 22.0),
    "m5": (108.0, 20.0),
    "m7": (115.0, 22.0),
    "klatt4": (107.0, 20.0),
}
_ACCENTS = ("gmw/en-US", "gmw/en", "gmw/en-GB-scotland")
VOICES = {f"{accent}+{variant}": pitch for accent in _ACCENTS for variant, pitch in _VARIANTS.items()}
_SPEAKER = Path(__file__).with_name("espeak_speaker.py")
_WORDS_A_MINUTE = 172.0  # as fast as flite's voices at a stretch of 1

# espeak-ng's mnemonics in CMU's phonemes; some hold two.
_CMU = {
    "D": "dh", "T": "th", "N": "ng", "S": "sh", "Z": "zh", "tS": "ch", "dZ": "jh", "j": "y", "h": "hh", "w#": "w",
    "t#": "dx", "t2": "t", "r-": "r", ";": "y", "?": "q", "@L": "el", "l#": "l", "n-": "en", "m-": "em",
    "I": "ih", "I#": "ix", "I2": "ih", "i": "iy", "i:": "iy", "V": "ah", "a": "ae", "aa": "ae", "a#": "ax",
    "@": "ax", "@2": "ax", "@5": "ax", "@-": "ax", "E": "eh", "E2": "eh", "0": "aa", "3": "axr", "3:": "er", "U": "uh",
    "u:": "uw", "O": "ao", "O:": "ao", "O2": "ao", "A:": "aa", "A": "aa", "aI": "ay", "aI2": "ay", "eI": "ey",
    "oU": "ow", "OI": "oy", "aU": "aw", "IR": "er", "VR": "er", "O@": "ao r", "o@": "ao r", "A@": "aa r", "e@": "eh r",
    "i@": "ih ax", "i@3": "ih axr", "aI3": "ay axr", "aI@": "ay ax", "U@": "uh r", "aU@": "aw ax",
}  # fmt: skip
_ALIKE = frozenset(("t", "d", "n", "s", "z", "l", "k", "m", "b", "r", "f", "p", "v", "g", "w"))
# CMU's phonemes as espeak-ng spells them, for what has no spelling ("[m hh m]").
_SPELLED = {cmu: mnemonic for mnemonic, cmu in reversed(_CMU.items())} | {name: name for name in _ALIKE}


def speak(
    voice: str, text: str, pitch: float, spread: float, stretch: float
) -> tuple[np.ndarray, int, list[tuple[str, float]]]:
    """Speaks one sentence.

    Args:
        voice: one of `VOICES`.
        text: words; or CMU phonemes in square brackets.
        pitch, spread: mean pitch and its liveliness, as ratios to the voice's own.
        stretch: how long the sentence takes, as a ratio to ordinary speech.

    Returns:
        float32 [n] in [-1, 1); its rate in Hz; CMU phonemes and pauses, each with its end in s.

    Raises TimarError: espeak-ng is missing, or lacks the voice.
    """
    if text.startswith("["):
        text = "[[" + "".join(_SPELLED.get(name, "@") for name in text.strip("[]").split()) + "]]"
    settings = {
        "rate": int(np.clip(round(_WORDS_A_MINUTE / stretch), 80, 450)),
        # A step of 50 is an octave (espeak-ng's pitch_adjust_tab).
        "pitch": int(np.clip(round(50 + 50 * np.log2(pitch)), 0, 99)),
        "range": int(np.clip(round(50 * spread), 10, 99)),
    }
    numbers = [str(settings[name]) for name in ("rate", "pitch", "range")]
    command = [sys.executable, "-I", "-S", str(_SPEAKER), voice, *numbers, text]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        raise TimarError(done.stderr.decode(errors="replace").strip())
    head, _, sound = done.stdout.partition(b"\n")
    heard = json.loads(head)
    samples = np.frombuffer(sound, np.int16).astype(np.float32) / 32768
    return samples, heard["rate"], _ends(heard["phonemes"], len(samples), heard["rate"])


def require_espeak() -> None:
    """TimarError when espeak-ng cannot speak here."""
    speak(next(iter(VOICES)), "yes", 1.0, 1.0, 1.0)


def _ends(heard: list[tuple[str, int]], samples: int, rate: int) -> list[tuple[str, float]]:
    """(mnemonic, first sample) as (CMU phoneme, end in s)."""
    ends: list[tuple[str, float]] = []
    shares = {1: (1.0,), 2: (0.6, 1.0)}
    starts = [start for _, start in heard] + [samples]
    for (mnemonic, start), end in zip(heard, starts[1:], strict=True):
        if end <= start and not mnemonic.startswith("_"):
            continue
        if not mnemonic or mnemonic.startswith("_"):
            ends.append((PAUSE, end / rate))
            continue
        names = (mnemonic if mnemonic in _ALIKE else _CMU.get(mnemonic, "ax")).split()
        ends += [
            (name, (start + (end - start) * share) / rate)
            for name, share in zip(names, shares[len(names)], strict=True)
        ]
    return ends
