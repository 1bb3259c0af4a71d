"""What a folder of dialogues is like in figures, beside those measured from people.

The measured figures: timing from the word times of 400 telephone dialogues (Switchboard, 56 h),
head and jaw from two people, one lively and one calm, 54 s at 25 frames a second. They are what the
generator is set by; the table tells how near it comes.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from timar_ros.channels import CHANNELS
from timar_ros.dialogues.sentences import BACKCHANNEL
from timar_ros.errors import TimarError
from timar_ros.motion.track import UNREADABLE
from timar_ros.rates import FRAME_RATE, FRAME_SAMPLES

_QUANTILES = (5, 25, 50, 75, 95)
_JAW = CHANNELS.index("jawOpen")
_BLINK = CHANNELS.index("eyeBlinkLeft")

MEASURED_TIMING = {
    "one speaks, share of time": (0.78,),
    "both speak": (0.057,),
    "nobody speaks": (0.164,),
    "talk spurts, s at p5/25/50/75/95": (0.31, 0.57, 1.34, 2.65, 5.25),
    "pauses of one party, s": (0.24, 0.42, 0.75, 2.2, 10.0),
    "floor transfer, s": (-2.5, -0.38, 0.04, 0.33, 1.34),
    "backchannels a minute": (4.8,),
    "backchannel length, s": (0.17, 0.31, 0.39, 0.49, 0.66),
}
# Lively and calm person; "jaw to energy" is of one 30 s clip, at the same instant and at best.
MEASURED_MOTION = {
    "sd of pitch / yaw / roll, deg": ((6.3, 6.8, 3.5), (1.4, 1.5, 1.7)),
    "angular speed p50 / p95 / p99, deg/s": ((20.0, 69.0, 113.0), (6.0, 31.0, 46.0)),
    "share of frames below 5 deg/s": ((0.11,), (0.40,)),
    "angular acceleration p50 / p95, deg/s2": ((460.0, 1500.0), (210.0, 820.0)),
    "pitch power below 0.5 / 1 / 2 / 4 Hz": ((0.85, 0.92, 0.97, 0.99), (0.59, 0.81, 0.89, 0.97)),
    "jaw to own energy, same instant / best": ((0.60, 0.65), ()),
    "jaw to partner's energy": ((-0.05,), ()),
    "blinks a minute": ((26.0,), (17.0,)),
}
_ACT_SHARES = {
    "statement": 0.72,
    "yes-no question": 0.029,
    "other question": 0.024,
    "backchannel": 0.029,
    "agreement": 0.012,
}


@dataclass(frozen=True)
class Track:
    """One party of a dialogue as it lies on disk; times in s."""

    motion: np.ndarray
    speech: np.ndarray
    acts: np.ndarray
    act_times: np.ndarray
    act_turns: np.ndarray
    words: np.ndarray
    energy: np.ndarray
    liveliness: float


def read_dialogues(folder: Path) -> list[tuple[Track, Track]]:
    """All complete dialogues of a folder; TimarError when there is none or one cannot be read."""
    names = sorted(p.name.removesuffix("_speaker2.npz") for p in folder.glob("*_speaker2.npz"))
    if not names:
        raise TimarError(
            f"no dialogues in '{folder}': expected NAME_speaker1.wav/.npz and "
            "NAME_speaker2.wav/.npz; make some with: timar generate --out FOLDER"
        )
    return [(_read_track(folder / f"{name}_speaker1"), _read_track(folder / f"{name}_speaker2")) for name in names]


def _read_track(stem: Path) -> Track:
    try:
        with np.load(stem.with_name(stem.name + ".npz")) as data:
            samples, _ = soundfile.read(stem.with_name(stem.name + ".wav"), dtype="float32")
            frames = samples[: len(data["motion"]) * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
            return Track(
                motion=data["motion"],
                speech=data["speech"],
                acts=data["acts"],
                act_times=data["act_times"],
                act_turns=data["act_turns"],
                words=data["act_words"],
                energy=np.log10((frames**2).mean(axis=1) + 1e-7),
                liveliness=json.loads(str(data["party"]))["traits"]["liveliness"],
            )
    except (*UNREADABLE, soundfile.LibsndfileError) as error:
        raise TimarError(
            f"'{stem}' is not a whole party of a generated dialogue ({error}); expected its .npz "
            "and .wav as `timar generate` writes them; delete its files and generate again"
        ) from error


def timing(dialogues: list[tuple[Track, Track]]) -> dict[str, np.ndarray]:
    """The rows of MEASURED_TIMING, measured on generated dialogues."""
    seconds = sum(len(first.motion) for first, _ in dialogues) / FRAME_RATE
    shares = np.zeros(3)
    spurts, pauses, transfers, backchannels = [], [], [], []
    for pair in dialogues:
        grid = np.zeros((2, len(pair[0].motion) * 4), bool)  # 100 Hz
        for row, track in zip(grid, pair, strict=True):
            for start, end in track.speech:
                row[round(start * 100) : round(end * 100)] = True
            spurts += (track.speech[:, 1] - track.speech[:, 0]).tolist()
            pauses += (track.speech[1:, 0] - track.speech[:-1, 1]).tolist()
            short = track.acts == BACKCHANNEL
            backchannels += (track.act_times[short, 1] - track.act_times[short, 0]).tolist()
        shares += np.bincount(grid.sum(axis=0), minlength=3)
        transfers += _transfers(pair)
    shares /= shares.sum()
    return {
        "one speaks, share of time": shares[1:2],
        "both speak": shares[2:3],
        "nobody speaks": shares[0:1],
        "talk spurts, s at p5/25/50/75/95": _quantiles(spurts),
        "pauses of one party, s": _quantiles(pauses),
        "floor transfer, s": _quantiles(transfers),
        "backchannels a minute": np.array([60.0 * len(backchannels) / seconds]),
        "backchannel length, s": _quantiles(backchannels),
    }


def _quantiles(values: list[float]) -> np.ndarray:
    return np.percentile(values, _QUANTILES) if values else np.full(len(_QUANTILES), np.nan)


def _transfers(pair: tuple[Track, Track]) -> list[float]:
    """Start of each turn minus the end of the other party's turn before it, s."""
    turns: dict[int, tuple[int, float, float]] = {}
    for party, track in enumerate(pair):
        for act, turn, (start, end) in zip(track.acts, track.act_turns, track.act_times, strict=True):
            if act != BACKCHANNEL:
                _, low, high = turns.get(int(turn), (party, start, end))
                turns[int(turn)] = (party, min(low, start), max(high, end))
    order = [turns[turn] for turn in sorted(turns)]
    return [b[1] - a[2] for a, b in zip(order, order[1:], strict=False) if a[0] != b[0]]


def motion(tracks: list[tuple[Track, Track]]) -> dict[str, np.ndarray]:
    """The rows of MEASURED_MOTION over (track, partner's track), averaged."""
    rows: dict[str, list] = {name: [] for name in MEASURED_MOTION}
    for track, partner in tracks:
        head = np.degrees(track.motion[:, :3])
        velocity = np.diff(head, axis=0) * FRAME_RATE
        speed = np.linalg.norm(velocity, axis=1)
        acceleration = np.linalg.norm(np.diff(velocity, axis=0), axis=1) * FRAME_RATE
        power = np.abs(np.fft.rfft(head[:, 1] - head[:, 1].mean())) ** 2
        hertz = np.fft.rfftfreq(len(head), 1 / FRAME_RATE)
        jaw = track.motion[:, _JAW]
        ahead = [np.corrcoef(jaw[: len(jaw) - k], track.energy[k:])[0, 1] for k in range(6)]
        shut = np.diff((track.motion[:, _BLINK] > 0.6).astype(int)) == 1
        values = (
            head.std(axis=0)[[1, 2, 0]],
            np.percentile(speed, (50, 95, 99)),
            [(speed < 5).mean()],
            np.percentile(acceleration, (50, 95)),
            [power[hertz < high].sum() / power.sum() for high in (0.5, 1, 2, 4)],
            [ahead[0], max(ahead)],
            [np.corrcoef(jaw, partner.energy)[0, 1]],
            [shut.sum() * 60 * FRAME_RATE / len(jaw)],
        )
        for name, value in zip(rows, values, strict=True):
            rows[name].append(np.asarray(value))
    return {name: np.mean(value, axis=0) for name, value in rows.items()}


def act_shares(dialogues: list[tuple[Track, Track]]) -> dict[str, float]:
    """Share of words of each dialogue act."""
    words: dict[str, int] = {}
    for track in (track for pair in dialogues for track in pair):
        for act, count in zip(track.acts, track.words, strict=True):
            words[str(act)] = words.get(str(act), 0) + int(count)
    total = sum(words.values())
    return {act: count / total for act, count in words.items()}


def report(folder: Path) -> str:
    """A table of generated beside measured figures."""
    dialogues = read_dialogues(folder)
    seconds = sum(len(first.motion) for first, _ in dialogues) / FRAME_RATE
    lines = [f"{len(dialogues)} dialogues, {seconds / 60:.1f} minutes", ""]
    lines.append(f"{'':42}{'generated':>32}{'measured from people':>34}")
    for name, value in timing(dialogues).items():
        lines.append(_line(name, value, MEASURED_TIMING[name]))
    shares = act_shares(dialogues)
    for act, measured in _ACT_SHARES.items():
        lines.append(_line(f"words in {act}s", [shares.get(act, 0.0)], (measured,)))
    tracks = [(pair[i], pair[1 - i]) for pair in dialogues for i in (0, 1)]
    for which, label in ((0, "lively"), (1, "calm")):
        chosen = [t for t in tracks if (t[0].liveliness > 2 / 3) == (which == 0)]
        chosen = [t for t in chosen if which == 0 or t[0].liveliness < 1 / 3]
        if not chosen:
            continue
        lines += ["", f"{label} third of the people ({len(chosen)})"]
        for name, value in motion(chosen).items():
            lines.append(_line(name, value, MEASURED_MOTION[name][which]))
    return "\n".join(lines)


def _line(name: str, generated, measured) -> str:
    def text(values) -> str:
        return " ".join(f"{v:.0f}" if abs(v) >= 20 else f"{v:.2f}" for v in values) or "-"

    return f"{name:42}{text(generated):>32}{text(measured):>34}"
