"""`timar generate`: dialogues of two voices and two moving heads, to train and to test with.

A dialogue is NAME_speaker1.wav/.npz and NAME_speaker2.wav/.npz (DualTalk's layout): wav 16 kHz mono
PCM16, that party's clean voice alone, both equally long, a multiple of 640 samples; npz with

- motion: float32 [frames, 55], 25 a second, in order of `channels` (names): rad, weights in [0, 1];
- speech: float64 [n, 2] s, intervals in which the party speaks; pauses of 0.2 s and more part them;
- acts, act_times: names and float64 [n, 2] s, the dialogue acts of the party's phrases; act_turns:
  the number of the turn each belongs to (a backchannel: the turn it answers); act_words: its words;
- cues_offered: float64 [m] s, the instants in the partner's speech that this party may answer as a
  listener, answered or not;
- cues, cue_sources: float64 [k] s, when the party did answer, and the instant that it answered;
- party: voice and traits as JSON; seed: int64 [2], the data set's seed and the dialogue's number;
  seconds: float64, the length that was asked for; engines: names of the synthesisers in use.
"""

import argparse
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from timar_ros import parallel
from timar_ros.channels import CHANNELS
from timar_ros.dialogues.behaviour import move
from timar_ros.dialogues.demonstration import demonstration
from timar_ros.dialogues.dialogue import Dialogue, draw_dialogue, find_cues
from timar_ros.dialogues.statistics import report
from timar_ros.dialogues.voices import DEFAULT_ENGINES, ENGINES, FLITE, PIPER, REQUIRE
from timar_ros.errors import TimarError
from timar_ros.rates import SAMPLE_RATE

DIALOGUE_SECONDS = 60.0
SPEAKERS = ("speaker1", "speaker2")
PARTIES = ("self", "partner")
_VORBIS_EFFORT = 0.5  # of libsndfile's 0 (large) to 1: about 20 kbit/s of speech at 16 kHz


def make_dialogue(
    seed: int, number: int, seconds: float = DIALOGUE_SECONDS, engines: tuple[str, ...] = DEFAULT_ENGINES
) -> tuple[Dialogue, tuple[np.ndarray, np.ndarray]]:
    """Dialogue `number` of the data set `seed` and the motion of its two parties.

    Each motion is float32 [frames, 55]. The same numbers give the same dialogue in any order and
    any process.
    """
    talk, first, second = (np.random.default_rng(s) for s in np.random.SeedSequence((seed, number)).spawn(3))
    dialogue = draw_dialogue(talk, seconds, engines)
    return dialogue, (move(dialogue, 0, first), move(dialogue, 1, second))


def dialogue_name(seed: int, number: int) -> str:
    return f"dialogue_{seed:04d}_{number:05d}"


def write_dialogue(
    folder: Path,
    name: str,
    dialogue: Dialogue,
    motions: tuple[np.ndarray, np.ndarray],
    seed: tuple[int, int],
    seconds: float,
    engines: tuple[str, ...] = DEFAULT_ENGINES,
) -> None:
    """Writes the four files of a dialogue; each appears under its name only when it is whole."""
    for party, speaker in enumerate(SPEAKERS):
        wav = folder / f"{name}_{speaker}.wav"
        part = wav.with_suffix(".wav.part")
        soundfile.write(part, dialogue.audio(party), SAMPLE_RATE, "PCM_16", format="WAV")
        os.replace(part, wav)
    for party, speaker in enumerate(SPEAKERS):
        phrases = dialogue.of(party)
        responses = [r for r in dialogue.responses if r.party == party]
        npz = folder / f"{name}_{speaker}.npz"
        part = npz.with_suffix(".npz.part")
        with part.open("wb") as file:
            np.savez_compressed(
                file,
                motion=motions[party],
                channels=np.array(CHANNELS),
                speech=dialogue.speech_intervals(party),
                acts=np.array([p.act for p in phrases], dtype=np.str_),
                act_times=np.array([p.span for p in phrases], dtype=np.float64).reshape(-1, 2),
                act_turns=np.array([p.turn for p in phrases], dtype=np.int64),
                act_words=np.array([len(p.text.split()) for p in phrases], dtype=np.int64),
                cues_offered=find_cues(dialogue, party),
                cues=np.array([r.time for r in responses], dtype=np.float64),
                cue_sources=np.array([r.cue for r in responses], dtype=np.float64),
                party=np.array(json.dumps(asdict(dialogue.parties[party]))),
                seed=np.array(seed, dtype=np.int64),
                seconds=np.array(seconds, dtype=np.float64),
                engines=np.array(engines, dtype=np.str_),
            )
        os.replace(part, npz)


def write_compressed(folder: Path, name: str, dialogue: Dialogue) -> None:
    """Writes the two voices as Ogg Vorbis, 16 kHz mono, and when who speaks as JSON.

    NAME_self.ogg, NAME_partner.ogg, NAME.json: {"speech": {"self": [[start s, end s], ..],
    "partner": [..]}}. Vorbis decodes to the same length, unshifted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    speech = {}
    for party, who in enumerate(PARTIES):
        soundfile.write(
            folder / f"{name}_{who}.ogg",
            dialogue.audio(party),
            SAMPLE_RATE,
            "VORBIS",
            format="OGG",
            compression_level=_VORBIS_EFFORT,
        )
        speech[who] = dialogue.speech_intervals(party).round(3).tolist()
    (folder / f"{name}.json").write_text(json.dumps({"speech": speech}) + "\n")


def is_finished(folder: Path, name: str) -> bool:
    return all((folder / f"{name}_{s}{end}").exists() for s in SPEAKERS for end in (".wav", ".npz"))


def generate(
    folder: Path,
    hours: float,
    seed: int,
    jobs: int,
    seconds: float = DIALOGUE_SECONDS,
    engines: tuple[str, ...] = DEFAULT_ENGINES,
    cluster: str | None = None,
) -> int:
    """Makes those dialogues of `hours` that `folder` lacks, in `jobs` processes or on `cluster`; returns how many.

    Raises:
        TimarError: one of `engines` or the cluster is missing, or the folder cannot be written.
    """
    for engine in engines:
        REQUIRE[engine]()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TimarError(
            f"the folder '{folder}' could not be made ({error.strerror}); expected a place that "
            "can be written; give another with --out"
        ) from error
    count = max(1, round(hours * 3600 / seconds))
    missing = [n for n in range(count) if not is_finished(folder, dialogue_name(seed, n))]
    _require_alike(folder, seed, sorted(set(range(count)) - set(missing)), seconds, engines)
    with parallel.backend(cluster):
        made = parallel.in_parallel(
            _make_and_write, [(folder.resolve(), seed, number, seconds, engines) for number in missing], jobs
        )
        for _ in tqdm(made, total=count, initial=count - len(missing), unit="dialogue", desc="generate"):
            pass
    return len(missing)


def _require_alike(folder: Path, seed: int, there: Sequence[int], seconds: float, engines: tuple[str, ...]) -> None:
    """Raises TimarError where the dialogues that are there were made otherwise than those to come."""
    for number in there[:1] + there[-1:]:
        with np.load(folder / f"{dialogue_name(seed, number)}_speaker1.npz") as data:
            if not {"seconds", "engines"} <= set(data.files):
                continue  # of before these were told
            made = float(data["seconds"]), tuple(data["engines"].tolist())
        if made != (seconds, tuple(engines)):
            raise TimarError(
                f"{folder} holds dialogues of this seed made with --seconds {made[0]:g} --voices {' '.join(made[1])}; "
                "give the same, another --seed, or another --out"
            )


def _make_and_write(folder: Path, seed: int, number: int, seconds: float, engines: tuple[str, ...]) -> None:
    dialogue, motions = make_dialogue(seed, number, seconds, engines)
    write_dialogue(folder, dialogue_name(seed, number), dialogue, motions, (seed, number), seconds, engines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, metavar="DIR", help="write dialogues here; finished ones are kept")
    what.add_argument("--statistics", type=Path, metavar="DIR", help="print what the dialogues in DIR are like")
    what.add_argument("--demo", type=Path, metavar="DIR", help="write the demonstration's self.ogg, partner.ogg")
    parser.add_argument("--hours", type=float, default=1.0, help="hours of dialogue (default 1)")
    parser.add_argument("--seconds", type=float, default=DIALOGUE_SECONDS, help="about, each dialogue (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other dialogues (0)")
    parser.add_argument(
        "--voices",
        nargs="+",
        choices=ENGINES,
        default=list(DEFAULT_ENGINES),
        help="synthesisers to draw voices from (default: flite espeak-ng); others give other dialogues",
    )
    parallel.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.statistics:
        print(report(args.statistics))
        return 0
    if args.demo:
        dialogue = demonstration()
        write_compressed(args.demo, "demo", dialogue)
        for who in PARTIES:
            os.replace(args.demo / f"demo_{who}.ogg", args.demo / f"{who}.ogg")
        (args.demo / "demo.json").unlink()
        print(f"{dialogue.seconds:.1f} s of conversation in '{args.demo}'")
        return 0
    _check(args)
    made = generate(args.out, args.hours, args.seed, args.jobs, args.seconds, tuple(args.voices), args.cluster)
    print(f"{made} dialogues made in '{args.out}'; look at them with --statistics '{args.out}'")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuses numbers that make no data set, each with a sentence."""
    for name, value, low, high, unit in (
        ("--hours", args.hours, 1e-3, 1000.0, " h"),
        ("--seconds", args.seconds, 10.0, 600.0, " s"),
        ("--seed", args.seed, 0, 2**31 - 1, ""),
    ):
        if not (math.isfinite(value) and low <= value <= high):
            raise TimarError(
                f"{name} {value} cannot be used; expected {low:g} to {high:g}{unit}; give {name} a number in that range"
            )
    if set(args.voices) == {PIPER}:
        raise TimarError(
            "--voices piper is one voice, and a dialogue needs two; expected another synthesiser beside it; "
            f"give --voices {FLITE} {PIPER}"
        )
    parallel.check(args)
    if args.out.exists() and not args.out.is_dir():
        raise TimarError(
            f"--out '{args.out}' is a file; expected a folder, which may exist or not; give the name of a folder"
        )
