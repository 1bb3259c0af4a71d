"""What a policy has to be better than: motion that hears nothing, or loudness alone, or that made the data.

A rival stands wherever a policy's name does (`timar evaluate --policy mine still noise`). Like a policy most know
people, those of all the conversations at hand, but not which of them they stand for; of a single conversation, its one.
The behaviour model knows the dialogue and its answers, and the person, too, unless a stranger takes the place.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from timar_ros.channels import CHANNELS, HEAD_CHANNELS
from timar_ros.dialogues.behaviour import move
from timar_ros.dialogues.dialogue import Dialogue
from timar_ros.dialogues.generate import make_dialogue
from timar_ros.dialogues.traits import draw_traits
from timar_ros.errors import TimarError
from timar_ros.motion.flame import JAW
from timar_ros.motion.track import ARKIT, FLAME, MotionTrack, load_motion
from timar_ros.rates import FRAME_RATE
from timar_ros.replay.behaviour_metrics import frame_energy
from timar_ros.replay.clips import Clip, ClipSource
from timar_ros.sound_files import read_voice
from timar_ros.stream.frames import SELF, Frame

STILL, NOISE, ENERGY_JAW, BEHAVIOUR, STRANGER = "still", "noise", "energy-jaw", "behaviour", "stranger"
RIVALS = {
    STILL: "a head that holds the mean of the true people's motion",
    NOISE: "noise with the mean, the spectrum and the channels' coherence of the true people's motion",
    ENERGY_JAW: "a still head whose jaw follows the log energy of the own voice, without delay",
    BEHAVIOUR: "of a generated dialogue: the behaviour model that made it, drawn anew",
    STRANGER: "the same with another person in that place, who says and answers the same",
}
MODELLED = (BEHAVIOUR, STRANGER)
SEEDED = (NOISE, *MODELLED)
FAINT = 1e-7
"""Added to the mean square of the voice; on a real recording its log follows the jaw best with so little."""
_JAW_OPEN = {ARKIT: CHANNELS.index("jawOpen"), FLAME: JAW.start}


@dataclass(frozen=True)
class People:
    """The true people of several conversations, of one kind of motion.

    Attributes:
        motion: [n, channels] of each.
        gain, offset: the jaw's opening as a line over the voice's log energy, by least squares over all of them.
    """

    motion: tuple[np.ndarray, ...]
    gain: float
    offset: float

    @property
    def mean(self) -> np.ndarray:
        """[channels]"""
        return np.mean([motion.mean(axis=0) for motion in self.motion], axis=0)


def rival_motion(
    name: str, clip: Clip, frames: Sequence[Frame], seed: int, sources: tuple[ClipSource, ...]
) -> MotionTrack:
    """What a rival does in a conversation; equal arguments give equal motion.

    Args:
        frames: of the clip, as a policy would hear them.
        sources: the conversations from whose true people it knows people.

    Raises:
        TimarError: there is no true motion to be like, or the dialogue cannot be generated again.
    """
    if clip.truth is None:
        raise TimarError(f"{clip.name}: the rival {name!r} is like the true person, and no true motion is known here")
    count = min(len(frames), len(clip.truth))
    if name in MODELLED:
        return _drawn_anew(name, clip, seed).cut(count)
    people = true_people(sources, clip.truth.kind)
    if name == NOISE:
        motion = _noise(people, count, np.random.default_rng([seed, zlib.crc32(clip.name.encode())]))
        if clip.truth.kind == ARKIT:
            motion[:, len(HEAD_CHANNELS) :] = motion[:, len(HEAD_CHANNELS) :].clip(0.0, 1.0)
        return MotionTrack(motion, clip.truth.kind)
    motion = np.tile(people.mean.astype(np.float32), (count, 1))
    if name == ENERGY_JAW:
        voice = np.concatenate([frame.own for frame in frames])
        opening = people.offset + people.gain * frame_energy(voice, FAINT)[:count]
        motion[:, _JAW_OPEN[clip.truth.kind]] = opening.clip(0.0, 1.0) if clip.truth.kind == ARKIT else opening
    return MotionTrack(motion, clip.truth.kind)


@lru_cache(maxsize=2)
def true_people(sources: tuple[ClipSource, ...], kind: str) -> People:
    """The true people of those conversations that have motion of this kind."""
    motion, openings, energies = [], [], []
    for source in sources:
        truth = load_motion(source.truth) if source.truth else None
        if truth is None or truth.kind != kind:
            continue
        motion.append(np.asarray(truth.values, np.float32))
        energy = frame_energy(_own_voice(source), FAINT)
        frames = min(len(energy), len(truth))
        energies.append(energy[:frames])
        openings.append(motion[-1][:frames, _JAW_OPEN[kind]])
    gain, offset = np.polyfit(np.concatenate(energies), np.concatenate(openings), 1)
    return People(tuple(motion), float(gain), float(offset))


def _own_voice(source: ClipSource) -> np.ndarray:
    if source.is_bag:
        return source.read().voice(SELF)
    return read_voice(source.own, 0 if source.partner is None else None)


def _noise(people: People, count: int, rng: np.random.Generator) -> np.ndarray:
    """float32 [count, channels]: everybody's motion with random phases, over the root of their number.

    All channels of a person get the same phases, so that they stay as coherent as they are (Prichard & Theiler 1994);
    such noise is periodic, so it can be made any length. The sum has the mean of the people's spectra.
    """
    total = np.zeros((count, people.motion[0].shape[1]))
    for motion in people.motion:
        spectrum = np.fft.rfft(motion - motion.mean(axis=0), axis=0)
        phases = np.exp(2j * np.pi * rng.random((len(spectrum), 1)))
        periodic = np.fft.irfft(spectrum * phases, len(motion), axis=0)
        total += np.resize(np.roll(periodic, rng.integers(len(motion)), axis=0), total.shape)
    return (people.mean + total / np.sqrt(len(people.motion))).astype(np.float32)


def _drawn_anew(name: str, clip: Clip, seed: int) -> MotionTrack:
    """The same dialogue and the same answers, moved by the behaviour model with other random numbers, and traits."""
    made = clip.made
    if made is None:
        raise TimarError(
            f"{clip.name}: the rival {name!r} is known for dialogues of `timar generate` only; leave it out here"
        )
    dialogue = _dialogue(made.seed, made.number, made.asked_s, made.engines)
    if round(dialogue.seconds * FRAME_RATE) != len(clip.truth):
        raise TimarError(
            f"{clip.name}: today's generator makes another dialogue of its seed than the one that is there; generate "
            f"the dialogues anew, or leave the rival {name!r} out"
        )
    rng = np.random.default_rng([made.seed, made.number, made.party, 1 + seed])
    if name == STRANGER:
        parties = list(dialogue.parties)
        parties[made.party] = replace(parties[made.party], traits=draw_traits(rng))
        dialogue = replace(dialogue, parties=tuple(parties))
    return MotionTrack(move(dialogue, made.party, rng))


@lru_cache(maxsize=2)
def _dialogue(seed: int, number: int, seconds: float, engines: tuple[str, ...]) -> Dialogue:
    return make_dialogue(seed, number, seconds, *([engines] if engines else []))[0]
