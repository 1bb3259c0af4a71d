"""Conversations on disk in DualTalk's layout.

A folder holds NAME_speaker1.wav/.npz and NAME_speaker2.wav/.npz: 16 kHz mono voices of equal length, and motion at
25 frames a second (`motion` [T, 55] in the channels of channels.py, or FLAME's `exp` and `pose`). Turns
and floor come from the same voice activity and segmentation as live, computed once and kept in NAME_turns.npz
beside the data, until the voices or the segmentation are others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import joblib
import numpy as np
import soundfile
from tqdm import tqdm

from timar_ros.channels import CHANNELS, HEAD_CHANNELS, MOTION_DIM
from timar_ros.errors import TimarError
from timar_ros.model.network import NOD_FRAMES
from timar_ros.motion.flame import ExpressionMap, from_flame
from timar_ros.motion.track import FLAME, UNREADABLE, MotionTrack, load_motion
from timar_ros.rates import FRAME_SAMPLES, SAMPLE_RATE
from timar_ros.replay.behaviour_metrics import FLOORS, floor_by_frame, listening, nod_onsets
from timar_ros.stream import turns
from timar_ros.stream.sampling import region

# What follows the voice is drawn as it is and not shown again, other channels are drawn as changes (model/network.py).
MOUTH = np.array([region(name) == "mouth" for name in CHANNELS])

# So much may be missing at the end of a voice or a motion, in frames and as a share of the longest.
MOST_CUT_FRAMES, MOST_CUT = 25, 0.02

# A nod begins so long before the middle of its first way down, which is where it is told for sure.
NOD_LEAD_FRAMES = 4
# How long before it begins the network is asked to see it coming.
NOD_AHEAD_FRAMES = 8


@dataclass(frozen=True)
class Conversation:
    """Two parties' voices [2, n] int16 and motion [2, T, 55] float32, with the first frame of each turn.

    `known` [55] bool says which channels the motion tells of; the others are 0. `drawn` [2, T, 55]: what a policy drew
    there, if one did. Of nods that begin while their party listens: `nod_place` [2, T] int, the frame's place in the
    nod from 1, 0 outside; `nod_ahead` [2, T] bool, one begins within the next NOD_AHEAD_FRAMES frames.
    """

    name: str
    voices: np.ndarray
    motion: np.ndarray
    known: np.ndarray
    turn_starts: np.ndarray
    nod_place: np.ndarray
    nod_ahead: np.ndarray
    drawn: np.ndarray | None = None

    @property
    def frames(self) -> int:
        return self.motion.shape[1]


def fingerprint(conversations: Sequence[Conversation]) -> str:
    """Tells these conversations from others: their motion, and of their voices a sample in each 10 ms."""
    told = hashlib.blake2b(digest_size=16)
    for conversation in conversations:
        told.update(np.ascontiguousarray(conversation.motion).data)
        told.update(np.ascontiguousarray(conversation.voices[:, ::160]).data)
    return told.hexdigest()


def load_conversations(
    folder: str | Path, expression: ExpressionMap | None = None, jobs: int = -1
) -> list[Conversation]:
    """All conversations of a folder, in the order of their names.

    Args:
        expression: what the expressions of FLAME motion are as blendshapes; without it only the head's rotation and
            the jaw are known of such motion.

    Raises:
        TimarError: there is none, or a file is not of the layout.
    """
    names = sorted(path.name.removesuffix("_speaker1.wav") for path in Path(folder).glob("*_speaker1.wav"))
    if not names:
        raise TimarError(
            f"{folder} holds no NAME_speaker1.wav; make data with `timar generate --out {folder}` "
            "or give DualTalk's folder"
        )
    load = joblib.delayed(load_conversation)
    pending = joblib.Parallel(n_jobs=jobs, return_as="generator")(
        load(Path(folder), name, expression) for name in names
    )
    return list(tqdm(pending, total=len(names), desc="reading conversations", unit="conversation"))


def load_conversation(folder: Path, name: str, expression: ExpressionMap | None = None) -> Conversation:
    """One conversation; its turns are computed and kept when those of these voices are not there yet."""
    stems = [folder / f"{name}_{speaker}" for speaker in ("speaker1", "speaker2")]
    voices = [_load_voice(stem.with_name(stem.name + ".wav")) for stem in stems]
    tracks = [load_motion(stem.with_name(stem.name + ".npz")) for stem in stems]
    lengths = [len(voice) / FRAME_SAMPLES for voice in voices] + [len(track) for track in tracks]
    if max(lengths) - min(lengths) > max(MOST_CUT_FRAMES, MOST_CUT * max(lengths)):
        raise TimarError(
            f"{folder / name}: the voices are {lengths[0]:.0f} and {lengths[1]:.0f} frames of 40 ms long, the motions "
            f"{lengths[2]} and {lengths[3]}; both parties' are expected to be of one length, with 25 frames a second"
        )
    frames = int(min(lengths))
    both = np.stack([voice[: frames * FRAME_SAMPLES] for voice in voices])
    starts, floor = _turns(folder / f"{name}_turns.npz", both)
    tracks = [track.cut(frames) for track in tracks]
    motion = np.stack([_as_channels(track, expression) for track in tracks])
    known = np.logical_and.reduce([_known(track, expression) for track in tracks])
    nods = [_nods(track, floor, speaks) for track, speaks in zip(tracks, ("self", "partner"), strict=True)]
    nod_place, nod_ahead = (np.stack(each) for each in zip(*nods, strict=True))
    return Conversation(name, both, motion, known, starts, nod_place, nod_ahead)


def at_rest_where_unknown(conversations: list[Conversation], usual: np.ndarray) -> list[Conversation]:
    """The same, with the values `usual` [55] in channels that they do not tell of."""
    return [replace(each, motion=np.where(each.known, each.motion, usual)) for each in conversations]


def known_channels(conversations: list[Conversation]) -> np.ndarray:
    """[55] bool: what every conversation tells of."""
    return np.logical_and.reduce([conversation.known for conversation in conversations])


def _load_voice(wav: Path) -> np.ndarray:
    """16 kHz mono int16 [n]."""
    try:
        voice, rate = soundfile.read(wav, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise TimarError(f"{wav} cannot be read as sound ({error}); each NAME_speaker1 and 2 needs .wav") from error
    if rate != SAMPLE_RATE or voice.shape[1] != 1:
        raise TimarError(f"{wav}: {voice.shape[1]} channels at {rate} Hz; mono at {SAMPLE_RATE} Hz is expected")
    return np.round(voice[:, 0] * 32768).clip(-32768, 32767).astype(np.int16)


def _as_channels(track: MotionTrack, expression: ExpressionMap | None) -> np.ndarray:
    return (from_flame(track.values, expression) if track.kind == FLAME else track.values).astype(np.float32)


def _known(track: MotionTrack, expression: ExpressionMap | None) -> np.ndarray:
    """[55] bool: the channels that a file's motion tells of."""
    if track.kind != FLAME:
        return np.ones(MOTION_DIM, bool)
    known = np.array([name in (*HEAD_CHANNELS, "jawOpen") for name in CHANNELS])
    if expression is not None:
        known[len(HEAD_CHANNELS) :] |= expression.matrix.any(axis=1)
    return known


def _nods(track: MotionTrack, floor: np.ndarray, speaks: str) -> tuple[np.ndarray, np.ndarray]:
    """`nod_place` and `nod_ahead` [T] of one party, who has the floor where it is `speaks`."""
    place, ahead = np.zeros(len(track), np.int64), np.zeros(len(track), bool)
    onsets = nod_onsets(track)
    for onset in onsets[listening(floor, speaks)[onsets]]:
        begins = max(0, onset - NOD_LEAD_FRAMES)
        ahead[max(0, begins - NOD_AHEAD_FRAMES) : begins] = True
        in_course = place[begins : begins + NOD_FRAMES]
        in_course[:] = 1 + np.arange(len(in_course))
    return place, ahead


def _turns(kept: Path, voices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First frames of the turns, and who has the floor at each frame, of two voices [2, n] int16."""
    made_of = np.frombuffer(hashlib.blake2b(voices.tobytes(), key=_segmentation(), digest_size=16).digest(), np.uint8)
    try:
        with np.load(kept) as arrays:
            starts, codes, there = arrays["starts"], arrays["floor"], arrays["made_of"]
    except UNREADABLE:  # not there yet, or broken off while it was written
        there = None
    if not np.array_equal(there, made_of):
        segmenter, boundaries = turns.TurnSegmenter(), []
        frames = (voices / np.float32(32768)).reshape(2, -1, FRAME_SAMPLES).transpose(1, 0, 2)
        for own, partner in frames:
            boundaries += segmenter.step(own, partner).boundaries
        floor = floor_by_frame(boundaries, len(frames))
        starts = np.unique([0, *(boundary.frame for boundary in boundaries)])
        codes = np.array([FLOORS.index(each) for each in floor], np.int8)
        part = kept.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, starts=starts, floor=codes, made_of=made_of)
        part.replace(kept)
    return starts, np.array(FLOORS)[codes]


@cache
def _segmentation() -> bytes:
    """What turns are found by, in a few bytes: the code, and the weights of the network in it."""
    digest = hashlib.blake2b(digest_size=16)
    for name in (
        "turns.py",
        "floor.py",
        "speaking.py",
        "voice_activity.py",
        "speech_evidence.py",
        "speech_evidence.npz",
    ):
        digest.update(Path(turns.__file__).with_name(name).read_bytes())
    return digest.digest()
