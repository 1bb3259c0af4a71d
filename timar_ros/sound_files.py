"""Sound files: which two make a conversation, how long they are, and their samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import soxr

from timar_ros.errors import TimarError
from timar_ros.rates import SAMPLE_RATE
from timar_ros.resources import share_path


def voices(own: str | None, partner: str | None) -> tuple[Path, Path]:
    """The two sound files: both given, or the conversation that comes with the package."""
    if (own is None) != (partner is None):
        given, lacking = ("SELF", "PARTNER") if partner is None else ("PARTNER", "SELF")
        raise TimarError(
            f"{given} is given without {lacking}; a conversation has two voices: "
            "make demo SELF=a.wav PARTNER=b.wav, or neither for the conversation that comes with the package"
        )
    if own is None:
        return share_path("demo", "self.ogg"), share_path("demo", "partner.ogg")
    return Path(own), Path(partner)


def duration_s(file: Path) -> float:
    """Length of a sound file in s.

    Raises:
        TimarError: it is not there, or no sound file, or empty.
    """
    if not file.is_file():
        raise TimarError(f"there is no file {file}; give the path of a sound file (WAV, FLAC, OGG, MP3)")
    try:
        seconds = soundfile.info(file).duration
    except soundfile.LibsndfileError as error:
        raise TimarError(f"{file} is no sound file that can be read ({error}); WAV, FLAC, OGG and MP3 are") from error
    if seconds < 1.0:
        raise TimarError(f"{file} holds {seconds:.2f} s of sound; at least 1 s is needed")
    return seconds


def read_voice(path: str | Path, channel: int | None = None) -> np.ndarray:
    """A sound file as 16 kHz mono float32 [n]: one of its channels, or the mean of all.

    Raises:
        TimarError: it is not there or no sound file.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise TimarError(f"{path} cannot be read as sound ({error}); give a WAV, FLAC, OGG or MP3 file") from error
    mono = samples.mean(axis=1) if channel is None else samples[:, channel]
    return soxr.resample(mono, rate, SAMPLE_RATE).astype(np.float32)
