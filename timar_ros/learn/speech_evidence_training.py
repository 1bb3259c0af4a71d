"""Trains the network of `timar_ros.stream.speech_evidence`.

    python -m timar_ros.learn.speech_evidence_training DATA [DATA ...] --features DIR [--start FILE] [--out FILE]

DATA: folders of generated dialogues (`timar generate`), from which equally much is learned. Both
voices are heard as they are, in babble of the other dialogues' voices and in music, with the room,
the other party's leakage, the channel's colour and its level varied, so that the network learns what
stands out, not what a synthesiser sounds like. What is computed from that is kept in DIR, and used again.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import fftconvolve

from timar_ros.errors import TimarError
from timar_ros.learn.turn_evaluation import Intervals, babble, music, speech_level, with_noise
from timar_ros.rates import SAMPLE_RATE
from timar_ros.stream import speech_evidence
from timar_ros.stream.floor import joined
from timar_ros.stream.speech_evidence import (
    CHUNK_S,
    FEATURES,
    NOW_DELAY_CHUNKS,
    SURE_DELAY_CHUNKS,
    TOLD_END_S,
    TOLD_START_S,
    SpeechFeatures,
)
from timar_ros.stream.voice_activity import CHUNK_SAMPLES

UNITS = (160, 192, 128)
"""Of the inputs' layer, of the layer that hears one party, and of the one that knows both."""
BATCH, STRETCH_CHUNKS = 20, 400
BLOCK = 8
PEAK_LEARNING_RATE, WARM_UP = 4e-3, 0.2
PEAK_LEARNING_RATE_FROM_START, WARM_UP_FROM_START = 2e-3, 0.06
CHANGE_CHUNKS, CHANGE_WEIGHT = 6, 2.0
"""Chunks so near a change of speech weigh so much: a turn begins or ends with it."""
NOW_WEIGHT = 0.5
"""What is judged at once is but a first sign."""
TOLD_LATE_S, START_LATE_WEIGHT, END_LATE_WEIGHT = 0.3, 10.0, 3.0
"""What is told weighs so much, so shortly after it should have changed: a start is more urgent."""
BABBLERS, SNR_DB = (3, 17), (7.0, 10.0, 10.0, 10.0, 14.0, 20.0)
VARIANTS = ("clean", "babble", "babble", "music", "babble", "babble")
VARIANT_SHARES = (0.13, 0.18, 0.18, 0.15, 0.18, 0.18)
"""How often each of them is learned from: babble has most to teach."""
DROPOUT = (0.1, 0.1)
"""Of the features and of what the first layer says."""

Voice = tuple[np.ndarray, Intervals]
Example = tuple[np.ndarray, tuple[Intervals, Intervals]]
"""A dialogue as heard: features float16 [2, chunks, FEATURES], intervals of both parties' speech in s."""


def load_dialogues(folder: Path) -> list[tuple[Voice, Voice]]:
    """Both voices (float32 [n] 16 kHz, intervals of speech in s) of each finished dialogue."""
    dialogues = []
    for second in sorted(folder.glob("*_speaker2.npz")):
        name = second.name.removesuffix("_speaker2.npz")
        dialogues.append(tuple(_load_voice(folder / f"{name}_speaker{k}") for k in (1, 2)))
    if len(dialogues) < 2:
        raise TimarError(
            f"{folder} holds {len(dialogues)} dialogues; expected at least 2 as NAME_speaker1.wav, "
            "NAME_speaker1.npz, NAME_speaker2.wav, NAME_speaker2.npz; make them with: timar generate"
        )
    return dialogues


def _load_voice(path: Path) -> Voice:
    samples, rate = soundfile.read(path.with_suffix(".wav"), dtype="float32")
    if rate != SAMPLE_RATE:
        raise TimarError(f"{path}.wav has {rate} Hz; expected {SAMPLE_RATE} Hz mono")
    with np.load(path.with_suffix(".npz")) as file:
        return samples, file["speech"]


def heard(dialogues: list[tuple[Voice, Voice]], number: int, party: int, kind: str, seed: int) -> np.ndarray:
    """One voice as a microphone may hear it: room, leakage, noise, colour, level; float32 [n]."""
    random = np.random.default_rng([seed, number, party])
    samples, speech = dialogues[number][party]
    level = speech_level(samples, speech)
    sound = samples.astype(np.float64)
    if random.random() < 0.3:
        tail = int(random.uniform(0.1, 0.35) * SAMPLE_RATE)
        room = random.standard_normal(tail) * 10.0 ** (-3.0 * np.arange(tail) / tail)
        room *= 10.0 ** (random.uniform(-14.0, -6.0) / 20.0) / np.sqrt(np.sum(room**2))
        room[0] = 1.0
        sound = fftconvolve(sound, room)[: len(samples)]
    if random.random() < 0.5:
        other, other_speech = dialogues[number][1 - party]
        leak = level / speech_level(other, other_speech) * 10.0 ** (random.uniform(-40, -16) / 20)
        count = min(len(sound), len(other))
        sound[:count] += leak * other[:count]
    if random.random() < 0.6:
        hiss = random.standard_normal(len(sound))
        hiss[1:] += random.uniform(0.0, 0.9) * hiss[:-1]
        sound += level * 10.0 ** (random.uniform(-60.0, -25.0) / 20.0) * hiss
    if kind != "clean":
        if kind == "babble":
            others = [v for i, d in enumerate(dialogues) if i != number for v in d]
            count = min(int(random.integers(*BABBLERS)), len(others))
            chosen = [others[i] for i in random.permutation(len(others))[:count]]
            noise = babble(chosen, len(samples), int(random.integers(2**31)))
        else:
            noise = music(len(samples), int(random.integers(2**31)))
        sound = with_noise(sound, speech, noise, random.choice(SNR_DB))
    sound = np.append(sound[:1], sound[1:] + random.uniform(-0.4, 0.4) * sound[:-1])
    return (sound * 10.0 ** (random.uniform(-18.0, 3.0) / 20.0)).astype(np.float32)


def examples_of(
    dialogues: list[tuple[Voice, Voice]], numbers: Iterable[int], variants: Sequence[str] = VARIANTS
) -> list[Example]:
    """An example of each of the dialogues `numbers` in each variant; all are computed side by side."""
    heard_as = [(number, seed, kind) for number in numbers for seed, kind in enumerate(variants)]
    features = _features([heard(dialogues, n, party, kind, seed) for n, seed, kind in heard_as for party in (0, 1)])
    return [
        (np.stack(features[2 * place : 2 * place + 2]), _speech_of(dialogues[number]))
        for place, (number, _, _) in enumerate(heard_as)
    ]


def _speech_of(dialogue: tuple[Voice, Voice]) -> tuple[Intervals, Intervals]:
    return dialogue[0][1], dialogue[1][1]


def _features(sounds: list[np.ndarray]) -> list[np.ndarray]:
    """Features float16 [chunks, FEATURES] of each sound."""
    chunks = [len(sound) // CHUNK_SAMPLES for sound in sounds]
    padded = np.zeros((len(sounds), max(chunks) * CHUNK_SAMPLES), dtype=np.float32)
    for row, sound, count in zip(padded, sounds, chunks, strict=True):
        row[: count * CHUNK_SAMPLES] = sound[: count * CHUNK_SAMPLES]
    extract = SpeechFeatures(len(sounds))
    features = np.zeros((len(sounds), max(chunks), FEATURES), dtype=np.float16)
    for number in range(max(chunks)):
        end = (number + 1) * CHUNK_SAMPLES
        features[:, number] = extract(end, padded[:, end - CHUNK_SAMPLES : end])
    return [part[:count] for part, count in zip(features, chunks, strict=True)]


def prepare(dialogues: list[tuple[Voice, Voice]], folder: Path) -> list[Example]:
    """Examples of the dialogues; kept in `folder` in blocks of 8, and read from there."""
    folder.mkdir(parents=True, exist_ok=True)
    examples: list[Example] = []
    made_of = _fingerprint(dialogues)
    for first in range(0, len(dialogues), BLOCK):
        numbers = range(first, min(first + BLOCK, len(dialogues)))
        path = folder / f"{first:04d}.npz"
        if not _is_of(path, made_of):
            features = [each for each, _ in examples_of(dialogues, numbers)]
            lengths, joined = [each.shape[1] for each in features], np.concatenate(features, axis=1)
            with path.with_suffix(".part").open("wb") as file:
                np.savez(file, n=lengths, f=joined, made_of=made_of)
            path.with_suffix(".part").rename(path)
            print(f"{path} is done", flush=True)
        with np.load(path) as file:
            features = np.split(file["f"], np.cumsum(file["n"])[:-1], axis=1)
        speech = [_speech_of(dialogues[number]) for number in numbers for _ in VARIANTS]
        examples += zip(features, speech, strict=True)
    return examples


def _fingerprint(dialogues: list[tuple[Voice, Voice]]) -> str:
    """Tells these dialogues from others; all speak in the babble of each."""
    told = hashlib.blake2b(digest_size=16)
    for samples, speech in (voice for dialogue in dialogues for voice in dialogue):
        told.update(np.ascontiguousarray(samples).data)
        told.update(np.asarray(speech, np.float64).tobytes())
    return told.hexdigest()


def _is_of(block: Path, made_of: str) -> bool:
    """Whether a block of features is there, and of these dialogues."""
    if not block.exists():
        return False
    with np.load(block) as file:
        return "made_of" in file.files and str(file["made_of"]) == made_of


def targets_of(
    speech: Intervals, chunks: int, start_late_weight: float = START_LATE_WEIGHT
) -> tuple[np.ndarray, np.ndarray]:
    """What the network is to say of a party, and how much each of it weighs: float32 [chunks, 3] both."""
    shares = _shares_of_speech(speech, chunks)
    near_change = np.ones(chunks, dtype=np.float32)
    for change in np.flatnonzero(np.diff(shares >= 0.5)) + 1:
        near_change[max(change - CHANGE_CHUNKS, 0) : change + CHANGE_CHUNKS] = CHANGE_WEIGHT
    told, told_weight = _told(speech, chunks, start_late_weight)
    wanted = [_delayed(shares, NOW_DELAY_CHUNKS), _delayed(shares, SURE_DELAY_CHUNKS), told]
    weights = [
        NOW_WEIGHT * _delayed(near_change, NOW_DELAY_CHUNKS),
        _delayed(near_change, SURE_DELAY_CHUNKS),
        told_weight,
    ]
    return np.stack(wanted, axis=1), np.stack(weights, axis=1)


def _told(speech: Intervals, chunks: int, start_late_weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Whether a party is to be told to speak when a chunk ends, and its weight: 0 while either will do."""
    ends_s = CHUNK_S * np.arange(1, chunks + 1)
    told, weight = np.zeros(chunks, dtype=np.float32), np.ones(chunks, dtype=np.float32)
    talks = joined(speech)
    following = [*(start for start, _ in talks), np.inf][1:]

    def within(after: float, before: float) -> np.ndarray:
        return (ends_s >= after) & (ends_s < before)

    for (start, end), next_start in zip(talks, following, strict=True):
        on, off = start + TOLD_START_S, end + TOLD_END_S
        told[within(on, off)] = 1.0
        weight[within(start, on) | within(end, min(off, next_start + TOLD_START_S))] = 0.0
        weight[within(on, min(on + TOLD_LATE_S, end))] = start_late_weight
        weight[within(off, min(off + TOLD_LATE_S, next_start))] = END_LATE_WEIGHT
    return told, weight


def _shares_of_speech(intervals: Intervals, chunks: int) -> np.ndarray:
    speaking = np.zeros(chunks * CHUNK_SAMPLES, dtype=np.float32)
    for start, end in intervals:
        speaking[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)] = 1.0
    return speaking.reshape(-1, CHUNK_SAMPLES).mean(axis=1)


def _delayed(values: np.ndarray, chunks: int) -> np.ndarray:
    return np.concatenate([np.repeat(values[:1], chunks), values[:-chunks]])


def train(
    folders: Sequence[Sequence[Example]],
    steps: int = 5000,
    seed: int = 0,
    units: Sequence[int] = UNITS,
    start: dict[str, np.ndarray] | None = None,
    start_late_weight: float = START_LATE_WEIGHT,
) -> dict[str, np.ndarray]:
    """Weights of `EvidenceNetwork`, by cross entropy on stretches of the examples.

    folders: as `prepare` gives each of them, in the order of `VARIANTS`; all weigh the same.
    start: weights of as many units to go on from, at a lower learning rate.
    A third of the stretches begin where the recording begins, as a conversation does. In a fifth the
    other party comes from another dialogue or is not heard at all: who talks must not follow from the
    other's turns alone.
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    network = _network(units)
    peak, warm_up = PEAK_LEARNING_RATE, WARM_UP
    if start is not None:
        network.take(start)
        peak, warm_up = PEAK_LEARNING_RATE_FROM_START, WARM_UP_FROM_START
    optimiser = torch.optim.AdamW(network.parameters(), lr=peak, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=steps, pct_start=warm_up)
    until = np.cumsum(np.concatenate([np.resize(VARIANT_SHARES, len(of_one)) / len(of_one) for of_one in folders]))
    examples = [*(example for of_one in folders for example in of_one), _silence(2 * STRETCH_CHUNKS)]
    silence = len(examples) - 1
    targets = [
        [targets_of(speech, features.shape[1], start_late_weight) for speech in of_both]
        for features, of_both in examples
    ]

    def draw_stretch(party: int, silent: float = 0.0) -> tuple[int, int, slice]:
        heard_one = int(np.searchsorted(until, until[-1] * random.random(), side="right"))
        number = silence if random.random() < silent else heard_one
        last = examples[number][0].shape[1] - STRETCH_CHUNKS
        start = 0 if random.random() < 0.3 else int(random.integers(last))
        return number, party, slice(start, start + STRETCH_CHUNKS)

    losses = []
    for step in range(steps):
        stretches = []
        for _ in range(BATCH):
            number, party, part = draw_stretch(int(random.integers(2)))
            other = draw_stretch(1 - party, silent=0.25) if random.random() < 0.2 else (number, 1 - party, part)
            stretches += [(number, party, part), other]
        inputs = np.stack([examples[n][0][party, part] for n, party, part in stretches]).astype(np.float32)
        wanted, weight = (
            torch.from_numpy(np.stack([targets[n][party][which][part] for n, party, part in stretches]))
            for which in (0, 1)
        )
        loss = binary_cross_entropy_with_logits(network(torch.from_numpy(inputs)), wanted, weight)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}/{steps}: loss {np.mean(losses[-100:]):.4f}", flush=True)
    return network.eval().weights()


def _silence(chunks: int) -> Example:
    """Two channels in which nothing is heard."""
    features = _features([np.zeros(chunks * CHUNK_SAMPLES, dtype=np.float32)] * 2)
    return np.stack(features), ((), ())


def _network(units: Sequence[int]):
    """`EvidenceNetwork` in torch, of so many units: features [2 * pairs, chunks, FEATURES], the parties of a pair
    one after the other, to log odds [2 * pairs, chunks, 3]."""
    import torch

    inputs, alone, both = units

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input = torch.nn.Linear(FEATURES, inputs)
            self.alone = torch.nn.GRU(inputs, alone, batch_first=True)
            self.both = torch.nn.GRU(2 * alone, both, batch_first=True)
            self.out = torch.nn.Linear(both, 3)
            self.dropouts = torch.nn.ModuleList(torch.nn.Dropout(share) for share in DROPOUT)

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            own = self.alone(torch.relu(self.input(self.dropouts[0](features))))[0]
            other = own.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
            return self.out(self.both(self.dropouts[1](torch.cat([own, other], dim=2)))[0])

        def weights(self) -> dict[str, np.ndarray]:
            return {name: tensor.detach().numpy().T.copy() for name, tensor in self._by_name().items()}

        def take(self, weights: dict[str, np.ndarray]) -> None:
            with torch.no_grad():
                for name, tensor in self._by_name().items():
                    given = torch.from_numpy(weights[name].T)
                    if given.shape != tensor.shape:
                        raise TimarError(
                            f"--start: {name} is {[*given.shape]}, expected {[*tensor.shape]}; "
                            "give --units as those weights were made with"
                        )
                    tensor.copy_(given)

        def _by_name(self) -> dict[str, torch.Tensor]:
            """Parameters as `EvidenceNetwork` names them, which multiplies from the other side."""
            tensors = {"input_weight": self.input.weight, "input_bias": self.input.bias}
            for name, unit in (("alone", self.alone), ("both", self.both)):
                tensors |= {
                    f"{name}_given_weight": unit.weight_ih_l0,
                    f"{name}_given_bias": unit.bias_ih_l0,
                    f"{name}_state_weight": unit.weight_hh_l0,
                    f"{name}_state_bias": unit.bias_hh_l0,
                }
            return tensors | {"out_weight": self.out.weight, "out_bias": self.out.bias}

    return Network()


def main() -> None:
    """Train on folders and write the weights where the running code reads them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="+", help="generated dialogues; all of a folder speak in its babble")
    parser.add_argument("--features", type=Path, required=True, help="a folder for features")
    parser.add_argument("--steps", type=int, default=5000, help="of 20 stretches of 13 s (5000)")
    parser.add_argument("--units", type=int, nargs=3, default=UNITS, help="of the three layers (160 192 128)")
    parser.add_argument("--start", type=Path, help="go on from the weights in this file")
    weight = "of a start of speech that is told late; more of it, and silence is told as speech more often (10)"
    parser.add_argument("--start-late-weight", type=float, default=START_LATE_WEIGHT, help=weight)
    default = Path(speech_evidence.__file__).with_name(speech_evidence.WEIGHTS_FILE)
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args()
    folders = [prepare(load_dialogues(folder), arguments.features / folder.name) for folder in arguments.data]
    start = None
    if arguments.start is not None:
        with np.load(arguments.start) as file:
            start = dict(file)
    weights = train(
        folders,
        arguments.steps,
        units=arguments.units,
        start=start,
        start_late_weight=arguments.start_late_weight,
    )
    np.savez(arguments.out, **weights)


if __name__ == "__main__":
    main()
