"""Speech from text by a synthesiser that is installed on this machine: espeak-ng, flite or piper."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import soundfile

from timar_ros.errors import TimarError
from timar_ros.stream.audio_messages import AudioChunk

ENGINES = ("espeak-ng", "flite", "piper")
AUTO = "auto"
ALL_SAID = "all that was typed was said"
"""What the synthesiser node logs when it comes to the end of what is typed."""
LONGEST_S = 60.0
"""A synthesiser that takes longer for one sentence has failed."""


class Synthesiser:
    """Speaks sentences.

    Args:
        engine: one of `ENGINES`; "auto" takes piper where a voice is given as a file (.onnx), else the first installed.
        voice: espeak-ng's or flite's name of a voice, empty for its default; for piper the path of its .onnx file.

    Raises:
        TimarError: it is not installed, or piper's voice is missing.
    """

    def __init__(self, engine: str = AUTO, voice: str = "") -> None:
        self.engine = _choose(engine, voice)
        self._voice = voice
        if self.engine == "piper" and not Path(voice).expanduser().is_file():
            raise TimarError(
                f"piper needs the path of a voice (.onnx), and voice is {voice!r}; fetch one as "
                "https://github.com/OHF-Voice/piper1-gpl says, or use espeak-ng"
            )

    def __call__(self, sentence: str) -> AudioChunk:
        """Its sound, mono.

        Raises:
            TimarError: the synthesiser failed; holds what it said.
        """
        try:
            with tempfile.TemporaryDirectory(prefix="timar_") as folder:
                text, sound = Path(folder, "text.txt"), Path(folder, "speech.wav")
                text.write_text(sentence + "\n", encoding="utf-8")
                command = self._command(text, sound)
                with text.open() as typed:
                    done = subprocess.run(command, stdin=typed, capture_output=True, timeout=LONGEST_S, check=False)
                said = done.stderr.decode(errors="replace").strip()
                if done.returncode == 0 and sound.exists():
                    samples, rate = soundfile.read(sound, dtype="float32", always_2d=True)
                    return AudioChunk(None, rate, samples.mean(axis=1))
        except (subprocess.TimeoutExpired, soundfile.LibsndfileError, OSError, UnicodeError) as error:
            said = str(error)
        said = said or "no sound came"
        raise TimarError(f"{self.engine} could not say {sentence!r}: {said}; try another text or voice")

    def _command(self, text: Path, sound: Path) -> Sequence[str]:
        """The text goes by a file: a sentence that begins with a hyphen is no option."""
        voice = [self._voice] if self._voice else []
        if self.engine == "espeak-ng":
            return ["espeak-ng", *(["-v", *voice] if voice else []), "-f", str(text), "-w", str(sound)]
        if self.engine == "flite":
            return ["flite", *(["-voice", *voice] if voice else []), "-f", str(text), "-o", str(sound)]
        return ["piper", "--model", str(Path(self._voice).expanduser()), "--output_file", str(sound)]


def sentences(text: str) -> list[str]:
    """The sentences of a text: the first one can be heard while the others are still being made."""
    return [part for part in re.split(r"(?<=[.!?…])\s+", text.strip()) if re.search(r"\w", part)]


def _choose(engine: str, voice: str) -> str:
    if engine == AUTO and voice.endswith(".onnx"):
        engine = "piper"
    wanted = ENGINES if engine == AUTO else (engine,)
    installed = [name for name in wanted if shutil.which(name)]
    if not installed:
        raise TimarError(
            f"no speech synthesiser was found ({', '.join(wanted)}); install one: "
            "sudo apt install espeak-ng, or python3 -m pip install piper-tts"
        )
    return installed[0]
