"""Trains the small network of `timar_ros.stream.speech_evidence`.

    python -m timar_ros.learn.speech_evidence_training DATA [--out FILE]

DATA: a folder of generated dialogues (`timar generate`). Each voice is heard as is, in babble of
the other dialogues' voices and in music, with the room, the other party's leakage, the channel's
colour and its level varied, so that the network learns what stands out, not what flite sounds like.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from timar_ros.errors import TimarError
from timar_ros.learn.turn_evaluation import Intervals, babble, music, speech_level, with_noise
from timar_ros.rates import SAMPLE_RATE
from timar_ros.stream import speech_evidence
from timar_ros.stream.speech_evidence import (
    CHUNKS_STACKED,
    FEATURES,
    NOW_DELAY_CHUNKS,
    SURE_DELAY_CHUNKS,
    SpeechFeatures,
)
from timar_ros.stream.voice_activity import CHUNK_SAMPLES, Chunks

INPUTS, STATE = 16, 48
BATCH, STRETCH_CHUNKS = 24, 400
PEAK_LEARNING_RATE = 4e-3
VARIANTS = ("clean", "babble", "babble", "music")

Voice = tuple[np.ndarray, Intervals]


def load_dialogues(folder: Path, most: int) -> list[tuple[Voice, Voice]]:
    """Both voices (float32 [n] 16 kHz, intervals of speech in s) of each finished dialogue."""
    dialogues = []
    for second in sorted(folder.glob("*_speaker2.npz"))[:most]:
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
        size = len(sound) + tail
        sound = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(room, size), size)
        sound = sound[: len(samples)]
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
            count = min(int(random.integers(4, 13)), len(others))
            chosen = [others[i] for i in random.permutation(len(others))[:count]]
            noise = babble(chosen, len(samples), int(random.integers(2**31)))
        else:
            noise = music(len(samples), int(random.integers(2**31)))
        sound = with_noise(sound, speech, noise, random.choice([7.0, 10.0, 10.0, 14.0, 20.0]))
    sound = np.append(sound[:1], sound[1:] + random.uniform(-0.4, 0.4) * sound[:-1])
    return (sound * 10.0 ** (random.uniform(-18.0, 3.0) / 20.0)).astype(np.float32)


def features_and_truth(
    dialogues: list[tuple[Voice, Voice]], job: tuple[int, int, str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Features [chunks, FEATURES] of one voice as heard, and its share of speech [chunks]."""
    number, party, kind, seed = job
    extract = SpeechFeatures()
    sound = heard(dialogues, number, party, kind, seed)
    features = np.stack([extract(end, chunk) for end, chunk in Chunks()(sound)])
    speaking = np.zeros(len(features) * CHUNK_SAMPLES, dtype=np.float32)
    for start, end in dialogues[number][party][1]:
        speaking[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)] = 1.0
    return features, speaking.reshape(-1, CHUNK_SAMPLES).mean(axis=1)


def train(examples: list[tuple[np.ndarray, np.ndarray]], steps: int = 3000, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of `RecurrentNetwork`, by cross entropy on stretches of the examples.

    A third of the stretches begin where the recording begins, as a conversation does.
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    network = _network()
    optimiser = torch.optim.AdamW(network.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_LEARNING_RATE, total_steps=steps)
    targets = [
        np.stack([_delayed(truth, NOW_DELAY_CHUNKS), _delayed(truth, SURE_DELAY_CHUNKS)], axis=1)
        for _, truth in examples
    ]
    losses = []
    for step in range(steps):
        inputs, wanted = [], []
        for number in random.integers(len(examples), size=BATCH):
            features = examples[number][0]
            last = len(features) - STRETCH_CHUNKS
            start = 0 if random.random() < 0.35 else int(random.integers(last))
            inputs.append(features[start : start + STRETCH_CHUNKS])
            wanted.append(targets[number][start : start + STRETCH_CHUNKS])
        log_odds = network(torch.from_numpy(np.stack(inputs)))
        loss = binary_cross_entropy_with_logits(log_odds, torch.from_numpy(np.stack(wanted)))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % 300 == 0:
            print(f"step {step + 1}/{steps}: loss {np.mean(losses[-300:]):.4f}", flush=True)
    return network.weights()


def _network():
    """`RecurrentNetwork` as a torch module, features [batch, chunks, FEATURES] to log odds [batch, chunks, 2]."""
    import torch

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input = torch.nn.Linear(CHUNKS_STACKED * FEATURES, INPUTS)
            self.recurrent = torch.nn.GRU(INPUTS, STATE, batch_first=True)
            self.out = torch.nn.Linear(STATE, 2)

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            before = features[:, :1].expand(-1, CHUNKS_STACKED - 1, -1)
            padded = torch.cat([before, features], dim=1)
            count = features.shape[1]
            stacked = torch.cat([padded[:, i : i + count] for i in range(CHUNKS_STACKED)], dim=2)
            return self.out(self.recurrent(torch.relu(self.input(stacked)))[0])

        def weights(self) -> dict[str, np.ndarray]:
            gru = self.recurrent
            tensors = {
                "input_weight": self.input.weight.T,
                "input_bias": self.input.bias,
                "given_weight": gru.weight_ih_l0.T,
                "given_bias": gru.bias_ih_l0,
                "state_weight": gru.weight_hh_l0.T,
                "state_bias": gru.bias_hh_l0,
                "out_weight": self.out.weight.T,
                "out_bias": self.out.bias,
            }
            return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}

    return Network()


def _delayed(truth: np.ndarray, chunks: int) -> np.ndarray:
    return np.concatenate([np.repeat(truth[:1], chunks), truth[:-chunks]])


def main() -> None:
    """Train on a folder and write the weights where the running code reads them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--dialogues", type=int, default=60)
    parser.add_argument("--processes", type=int, default=2)
    default = Path(speech_evidence.__file__).with_name(speech_evidence.WEIGHTS_FILE)
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args()
    dialogues = load_dialogues(arguments.data, arguments.dialogues)
    jobs = [
        (number, party, kind, seed)
        for number in range(len(dialogues))
        for party in (0, 1)
        for seed, kind in enumerate(VARIANTS)
    ]
    with ProcessPoolExecutor(arguments.processes) as pool:
        examples = list(pool.map(partial(features_and_truth, dialogues), jobs, chunksize=8))
    np.savez(arguments.out, **train(examples))


if __name__ == "__main__":
    main()
