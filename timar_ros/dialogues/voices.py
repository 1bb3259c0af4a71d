"""Speech of many voices, with the time of every phoneme and a known vocal effort.

flite (http://cmuflite.org, Debian package `flite`) prints each phoneme with its end time (`-psdur`); its
four voices are of recorded people. espeak-ng adds thirty of formants (espeak.py), and piper, where it is
installed and asked for, one of a network (piper_speech.py). They become many: pitch and rate are set in
the synthesiser, and the result is played faster or slower (varispeed), which moves the formants as a
longer or shorter vocal tract does.

Synthetic speech hardly varies in loudness, while real mouths open with it. So effort is laid over
the speech afterwards: a gain that varies between and within phrases, together with the spectral
tilt that goes with it (louder speech is also brighter). The same curve scales the jaw.
"""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import soxr
from scipy.signal import lfilter

from timar_ros.dialogues import espeak, piper_speech
from timar_ros.dialogues.espeak import PAUSE
from timar_ros.errors import TimarError
from timar_ros.rates import SAMPLE_RATE

CONTROL_RATE = 100  # effort curves and the behaviour model, Hz
VOWELS = frozenset(
    ["aa", "ae", "ah", "ao", "aw", "ax", "axr", "ay", "eh", "er", "ey", "ih", "ix", "iy", "ow"] + ["oy", "uh", "uw"]
)
# Where each flite voice sits by itself: mean and deviation of pitch in Hz.
FLITE_VOICES = {
    "slt": (172.0, 22.0),
    "rms": (98.0, 14.0),
    "awb": (132.0, 18.0),
    "kal16": (105.0, 14.0),
}
FLITE, ESPEAK, PIPER = "flite", "espeak-ng", "piper"
ENGINES = (FLITE, ESPEAK, PIPER)
DEFAULT_ENGINES = (FLITE, ESPEAK)  # what the distribution packages
MARGIN_S = 0.03  # kept of the synthesiser's silence on both sides, faded
_TILT_HZ = 1200.0


@dataclass(frozen=True)
class Voice:
    """How one party sounds.

    `speed` is varispeed: above 1 raises pitch, formants and rate together; `stretch` lengthens the
    phonemes (flite's duration_stretch); `level_db` is the level of ordinary effort, dB re full
    scale (rms while speaking); `effort_db` the deviation of effort between and within phrases.
    """

    name: str
    pitch_hz: float
    pitch_sd_hz: float
    stretch: float
    speed: float
    level_db: float
    effort_db: float


@dataclass(frozen=True)
class Phoneme:
    """One phoneme (flite's names: CMU's in lower case) between two times in s."""

    name: str
    start: float
    end: float

    def moved(self, seconds: float) -> "Phoneme":
        return Phoneme(self.name, self.start + seconds, self.end + seconds)


@dataclass(frozen=True)
class Accent:
    """A prominent vowel: its middle in s and its prominence, about 0.5 (slight) to 2 (strong)."""

    time: float
    prominence: float


@dataclass(frozen=True)
class Speech:
    """One synthesised sentence, times in s from its first sample.

    samples: float32 [n], 16 kHz mono; phonemes without leading or trailing pauses; effort_db:
    float64 [n / 160], vocal effort against the voice's ordinary one, at CONTROL_RATE; pitch:
    (time s, Hz) of each voiced vowel.
    """

    samples: np.ndarray
    phonemes: tuple[Phoneme, ...]
    accents: tuple[Accent, ...] = ()
    effort_db: np.ndarray | None = None
    pitch: tuple[tuple[float, float], ...] = ()

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


def draw_voice(
    rng: np.random.Generator, other: Voice | None = None, engines: tuple[str, ...] = DEFAULT_ENGINES
) -> Voice:
    """A random voice; not the same as `other`'s, so that the two can be told apart.

    Piper's in two of ten cases, of the rest recorded people (flite) in six of ten, else espeak-ng's formants; as far as
    they are in `engines`.
    """
    table = _draw_table(rng, engines, other)
    names = [name for name in table if other is None or name != other.name]
    # slt, the only woman's voice of flite, as often as the other three together.
    weights = np.array([3.0 if name == "slt" else 1.0 for name in names])
    name = str(rng.choice(names, p=weights / weights.sum()))
    pitch, pitch_sd = table[name]
    return Voice(
        name=name,
        pitch_hz=pitch * float(np.exp(rng.normal(0.0, 0.1))),
        pitch_sd_hz=pitch_sd * float(np.exp(rng.normal(0.15, 0.3))),
        stretch=float(np.clip(rng.normal(0.95, 0.1), 0.75, 1.25)),
        speed=float(np.clip(np.exp(rng.normal(0.0, 0.09)), 0.82, 1.24)),
        level_db=float(rng.normal(-25.0, 3.0)),
        effort_db=float(rng.uniform(2.0, 5.0)),
    )


def _draw_table(rng: np.random.Generator, engines: tuple[str, ...], other: Voice | None) -> dict:
    """The voices of an engine: name to mean pitch and its deviation in Hz."""
    if PIPER in engines and not (other and other.name in piper_speech.VOICES) and rng.random() < 0.2:
        return piper_speech.VOICES
    if ESPEAK in engines and (FLITE not in engines or rng.random() < 0.4):
        return espeak.VOICES
    return FLITE_VOICES


def require_flite() -> str:
    """Path of the flite program; TimarError when it is missing."""
    found = shutil.which("flite")
    if found is None:
        raise TimarError(
            "the speech synthesiser 'flite' was not found on this machine; dialogues are spoken by "
            "it; install it with: sudo apt install flite"
        )
    return found


REQUIRE = {FLITE: require_flite, ESPEAK: espeak.require_espeak, PIPER: piper_speech.require_piper}


def synthesise(voice: Voice, text: str, stretch: float = 1.0) -> Speech:
    """Speaks one sentence with the voice's pitch and rate, level with all others (-25 dB rms).

    `stretch` lengthens this sentence on top of the voice's own rate. A text in square brackets is
    phonemes ("[m hh m]"), for what has no spelling. Raises TimarError when flite
    is missing, fails, or knows no phoneme in the text.
    """
    if voice.name in espeak.VOICES:
        pitch, spread = espeak.VOICES[voice.name]
        samples, rate, ends = espeak.speak(
            voice.name,
            text,
            pitch=voice.pitch_hz / pitch / voice.speed,
            spread=voice.pitch_sd_hz / spread,
            stretch=voice.stretch * voice.speed * stretch,
        )
    elif voice.name in piper_speech.VOICES:
        samples, rate, ends = piper_speech.speak(text, voice.stretch * voice.speed * stretch)
    else:
        samples, rate, ends = _flite(voice, text, stretch)
    phonemes = _phonemes(ends)
    if not any(p.name != PAUSE for p in phonemes):
        raise TimarError(f"nothing to say was found in {text!r}; expected English words")
    samples = soxr.resample(samples, rate * voice.speed, SAMPLE_RATE, quality="HQ")
    phonemes = [Phoneme(p.name, p.start / voice.speed, p.end / voice.speed) for p in phonemes]
    return _level(_trim(samples, phonemes))


def _flite(voice: Voice, text: str, stretch: float) -> tuple[np.ndarray, int, list[tuple[str, float]]]:
    """Sound, its rate, and phonemes with their ends in s; all as flite made them."""
    flite = require_flite()
    with tempfile.TemporaryDirectory(prefix="timar_") as folder:
        path = Path(folder) / "speech.wav"
        command = [flite, "-voice", voice.name, "-psdur"]
        for feature, value in (
            ("int_f0_target_mean", voice.pitch_hz / voice.speed),
            ("int_f0_target_stddev", voice.pitch_sd_hz / voice.speed),
            ("duration_stretch", voice.stretch * voice.speed * stretch),
        ):
            command += ["--setf", f"{feature}={value:.4f}"]
        is_phonemes = text.startswith("[")
        what = ["-p", f"pau {text.strip('[]')} pau"] if is_phonemes else ["-t", text]
        done = subprocess.run([*command, *what, "-o", str(path)], capture_output=True, text=True, check=False)
        if done.returncode != 0 or not path.exists():
            raise TimarError(
                f"flite could not speak {text!r} with voice {voice.name!r} "
                f"({done.stderr.strip()}); "
                "expected a flite with the voices "
                f"{', '.join(FLITE_VOICES)}; list yours with: flite -lv"
            )
        samples, rate = soundfile.read(path, dtype="float32")
    words = (word.rpartition(":") for word in done.stdout.split())
    return samples, rate, [(name, float(end)) for name, _, end in words]


def _phonemes(ends: list[tuple[str, float]]) -> list[Phoneme]:
    """Names with their ends in s as phonemes; pauses that follow each other are joined."""
    phonemes: list[Phoneme] = []
    start = 0.0
    for name, end in ends:
        if name == PAUSE and phonemes and phonemes[-1].name == PAUSE:
            phonemes[-1] = Phoneme(PAUSE, phonemes[-1].start, end)
        else:
            phonemes.append(Phoneme(name, start, end))
        start = end
    return phonemes


def _trim(samples: np.ndarray, phonemes: list[Phoneme]) -> Speech:
    """Cuts the synthesiser's own silence before and after, but for a faded margin."""
    phonemes = _audible(samples, phonemes)
    spoken = [p for p in phonemes if p.name != PAUSE]
    begin = max(0.0, spoken[0].start - MARGIN_S)
    first, last = phonemes.index(spoken[0]), phonemes.index(spoken[-1])
    stop = min(len(samples), round((spoken[-1].end + MARGIN_S) * SAMPLE_RATE))
    cut = np.array(samples[round(begin * SAMPLE_RATE) : stop])
    fade = min(round(0.015 * SAMPLE_RATE), len(cut) // 2)
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    cut[:fade] *= ramp
    cut[len(cut) - fade :] *= ramp[::-1]
    return Speech(cut, tuple(p.moved(-begin) for p in phonemes[first : last + 1]))


def _audible(samples: np.ndarray, phonemes: list[Phoneme]) -> list[Phoneme]:
    """Ends the last phoneme where its sound fades (a final stop's closure may not be released)."""
    last = max(i for i, p in enumerate(phonemes) if p.name != PAUSE)
    blocks = samples[: len(samples) // 80 * 80].reshape(-1, 80)  # 5 ms
    level = 10 * np.log10((blocks**2).mean(axis=1) + 1e-10)
    loud = np.flatnonzero(level > np.percentile(level, 90) - 35.0)
    fades = (loud[-1] + 1) * 80 / SAMPLE_RATE
    old = phonemes[last]
    end = float(np.clip(fades, old.start + 0.02, old.end)) if old.end > old.start + 0.02 else old.end
    changed = [Phoneme(old.name, old.start, end)]
    if last + 1 < len(phonemes):
        changed.append(Phoneme(PAUSE, end, phonemes[last + 1].end))
    return [*phonemes[:last], *changed]


def _level(speech: Speech) -> Speech:
    """Brings the rms over the speech's louder parts to -25 dB re full scale."""
    power = np.convolve(speech.samples**2, np.full(400, 1 / 400), mode="same")
    loud = power[power > 0.1 * power.max()]
    gain = 10 ** (-25 / 20) / np.sqrt(loud.mean() + 1e-12)
    return replace(speech, samples=(speech.samples * gain).astype(np.float32))


def with_pauses(speech: Speech, seconds: list[float]) -> Speech:
    """The same speech with its inner pauses made as long as `seconds` says, in order.

    A pause that the synthesiser made is cut in its middle, and silence is put in or sound taken
    out; there must be one number for each inner pause (`inner_pauses`).
    """
    pauses = [p for p in speech.phonemes if p.name == PAUSE]
    if len(seconds) != len(pauses):
        raise ValueError(f"{len(pauses)} inner pauses, but {len(seconds)} lengths")
    lengths = iter(seconds)
    pieces, phonemes, shift, taken = [], [], 0.0, 0
    for phoneme in speech.phonemes:
        if phoneme.name != PAUSE:
            phonemes.append(phoneme.moved(shift))
            continue
        wanted = next(lengths)
        added = round((wanted - (phoneme.end - phoneme.start)) * SAMPLE_RATE)
        half = min(phoneme.end - phoneme.start, wanted) / 2
        head = round((phoneme.start + half) * SAMPLE_RATE)
        tail = head if added >= 0 else head - added
        pieces += [_faded(speech.samples[taken:head], taken > 0, True)]
        pieces += [np.zeros(max(0, added), np.float32)]
        taken = tail
        phonemes.append(Phoneme(PAUSE, phoneme.start + shift, phoneme.end + shift + added / SAMPLE_RATE))
        shift += added / SAMPLE_RATE
    pieces.append(_faded(speech.samples[taken:], taken > 0, False))
    return replace(speech, samples=np.concatenate(pieces), phonemes=tuple(phonemes))


def _faded(samples: np.ndarray, at_start: bool, at_end: bool) -> np.ndarray:
    """A copy whose cut ends come from and go to silence over 8 ms."""
    faded = np.array(samples)
    length = min(128, len(faded))
    ramp = np.linspace(0.0, 1.0, length, dtype=np.float32)
    if at_start:
        faded[:length] *= ramp
    if at_end:
        faded[len(faded) - length :] *= ramp[::-1]
    return faded


def find_accents(speech: Speech) -> Speech:
    """Marks the prominent vowels and measures the pitch of every vowel.

    Prominence is what can be heard: a vowel that is longer, louder and higher than its neighbours
    (Terken & Hermes 2000 name these three). An accent is a local maximum of it.
    """
    vowels = [p for p in speech.phonemes if p.name in VOWELS]
    if not vowels:
        return speech
    middle = np.array([(p.start + p.end) / 2 for p in vowels])
    hertz, level = _pitch_and_level(speech.samples, middle)
    length = np.log([p.end - p.start for p in vowels])
    tone = np.where(hertz > 0, np.log2(np.maximum(hertz, 40.0)), np.nan)
    tone = np.nan_to_num(tone - np.nanmedian(tone)) if np.any(hertz > 0) else np.zeros(len(tone))
    score = (length - length.mean()) / 0.4 + (level - level.mean()) / 5.0 + 3.0 * tone
    padded = np.concatenate(([-9.0], score, [-9.0]))
    peak = (score >= padded[:-2]) & (score >= padded[2:])
    accents = tuple(
        Accent(float(middle[i]), float(np.clip(1.0 + 0.35 * score[i], 0.4, 2.0)))
        for i in np.flatnonzero(peak & (score > -0.2))
    )
    pitch = tuple(zip(middle[hertz > 0].tolist(), hertz[hertz > 0].tolist(), strict=True))
    return replace(speech, accents=accents, pitch=pitch)


def _pitch_and_level(samples: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pitch (Hz, 0 unvoiced; by autocorrelation, 60 to 400 Hz) and level (dB) around times."""
    size = 800  # 50 ms
    padded = np.pad(samples, size)
    starts = np.round(times * SAMPLE_RATE).astype(int) + size - size // 2
    windows = padded[starts[:, None] + np.arange(size)] * np.hanning(size)
    power = np.abs(np.fft.rfft(windows, 2048, axis=1)) ** 2
    correlation = np.fft.irfft(power, axis=1)[:, :300]
    correlation = correlation / (correlation[:, :1] + 1e-9)
    low, high = SAMPLE_RATE // 400, SAMPLE_RATE // 60
    lag = correlation[:, low:high].argmax(axis=1) + low
    voiced = correlation[np.arange(len(lag)), lag] > 0.35
    level = 10 * np.log10((windows**2).mean(axis=1) + 1e-10)
    return np.where(voiced, SAMPLE_RATE / lag, 0.0), level


def with_effort(speech: Speech, voice: Voice, phrase_db: float, rng: np.random.Generator) -> Speech:
    """Lays vocal effort over level speech: gain and spectral tilt, between and within phrases.

    `phrase_db` is this phrase's effort against the voice's ordinary one. Within the phrase effort
    wanders, falls towards the end (declination) and rises on accents.
    """
    count = int(np.ceil(len(speech.samples) * CONTROL_RATE / SAMPLE_RATE))
    time = np.arange(count) / CONTROL_RATE
    effort = np.full(count, phrase_db)
    knots = np.arange(-0.5, time[-1] + 1.5, 0.45) if count else np.zeros(2)
    effort += np.interp(time, knots, rng.normal(0.0, 0.6 * voice.effort_db, len(knots)))
    effort += np.interp(time, [0.0, 0.4, max(0.8, time[-1])], [1.0, 1.5, -2.5])
    for accent in speech.accents:
        rise = rng.uniform(0.4, 1.2) * voice.effort_db * accent.prominence * 0.7
        effort += rise * np.exp(-0.5 * ((time - accent.time) / 0.09) ** 2)
    effort = np.clip(effort, -14.0, 13.0)
    grid = np.arange(len(speech.samples)) * (CONTROL_RATE / SAMPLE_RATE)
    curve = np.interp(grid, np.arange(count), effort)
    low = _low_pass(speech.samples)
    # 1 dB more effort lifts the spectrum above 1.2 kHz by about 0.4 dB more (Nordenberg &
    # Sundberg 2004 found 0.3 to 0.6 dB per dB).
    bright = 10 ** (0.4 * curve / 20)
    loud = 10 ** ((curve + voice.level_db + 25.0) / 20)
    samples = loud * (low + bright * (speech.samples - low))
    return replace(speech, samples=samples.astype(np.float32), effort_db=effort)


def _low_pass(samples: np.ndarray) -> np.ndarray:
    """First order, zero phase, at 1.2 kHz."""
    a = float(np.exp(-2 * np.pi * _TILT_HZ / SAMPLE_RATE))
    forward = lfilter([1 - a], [1, -a], samples)
    return lfilter([1 - a], [1, -a], forward[::-1])[::-1]


def inner_pauses(speech: Speech) -> list[float]:
    """Lengths in s of the pauses inside a sentence, in order."""
    return [p.end - p.start for p in speech.phonemes if p.name == PAUSE]
