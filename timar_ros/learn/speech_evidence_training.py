"""Trains the network of `timar_ros.stream.speech_evidence`.

    python -m timar_ros.learn.speech_evidence_training DATA FEATURES [--dialogues 128] [--out FILE]
        [--units 96 128 96] [--start FILE [--keep 0.25]]

DATA: a folder of generated dialogues (`timar generate`). Both voices are heard as they are, in babble
of the other dialogues' voices and in music, with the room, the other party's leakage, the channel's
colour and its level varied, so that the network learns what stands out, not what flite sounds like.
FEATURES: a folder for what is computed from that; what it holds already is used again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import fftconvolve

from timar_ros.errors import TimarError
from timar_ros.learn.turn_evaluation import Intervals, babble, music, speech_level, with_noise
from timar_ros.rates import SAMPLE_RATE
from timar_ros.stream import speech_evidence
from timar_ros.stream.speech_evidence import (
    FEATURES,
    NOW_DELAY_CHUNKS,
    SURE_DELAY_CHUNKS,
    SpeechFeatures,
)
from timar_ros.stream.voice_activity import CHUNK_SAMPLES

UNITS = (96, 128, 96)
"""Of the inputs' layer, of the layer that hears one party, and of the one that knows both."""
BATCH, STRETCH_CHUNKS = 20, 400
BLOCK = 8
PEAK_LEARNING_RATE, WARM_UP = 4e-3, 0.3
PEAK_LEARNING_RATE_FROM_START, WARM_UP_FROM_START = 2.5e-3, 0.06
CHANGE_CHUNKS, CHANGE_WEIGHT = 6, 2.0
"""Chunks so near a change of speech weigh so much: a turn begins or ends with it."""
BABBLERS, SNR_DB = (3, 17), (7.0, 10.0, 10.0, 10.0, 14.0, 20.0)
VARIANTS = ("clean", "babble", "babble", "music")
DROPOUT = (0.2, 0.2)
"""Of the features and of what the first layer says. With 0 and 0.1 the babble of the examples is learned by heart."""
VARIANT_SHARES = (0.14, 0.33, 0.33, 0.2)
"""How often each of them is learned from: babble has most to teach."""

Voice = tuple[np.ndarray, Intervals]
Example = tuple[np.ndarray, np.ndarray]
"""A dialogue as heard: features float16 [2, chunks, FEATURES], shares of speech float32 [2, chunks]."""


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


def features_and_truth(
    dialogues: list[tuple[Voice, Voice]], numbers: Iterable[int], variants: Sequence[str] = VARIANTS
) -> list[Example]:
    """An example of each of the dialogues `numbers` in each variant; all are computed side by side."""
    sounds, speech = [], []
    for number in numbers:
        for seed, kind in enumerate(variants):
            for party in (0, 1):
                sounds.append(heard(dialogues, number, party, kind, seed))
                speech.append(dialogues[number][party][1])
    features = _features(sounds)
    truths = [_shares_of_speech(intervals, len(part)) for intervals, part in zip(speech, features, strict=True)]
    return [
        (np.stack(features[first : first + 2]), np.stack(truths[first : first + 2]))
        for first in range(0, len(features), 2)
    ]


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


def _silence(chunks: int) -> Example:
    """Two channels in which nothing is heard."""
    features = _features([np.zeros(chunks * CHUNK_SAMPLES, dtype=np.float32)] * 2)
    return np.stack(features), np.zeros((2, chunks), dtype=np.float32)


def _shares_of_speech(intervals: Intervals, chunks: int) -> np.ndarray:
    speaking = np.zeros(chunks * CHUNK_SAMPLES, dtype=np.float32)
    for start, end in intervals:
        speaking[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)] = 1.0
    return speaking.reshape(-1, CHUNK_SAMPLES).mean(axis=1)


def prepare(dialogues: list[tuple[Voice, Voice]], most: int, folder: Path) -> list[Example]:
    """Examples of the first `most` dialogues, to the end of a block of 8; kept in `folder`, and read from there."""
    folder.mkdir(parents=True, exist_ok=True)
    examples: list[Example] = []
    for first in range(0, min(most, len(dialogues)), BLOCK):
        path = folder / f"{first:04d}.npz"
        if not path.exists():
            block = features_and_truth(dialogues, range(first, min(first + BLOCK, len(dialogues))))
            features, truths = zip(*((f[party], t[party]) for f, t in block for party in (0, 1)), strict=True)
            with path.with_suffix(".part").open("wb") as file:
                np.savez(file, n=[len(t) for t in truths], f=np.concatenate(features), t=np.concatenate(truths))
            path.with_suffix(".part").rename(path)
            print(f"{path} is done", flush=True)
        with np.load(path) as file:
            ends = np.cumsum(file["n"])[:-1]
            features, truths = np.split(file["f"], ends), np.split(file["t"], ends)
        for place in range(0, len(features), 2):
            examples.append((np.stack(features[place : place + 2]), np.stack(truths[place : place + 2])))
    return examples


def train(
    examples: list[Example],
    steps: int = 1500,
    seed: int = 0,
    units: Sequence[int] = UNITS,
    start: dict[str, np.ndarray] | None = None,
    dropout: Sequence[float] = DROPOUT,
    learning_rate: float | None = None,
) -> dict[str, np.ndarray]:
    """Weights of `EvidenceNetwork`, by cross entropy on stretches of the examples.

    examples: as `prepare` gives them, in the order of `VARIANTS`.
    start: weights to go on from, of as many units or fewer; those added say nothing at first.
    dropout: of the features and of what the first layer says.
    learning_rate: at its peak; None: higher without a start than with one.
    A third of the stretches begin where the recording begins, as a conversation does. In a fifth the
    other party comes from another dialogue or is not heard at all: who talks must not follow from the
    other's turns alone.
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    network = _network(units, dropout)
    peak, warm_up = PEAK_LEARNING_RATE, WARM_UP
    if start is not None:
        _take_over(network, start)
        peak, warm_up = PEAK_LEARNING_RATE_FROM_START, WARM_UP_FROM_START
    peak = learning_rate or peak
    optimiser = torch.optim.AdamW(network.parameters(), lr=peak, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=steps, pct_start=warm_up)
    shares = np.append(np.resize(VARIANT_SHARES, len(examples)), 0.0)
    shares /= shares.sum()
    examples = [*examples, _silence(2 * STRETCH_CHUNKS)]
    targets, weights = (
        [
            np.stack([_delayed(values, NOW_DELAY_CHUNKS), _delayed(values, SURE_DELAY_CHUNKS)], axis=2)
            for values in of_all
        ]
        for of_all in ([truth for _, truth in examples], [_change_weights(truth) for _, truth in examples])
    )

    def draw_stretch(party: int, silent: float = 0.0) -> tuple[int, int, slice]:
        number = len(examples) - 1 if random.random() < silent else int(random.choice(len(examples), p=shares))
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
            torch.from_numpy(np.stack([values[n][party, part] for n, party, part in stretches]))
            for values in (targets, weights)
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


def _network(units: Sequence[int], dropout: Sequence[float]):
    """`EvidenceNetwork` in torch, of so many units: features [2 * pairs, chunks, FEATURES], the parties of a pair
    one after the other, to log odds [2 * pairs, chunks, 2]."""
    import torch

    inputs, alone, both = units

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input = torch.nn.Linear(FEATURES, inputs)
            self.alone = torch.nn.GRU(inputs, alone, batch_first=True)
            self.both = torch.nn.GRU(2 * alone, both, batch_first=True)
            self.out = torch.nn.Linear(both, 2)
            self.dropouts = torch.nn.ModuleList(torch.nn.Dropout(share) for share in dropout)

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            own = self.alone(torch.relu(self.input(self.dropouts[0](features))))[0]
            other = own.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
            return self.out(self.both(self.dropouts[1](torch.cat([own, other], dim=2)))[0])

        def weights(self) -> dict[str, np.ndarray]:
            tensors = {"input_weight": self.input.weight.T, "input_bias": self.input.bias}
            for name, unit in (("alone", self.alone), ("both", self.both)):
                tensors |= {
                    f"{name}_given_weight": unit.weight_ih_l0.T,
                    f"{name}_given_bias": unit.bias_ih_l0,
                    f"{name}_state_weight": unit.weight_hh_l0.T,
                    f"{name}_state_bias": unit.bias_hh_l0,
                }
            tensors |= {"out_weight": self.out.weight.T, "out_bias": self.out.bias}
            return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}

    return Network()


def _take_over(network, start: dict[str, np.ndarray]) -> None:
    """Set the first units of each layer to those of `start`; the others reach neither them nor what is said."""
    import torch

    old_inputs, old_alone, old_both = (
        len(start[name]) for name in ("input_bias", "alone_state_weight", "both_state_weight")
    )
    alone = network.alone.hidden_size
    heard = {"alone": np.arange(old_inputs), "both": np.r_[:old_alone, alone : alone + old_alone]}
    with torch.no_grad():
        network.input.weight[:old_inputs] = torch.from_numpy(start["input_weight"].T)
        network.input.bias[:old_inputs] = torch.from_numpy(start["input_bias"])
        for name, old in (("alone", old_alone), ("both", old_both)):
            unit = getattr(network, name)
            rows = np.concatenate([np.arange(old) + gate * unit.hidden_size for gate in range(3)])
            for part, weight, bias, columns in (
                ("given", unit.weight_ih_l0, unit.bias_ih_l0, heard[name]),
                ("state", unit.weight_hh_l0, unit.bias_hh_l0, np.arange(old)),
            ):
                weight[rows] = 0.0
                weight[np.ix_(rows, columns)] = torch.from_numpy(start[f"{name}_{part}_weight"].T)
                bias[rows] = torch.from_numpy(start[f"{name}_{part}_bias"])
        network.out.weight.zero_()
        network.out.weight[:, :old_both] = torch.from_numpy(start["out_weight"].T)
        network.out.bias.copy_(torch.from_numpy(start["out_bias"]))


def _delayed(values: np.ndarray, chunks: int) -> np.ndarray:
    return np.concatenate([np.repeat(values[:, :1], chunks, axis=1), values[:, :-chunks]], axis=1)


def _change_weights(truth: np.ndarray) -> np.ndarray:
    """Of each chunk, float32 [2, chunks]: `CHANGE_WEIGHT` near a change of speech, 1 elsewhere."""
    weights = np.ones_like(truth)
    for row, speaking in zip(weights, truth >= 0.5, strict=True):
        for change in np.flatnonzero(speaking[1:] != speaking[:-1]) + 1:
            row[max(change - CHANGE_CHUNKS, 0) : change + CHANGE_CHUNKS] = CHANGE_WEIGHT
    return weights


def main() -> None:
    """Train on a folder and write the weights where the running code reads them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="generated dialogues; all of them speak in the babble")
    parser.add_argument("features", type=Path, help="a folder for features")
    parser.add_argument("--dialogues", type=int, default=128, help="train on so many of them (128)")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--units", type=int, nargs=3, default=UNITS, help="of the three layers (96 128 96)")
    parser.add_argument("--start", type=Path, help="go on from the weights in this file, of as many units or fewer")
    default = Path(speech_evidence.__file__).with_name(speech_evidence.WEIGHTS_FILE)
    parser.add_argument("--keep", type=float, default=0.0, help="the start's share in the mean that is written (0)")
    parser.add_argument("--dropout", type=float, nargs=2, default=DROPOUT, help="of features, of the first layer")
    parser.add_argument("--learning-rate", type=float, help="at its peak")
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args()
    examples = prepare(load_dialogues(arguments.data), arguments.dialogues, arguments.features)
    start = None
    if arguments.start is not None:
        with np.load(arguments.start) as file:
            start = dict(file)
    weights = train(
        examples,
        arguments.steps,
        units=arguments.units,
        start=start,
        dropout=arguments.dropout,
        learning_rate=arguments.learning_rate,
    )
    if start is not None and arguments.keep:
        # Halfway between two networks of which one grew from the other less is learned by heart.
        weights = {name: (1.0 - arguments.keep) * new + arguments.keep * start[name] for name, new in weights.items()}
    np.savez(arguments.out, **weights)


if __name__ == "__main__":
    main()
