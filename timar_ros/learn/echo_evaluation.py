"""`timar echo`: a robot that hears its own voice, in simulated rooms, with and without a canceller.

The own voice comes out of a loudspeaker that distorts a little, through a room, later than its stamp by a delay that
changes once; the partner talks in the same room; Hoth's room noise (IEEE 269) lies 20 dB below. Two figures:

- false: share of the time in which the partner is told to speak while silent (the partner never speaks there);
- missed: share of the partner's speech during the own voice that is not told within 0.2 s, the time that the decision
  itself takes on clean sound.

And what it costs: by how much the partner's voice comes out later than it went in, by cross-correlation, and how long
the frames of 40 ms take to compute.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.signal import correlate, fftconvolve

from timar_ros.errors import TimarError
from timar_ros.learn.rooms import LIVING_ROOM, OFFICE, Room, impulse_response
from timar_ros.learn.turn_evaluation import speech_level
from timar_ros.rates import FRAME_RATE, FRAME_SAMPLES, SAMPLE_RATE
from timar_ros.sound_files import read_voice
from timar_ros.stream.echo import EchoCanceller
from timar_ros.stream.speaking import SpeakingDetector

LEVELS_DB = (-12.0, -6.0, 0.0)
DELAYS_MS = ((20.0, 150.0), (250.0, 60.0), (100.0, 250.0))
NOISE_DB = -20.0
DECISION_FRAMES = 5
LONGEST_LATENESS_S = 0.2
LEAST_LIKENESS = 0.2
"""Correlation of what comes out with the partner's voice from which on the place of its peak tells the delay."""

Canceller = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(own, partner) frames float32 [640] -> the partner's without the own voice."""


def _webrtc() -> Canceller:
    """WebRTC's AEC3 as the package pywebrtc-audio wraps it."""
    canceller = _module("pywebrtc_audio", "pywebrtc-audio").EchoCanceller(SAMPLE_RATE, 1)
    return lambda own, partner: canceller.process(partner, own)


def _livekit() -> Canceller:
    """WebRTC's AEC3 as LiveKit's package wraps it."""
    rtc = _module("livekit.rtc", "livekit")
    module = rtc.AudioProcessingModule(echo_cancellation=True)
    block = SAMPLE_RATE // 100

    def cancel(own: np.ndarray, partner: np.ndarray) -> np.ndarray:
        cleaned = []
        for at in range(0, len(own), block):
            far, near = (
                rtc.AudioFrame((v[at : at + block] * 32767).astype(np.int16).tobytes(), SAMPLE_RATE, 1, block)
                for v in (own, partner)
            )
            module.process_reverse_stream(far)
            module.set_stream_delay_ms(0)
            module.process_stream(near)
            cleaned.append(np.frombuffer(near.data, np.int16).astype(np.float32) / 32768)
        return np.concatenate(cleaned)

    return cancel


def _speex() -> Canceller:
    """Speex's canceller as the package pyaec wraps it, with a filter of 0.4 s."""
    block = SAMPLE_RATE // 100
    canceller = _module("pyaec", "pyaec").Aec(block, SAMPLE_RATE * 2 // 5, SAMPLE_RATE, True)

    def cancel(own: np.ndarray, partner: np.ndarray) -> np.ndarray:
        near, far = ((v * 32767).astype(np.int16).reshape(-1, block) for v in (partner, own))
        cleaned = [canceller.cancel_echo(n, f) for n, f in zip(near, far, strict=True)]
        return np.array(cleaned, np.float32).ravel() / 32768

    return cancel


CANCELLERS: dict[str, Callable[[], Canceller]] = {
    "none": lambda: lambda own, partner: partner,
    "timar": lambda: EchoCanceller(awaited=True),
    "webrtc": _webrtc,
    "livekit": _livekit,
    "speex": _speex,
}


def _module(name: str, package: str):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TimarError(
            f"the package {package} is not installed ({error}); install it with `python3 -m pip install {package}`, "
            "or leave its canceller out"
        ) from error


@dataclass(frozen=True)
class Talk:
    """One party's voice, 16 kHz mono, and when it speaks: intervals in s."""

    samples: np.ndarray
    speech: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class EchoScene:
    """What the two channels hold.

    Attributes:
        own: the own voice as it was sent to the loudspeaker.
        echo, partner, noise: what the partner's microphone hears of each.
        partner_speaks, own_sounds: bool [frames].
    """

    own: np.ndarray
    echo: np.ndarray
    partner: np.ndarray
    noise: np.ndarray
    partner_speaks: np.ndarray
    own_sounds: np.ndarray


@dataclass(frozen=True)
class EchoScores:
    """How a canceller does in one scene.

    Attributes:
        false, missed: shares in [0, 1].
        cpu: the canceller's share of a core.
        delay_ms: by how much the partner's voice comes out later than it went in; NaN where too little comes out.
        frame_ms: [frames] how long each took to compute.
    """

    false: float
    missed: float
    cpu: float
    delay_ms: float
    frame_ms: np.ndarray


def read_talks(folder: Path, party: str) -> list[Talk]:
    """One party of all dialogues in a folder: NAME.json with `speech`, NAME_self.ogg, NAME_partner.ogg."""
    found = sorted(folder.glob("*.json"))
    if len(found) < 2:
        raise TimarError(
            f"{folder} holds {len(found)} dialogues; at least 2 are needed, each NAME.json, NAME_self.ogg and "
            "NAME_partner.ogg, as test/data/dialogues has them"
        )
    return [
        Talk(read_voice(path.with_name(f"{path.stem}_{party}.ogg")), json.loads(path.read_text())["speech"][party])
        for path in found
    ]


def make_scene(
    own: Sequence[Talk],
    partner: Talk,
    room: Room,
    level_db: float,
    delays_ms: tuple[float, float],
    seconds: float = 60.0,
    seed: int = 0,
) -> EchoScene:
    """A robot that hardly pauses, and a partner who talks as they did.

    Args:
        own: talks whose speech the robot says, one after the other.
        level_db: the echo against the partner, both while they sound.
        delays_ms: from the own voice to the loudspeaker, in the first and in the second half.
    """  # fmt: skip
    rng = np.random.default_rng(seed)
    count = round(seconds * FRAME_RATE) * FRAME_SAMPLES
    voice = _without_rests(own, count, rng)
    response = impulse_response(room, room.loudspeaker)
    sounding = fftconvolve(0.5 * np.tanh(2.0 * voice), response)[:count]
    echo = np.zeros(count)
    for half, delay_ms in enumerate(delays_ms):
        part = slice(half * count // 2, (half + 1) * count // 2)
        delay = round(delay_ms * SAMPLE_RATE / 1000)
        echo[part] = np.concatenate([np.zeros(delay), sounding])[:count][part]
    length = len(partner.samples) / SAMPLE_RATE
    talk = np.resize(partner.samples, count)
    speech = [
        (start + k * length, min(end + k * length, seconds))
        for k in range(int(seconds / length) + 1)
        for start, end in partner.speech
        if start + k * length < seconds
    ]
    heard = fftconvolve(talk, impulse_response(room, room.talker))[:count]
    level = speech_level(heard, speech)
    loud = np.abs(echo).reshape(-1, FRAME_SAMPLES).max(axis=1) > 0.05 * np.abs(echo).max()
    active = np.sqrt(np.square(echo[np.repeat(loud, FRAME_SAMPLES)]).mean())
    speaks = np.zeros(len(loud), bool)
    for start, end in speech:
        speaks[int(start * FRAME_RATE) : int(end * FRAME_RATE)] = True
    return EchoScene(
        own=voice.astype(np.float32),
        echo=echo * level / active * 10 ** (level_db / 20),
        partner=heard,
        noise=_hoth_noise(count, rng) * level * 10 ** (NOISE_DB / 20),
        partner_speaks=speaks,
        own_sounds=loud,
    )


def make_scenes(
    folder: Path, seed: int = 0, seconds: float = 60.0, extra_delay_ms: float = 0.0
) -> Iterator[tuple[str, Callable[[], EchoScene]]]:
    """Name and maker of each scene of the two rooms, three pairs of delays and three levels.

    Args:
        folder: of dialogues.
        seed: another seed, other pairs of voices, pauses and noise.
    """
    own, partners = read_talks(folder, "self"), read_talks(folder, "partner")
    for room in (OFFICE, LIVING_ROOM):
        for case, delays in enumerate(DELAYS_MS):
            partner = (2 * case + seed) % len(partners)
            others = [*own[partner + 1 :], *own[:partner]]
            shifted = (delays[0] + extra_delay_ms, delays[1] + extra_delay_ms)
            for level_db in LEVELS_DB:
                name = f"{room.name}, {level_db:g} dB, {shifted[0]:g} → {shifted[1]:g} ms"
                given = (others, partners[partner], room, level_db, shifted, seconds, len(DELAYS_MS) * seed + case)
                yield name, partial(make_scene, *given)


def score(scene: EchoScene, make: Callable[[], Canceller]) -> EchoScores:
    """Both figures of one scene, each with a new canceller."""
    alone = _hear(make(), scene.own, scene.echo + scene.noise)
    both = _hear(make(), scene.own, scene.echo + scene.noise + scene.partner)
    return EchoScores(
        false=float(alone.told.mean()),
        missed=_missed(both.told, scene.partner_speaks & scene.own_sounds),
        cpu=(alone.cpu + both.cpu) / 2,
        delay_ms=_lateness_ms(both.cleaned, scene.partner),
        frame_ms=np.concatenate([alone.frame_ms, both.frame_ms]),
    )


def score_detector(scene: EchoScene) -> float:
    """What the decision itself misses of the partner: without any echo."""
    heard = _hear(CANCELLERS["none"](), scene.own, scene.partner + scene.noise)
    return _missed(heard.told, scene.partner_speaks & scene.own_sounds)


def _missed(told: np.ndarray, speech: np.ndarray) -> float:
    soon = told.copy()
    for frames in range(1, DECISION_FRAMES + 1):
        soon[:-frames] |= told[frames:]
    return 1.0 - float(soon[speech].mean())


class _Heard(NamedTuple):
    """told: whether the partner is told to speak, bool [frames]. cleaned: what the canceller left, float32 [n]."""

    told: np.ndarray
    cleaned: np.ndarray
    cpu: float
    frame_ms: np.ndarray


def _hear(canceller: Canceller, own: np.ndarray, microphone: np.ndarray) -> _Heard:
    detector = SpeakingDetector()
    microphone = microphone.astype(np.float32)
    told, cleaned, took, spent = [], [], [], 0.0
    for at in range(0, len(microphone), FRAME_SAMPLES):
        frame = slice(at, at + FRAME_SAMPLES)
        cpu, start = time.thread_time(), time.perf_counter()
        cleaned.append(canceller(own[frame], microphone[frame]))
        took.append(1000 * (time.perf_counter() - start))
        spent += time.thread_time() - cpu
        detector(own[frame], cleaned[-1])
        told.append(detector.partner.told)
    share = spent * SAMPLE_RATE / len(microphone)
    return _Heard(np.array(told), np.concatenate(cleaned), share, np.array(took))


def _lateness_ms(cleaned: np.ndarray, partner: np.ndarray) -> float:
    reach = round(LONGEST_LATENESS_S * SAMPLE_RATE)
    fit = correlate(cleaned, partner[reach:-reach], mode="valid", method="fft")
    latest = int(np.argmax(fit))
    alike = fit[latest] / np.sqrt(np.square(cleaned).sum() * np.square(partner).sum())
    return 1000.0 * (latest - reach) / SAMPLE_RATE if alike > LEAST_LIKENESS else float("nan")


def _without_rests(talks: Sequence[Talk], count: int, rng: np.random.Generator) -> np.ndarray:
    parts, length = [], 0
    while length < count:
        for talk in talks:
            for start, end in talk.speech:
                parts.append(talk.samples[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)])
                parts.append(np.zeros(int(rng.uniform(0.2, 0.9) * SAMPLE_RATE), np.float32))
                length += len(parts[-1]) + len(parts[-2])
    return np.concatenate(parts)[:count].astype(np.float64)


def _hoth_noise(count: int, rng: np.random.Generator) -> np.ndarray:
    """Room noise that falls by 5 dB an octave; level 1 (root mean square)."""
    hertz = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
    spectrum = np.fft.rfft(rng.standard_normal(count)) * np.maximum(hertz, 100.0) ** (-5 / 6.02)
    spectrum[hertz < 60.0] = 0.0
    noise = np.fft.irfft(spectrum, count)
    return noise / np.sqrt(np.square(noise).mean())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, default=Path("test/data/dialogues"), help="folder of dialogues (test/data/dialogues)"
    )
    parser.add_argument(
        "--canceller", nargs="+", default=["none", "timar"], choices=CANCELLERS, help="what is compared"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, other scenes (0)")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each scene")
    parser.add_argument("--extra-delay-ms", type=float, default=0.0, help="more delay, such as a speaker node's 240")
    parser.add_argument("--json", type=Path, help="write the figures here")


def run(args: argparse.Namespace) -> int:
    if args.seconds < 10:
        raise TimarError(
            f"--seconds is {args.seconds:g}; at least 10 are needed for the delay to be found and to change"
        )
    scenes = make_scenes(args.data, args.seed, args.seconds, args.extra_delay_ms)
    rows = []
    print(
        "| room, echo, delays | detector alone: missed |",
        " | ".join(f"{n}: false / missed" for n in args.canceller),
        "|",
    )
    print("|---" * (2 + len(args.canceller)) + "|")
    for name, make in scenes:
        scene = make()
        alone = score_detector(scene)
        scores = {canceller: score(scene, CANCELLERS[canceller]) for canceller in args.canceller}
        rows.append((alone, scores))
        print(
            f"| {name} | {alone:.1%} |", " | ".join(_cell(s.false, s.missed) for s in scores.values()), "|", flush=True
        )
    alone = float(np.mean([a for a, _ in rows]))
    means = {name: _mean([scores[name] for _, scores in rows]) for name in args.canceller}
    print(f"| mean | {alone:.1%} |", " | ".join(_cell(m["false"], m["missed"]) for m in means.values()), "|")
    for name, mean in means.items():
        print(
            f"{name}: {mean['cpu']:.1%} of a core; a frame takes {mean['frame_ms_p50']:.1f} ms, "
            f"{mean['frame_ms_p99']:.1f} at p99, {mean['frame_ms_max']:.1f} at most; the partner's voice comes out "
            f"{mean['delay_ms']:.2f} ms later, {mean['delay_ms_max']:.2f} at most"
        )
    if args.json:
        args.json.write_text(json.dumps(means | {"detector_alone_missed": alone}, indent=2) + "\n", encoding="utf-8")
    return 0


def _mean(scores: Sequence[EchoScores]) -> dict[str, float]:
    frame_ms = np.concatenate([s.frame_ms for s in scores])
    delays = [s.delay_ms for s in scores]
    return {name: float(np.mean([getattr(s, name) for s in scores])) for name in ("false", "missed", "cpu")} | {
        "frame_ms_p50": float(np.median(frame_ms)),
        "frame_ms_p99": float(np.quantile(frame_ms, 0.99)),
        "frame_ms_max": float(frame_ms.max()),
        "delay_ms": float(np.nanmedian(delays)),
        "delay_ms_max": float(np.nanmax(delays)),
    }


def _cell(false: float, missed: float) -> str:
    return f"{false:.1%} / {missed:.1%}"
