"""`timar hearing`: does a policy hear both voices?

Lips: the correlation of jawOpen with the log energy of the own voice, and of the partner's.
Listening: while only the partner speaks, the head's speed averaged over as many seeds as asked for, compared with the
same average when the partner's voice is replaced by silence or by another conversation's, and with the average over
other seeds. With the same seeds the replacement alone is told; with other seeds as well, both it and chance, which is
what two sets of seeds hold. A network that does not hear the partner moves alike whatever is said. The same of the
head's pose, in which a lively head's posture, another with each seed, hides much of what the partner does to it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from timar_ros.channels import CHANNELS, HEAD_CHANNELS
from timar_ros.errors import TimarError
from timar_ros.model.checkpoint import Policy, load_policy
from timar_ros.motion.track import track_of
from timar_ros.replay.behaviour_metrics import angular_speed, best_offset, frame_energy
from timar_ros.replay.offline import HeardConversation, hear, move
from timar_ros.replay.trial import plain
from timar_ros.resources import share_path
from timar_ros.sound_files import duration_s, read_voice
from timar_ros.stream.policy import IncrementalPolicy

JAW = CHANNELS.index("jawOpen")
SPLITS = 100
"""Into two sets of seeds, over which distances are averaged: one pair of sets tells little of chance."""
DISTANCES = (
    "other_seeds", "silence", "another_voice", "silence_and_other_seeds", "another_voice_and_other_seeds",
)  # fmt: skip


def check_hearing(
    policy: Policy, own: np.ndarray, partner: np.ndarray, other: np.ndarray, seeds: int = 8, progress: bool = False
) -> dict[str, Any]:
    """Figures of a policy on one conversation of two voices (16 kHz mono); `other` is a stranger's voice."""
    count = max(len(own), len(partner))
    conversations = {
        "as it was": hear(own, partner),
        "silence": hear(own, np.zeros(count, np.float32)),
        "another voice": hear(own, np.resize(other, count)),
    }
    runs = [(name, seed) for name in conversations for seed in range(2 * seeds)]
    motion: dict[str, list[np.ndarray]] = {name: [] for name in conversations}
    for name, seed in tqdm(runs, unit="run", disable=not progress):
        motion[name].append(move(IncrementalPolicy(policy, "cpu", seed), conversations[name]))
    tracks = np.stack(motion["as it was"])
    listening = _only_partner(conversations["as it was"])[: tracks.shape[1]]
    jaw = tracks[..., JAW]
    own_energy, partner_energy = frame_energy(own), frame_energy(partner)
    heads = {name: np.degrees(np.stack(drawn)[..., : len(HEAD_CHANNELS)]) for name, drawn in motion.items()}
    speeds = {
        name: np.stack([np.append(angular_speed(track_of(one)), 0.0) for one in drawn])
        for name, drawn in motion.items()
    }

    splits = np.random.default_rng(0).permuted(np.tile(np.arange(2 * seeds), (SPLITS, 1)), axis=1)

    def distances(drawn: dict[str, np.ndarray]) -> dict[str, float | None]:
        """Root mean squares over the frames, of averages over seeds; None where the partner never speaks alone."""
        if not listening.any():
            return dict.fromkeys(DISTANCES)
        drawn = {name: tracks[:, listening] for name, tracks in drawn.items()}
        here = drawn["as it was"]

        def apart(there: np.ndarray, other_seeds: bool) -> float:
            pairs = [(split[:seeds], split[seeds:] if other_seeds else split[:seeds]) for split in splits]
            squares = [np.square(here[one].mean(axis=0) - there[two].mean(axis=0)).mean() for one, two in pairs]
            return round(float(np.sqrt(squares).mean()), 4)

        return {
            "other_seeds": apart(here, True),
            "silence": apart(drawn["silence"], False),
            "another_voice": apart(drawn["another voice"], False),
            "silence_and_other_seeds": apart(drawn["silence"], True),
            "another_voice_and_other_seeds": apart(drawn["another voice"], True),
        }

    length = min(jaw.shape[1], len(own_energy), len(partner_energy))

    def same_instant(energy: np.ndarray) -> float:
        return round(float(np.mean([np.corrcoef(one[:length], energy[:length])[0, 1] for one in jaw])), 3)

    best, lag = best_offset([jaw.mean(axis=0)], [own_energy])
    return {
        "seeds": seeds,
        "lips": {
            "own": same_instant(own_energy),
            "partner": same_instant(partner_energy),
            "own_mean_of_seeds_best": None if best is None else round(best, 3),
            "own_best_offset_ms": None if lag is None else 40 * lag,
        },
        "head_while_only_the_partner_speaks": {
            "seconds": round(0.04 * int(listening.sum()), 1),
            "sd_deg": round(float(heads["as it was"][:, listening].std(axis=1).mean()), 3) if listening.any() else None,
            "speed_deg_s": distances(speeds),
            "pose_deg": distances(heads),
        },
    }


def _only_partner(heard: HeardConversation) -> np.ndarray:
    own, partner = heard.speaking
    return partner & ~own


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", default="default", help="policy folder: a name under models/ or a path")
    parser.add_argument("--self", dest="own", required=True, metavar="WAV", help="voice that the head speaks with")
    parser.add_argument("--partner", required=True, metavar="WAV", help="voice of the person in front of the head")
    parser.add_argument("--other", metavar="WAV", help="a stranger's voice; the demo's partner when not given")
    parser.add_argument("--seeds", type=int, default=8, help="seeds averaged over")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--json", type=Path, help="write the figures here")


def run(args: argparse.Namespace) -> int:
    if args.seeds < 1:
        raise TimarError(f"--seeds is {args.seeds}; at least 1 is needed")
    if args.threads < 1:
        raise TimarError(f"--threads is {args.threads}; at least 1 is needed")
    torch.set_num_threads(args.threads)
    policy = load_policy(args.policy)
    for path in filter(None, (args.own, args.partner, args.other)):
        duration_s(Path(path))  # refuses what is too short
    voices = [read_voice(path) for path in (args.own, args.partner, args.other or share_path("demo", "partner.ogg"))]
    figures = check_hearing(policy, *voices, seeds=args.seeds, progress=True)
    text = json.dumps(plain(figures), indent=2)
    print(text)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(text + "\n", encoding="utf-8")
    return 0
