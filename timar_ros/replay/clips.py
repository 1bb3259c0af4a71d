"""Finds and reads conversations of any reasonable form, each as one `Clip`: frames of both voices and what is known.

rosbag2 (folder or file)            frames as they were paired live where the bag holds the trace, else from stamps
self + partner sound files          a folder with self.* and partner.* (and self_motion.npz, partner_motion.npz)
a stereo sound file                 left is self, right is partner
DualTalk's folder                   NAME_speaker1.wav/.npz, NAME_speaker2.wav/.npz: each party in turn is self
a folder of any of these
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

from timar_ros.channels import HEAD_CHANNELS, MOTION_DIM
from timar_ros.dialogues.generate import DIALOGUE_SECONDS
from timar_ros.errors import TimarError
from timar_ros.motion.track import ARKIT, UNREADABLE, MotionTrack, load_motion, track_of
from timar_ros.rates import FRAME_NS, FRAME_RATE, FRAME_SAMPLES
from timar_ros.replay.bag import read_recording
from timar_ros.replay.offline import frames_of
from timar_ros.replay.recording import Recording, Signal, Voice
from timar_ros.replay.summary import summarise
from timar_ros.sound_files import read_voice
from timar_ros.stream.frames import PARTNER, SELF, Frame
from timar_ros.stream.partner_face import PartnerFace
from timar_ros.stream.trace import TracedHop

SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
BAG_SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")
SPEAKERS = ("speaker1", "speaker2")
LEAST_S = 1.0
SYSTEM_FIGURES = (
    "latency_ms", "reaction_ms", "motion_delay_ms", "lips", "deadline_misses", "deadline_miss_percent",
    "commands_percent", "blendshape_percent", "refusals", "limit_violations", "realtime_factor", "rss_mb",
)  # fmt: skip


@dataclass(frozen=True)
class LiveRun:
    """How a conversation went live, as its trace tells.

    Attributes:
        facts: of the `~/conversation` topic (policy, parameters, ...); empty where that was not recorded.
        hops: frames, decisions and motion, in order.
        whole: from the first frame on, without a gap: only then can the motion be repeated exactly.
    """

    facts: Mapping[str, Any]
    hops: tuple[TracedHop, ...]
    whole: bool

    @property
    def told(self) -> dict[str, Any]:
        """The head node's parameters, those it had left open as they were settled."""
        names = ("hop_frames", "precision", "fingerprint", "lookahead_frames")
        settled = {"lookahead_frames": 0} | {name: self.facts[name] for name in names if name in self.facts}
        return dict(self.facts.get("parameters", {})) | settled


@dataclass(frozen=True)
class Made:
    """Where a generated dialogue comes from, and what is known of it.

    Attributes:
        seed, number, asked_s, engines: of `timar generate`; they make it again. No engines: those it has by itself.
        party: which of the two is self, 0 or 1.
        cues: [n] s, the instants in the partner's speech at which self, listening, could have answered.
    """

    seed: int
    number: int
    asked_s: float
    engines: tuple[str, ...]
    party: int
    cues: np.ndarray


@dataclass(frozen=True)
class Clip:
    """One conversation.

    Attributes:
        frames: both voices, from index 0, with the partner's face where it was seen.
        truth: what the person who speaks with the own voice really did.
        other: what the partner really did.
        made: of a generated dialogue.
        recorded: what a live head did, from the first frame on.
        live: how it went live, where a bag holds the trace.
        system: latency, misses and gaps of a live bag.
        notes: what was lost or guessed, in sentences.
    """

    name: str
    frames: tuple[Frame, ...]
    truth: MotionTrack | None = None
    other: MotionTrack | None = None
    made: Made | None = None
    recorded: MotionTrack | None = None
    live: LiveRun | None = None
    system: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        return len(self.frames) / FRAME_RATE

    def voice(self, party: str) -> np.ndarray:
        """One party's sound, 16 kHz mono float32, from the first frame's start."""
        return np.concatenate([frame.own if party == SELF else frame.partner for frame in self.frames])


@dataclass(frozen=True)
class ClipSource:
    """Where a clip is; small enough to be sent to another process, which reads it there."""

    name: str
    own: Path
    partner: Path | None = None
    truth: Path | None = None
    other: Path | None = None
    topics: tuple[tuple[str, str], ...] = ()
    number: int = 0
    """Which of several conversations in a bag."""
    partner_seen: bool = False
    """Whether the policy sees the face of `other`; in a bag it sees what the live head saw."""

    @property
    def is_generated(self) -> bool:
        """Whether this is one party of a dialogue of `timar generate`."""
        return self.truth is not None and _made(self.truth) is not None

    @property
    def is_bag(self) -> bool:
        return self.partner is None and _is_bag(self.own)

    def read(self) -> Clip:
        """The clip.

        Raises:
            TimarError: what is there cannot be read, or holds no sound.
        """
        clip = self._read_bag() if self.is_bag else self._read_sound()
        if clip.seconds < LEAST_S:
            raise TimarError(
                f"{self.name} holds {clip.seconds:.2f} s of conversation; at least {LEAST_S:g} s is needed"
            )
        return clip

    def _read_sound(self) -> Clip:
        if self.partner is None:
            own, partner = _read_stereo(self.own)
        else:
            own, partner = read_voice(self.own), read_voice(self.partner)
        notes = []
        if abs(len(own) - len(partner)) >= FRAME_SAMPLES:
            seconds = abs(len(own) - len(partner)) / (FRAME_SAMPLES * FRAME_RATE)
            shorter = "self" if len(own) < len(partner) else "partner"
            notes.append(f"{self.name}: {shorter} is {seconds:.1f} s shorter; silence follows it")
        truth, other = (load_motion(path) if path else None for path in (self.truth, self.other))
        frames = frames_of(own, partner)
        if other is not None and self.partner_seen:
            frames = _with_partner_motion(frames, other)
        made = _made(self.truth) if self.truth else None
        return Clip(self.name, frames, truth, other, made, notes=tuple(notes))

    def _read_bag(self) -> Clip:
        recording = read_recording(self.own, dict(self.topics))
        lives = live_runs(recording)
        live = lives[min(self.number, len(lives) - 1)] if lives else None
        notes = list(recording.losses)
        if live is not None:
            frames, recorded = traced_frames(live)
            if not live.whole:
                notes.append("the trace does not hold the whole conversation, so its motion cannot be repeated exactly")
        else:
            frames, recorded = _paired_by_stamps(recording, notes)
        figures = summarise(recording)
        system = {name: figures[name] for name in SYSTEM_FIGURES} | {"voice_missing_ms": figures["voice_missing_ms"]}
        truth, other = (load_motion(path) if path else None for path in (self.truth, self.other))
        notes = tuple(f"{self.name}: {note}" for note in notes)
        return Clip(self.name, frames, truth, other, None, recorded, live, system, notes)


def _made(truth: Path) -> Made | None:
    """What `timar generate` told beside a party's motion; None where this is somebody else's file."""
    try:
        with np.load(truth, allow_pickle=False) as told:
            if not {"seed", "cue_sources"} <= set(told.files):
                return None
            seed, number = (int(value) for value in told["seed"])
            asked_s = float(told["seconds"]) if "seconds" in told.files else DIALOGUE_SECONDS
            engines = tuple(str(name) for name in told["engines"]) if "engines" in told.files else ()
            cues = told["cues_offered" if "cues_offered" in told.files else "cue_sources"]
    except UNREADABLE as error:
        raise TimarError(f"{truth} cannot be read as motion ({error}); give a .npz file") from error
    party = next((k for k, speaker in enumerate(SPEAKERS) if truth.stem.endswith(speaker)), 0)
    return Made(seed, number, asked_s, engines, party, np.asarray(cues, np.float64))


def one_party_of(sources: Sequence[ClipSource]) -> list[ClipSource]:
    """Of each generated dialogue one party, the first and the second by turns, and all other conversations."""
    generated = [source for source in sources if source.is_generated]
    left_out = [source for k, source in enumerate(generated) if k % 4 in (1, 2)]  # both parties follow each other
    return [source for source in sources if source not in left_out]


def find_clips(path: str | Path, topics: Mapping[str, str] | None = None) -> list[ClipSource]:
    """All conversations at a path, in the order of their names.

    Raises:
        TimarError: nothing there that can be evaluated; says what was looked for.
    """
    path = Path(path)
    if not path.exists():
        raise TimarError(f"there is nothing at {path}; give a bag, a stereo sound file or a folder of them")
    found = _find(path, tuple(sorted((topics or {}).items())))
    if not found:
        raise TimarError(
            f"{path} holds no conversation: expected a rosbag2 (.mcap, .db3), self.wav and partner.wav, a stereo sound "
            "file, or NAME_speaker1.wav and NAME_speaker2.wav as in DualTalk; two sound files of other names go "
            "with --self and --partner"
        )
    return found


def _find(path: Path, topics: tuple[tuple[str, str], ...]) -> list[ClipSource]:
    if _is_bag(path):
        name = path.resolve().name
        count = _conversations_in(path)
        if count != 1:  # or one, where a head was activated twice before it heard anything
            try:
                count = max(len(live_runs(read_recording(path, dict(topics)))), 1)
            except TimarError:  # told when it is its turn
                count = 1
        numbered = [name] if count < 2 else [f"{name} #{k + 1}" for k in range(count)]
        return [ClipSource(each, path, topics=topics, number=k) for k, each in enumerate(numbered)]
    if path.is_file():
        return [ClipSource(path.stem, path)] if path.suffix.lower() in SOUND_SUFFIXES else []
    files = {file.name: file for file in sorted(path.iterdir())}
    found = _dualtalk_pairs(files) + _named_pair(path, files)
    used = {file for source in found for file in (source.own, source.partner)}
    for file in files.values():
        stereo = file.is_file() and file.suffix.lower() in SOUND_SUFFIXES and file not in used and _channels(file) == 2
        if _is_bag(file) or file.is_dir() or stereo:
            found += _find(file, topics)
    return found


def _is_bag(path: Path) -> bool:
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or any(
            file.name.endswith(BAG_SUFFIXES) for file in path.iterdir() if file.is_file()
        )
    return path.name.endswith(BAG_SUFFIXES)


def _conversations_in(path: Path) -> int | None:
    """How often a head node began a conversation in a bag, by its metadata alone; None where that does not tell."""
    try:
        text = (path / "metadata.yaml").read_text(encoding="utf-8")
        entries = yaml.safe_load(text)["rosbag2_bagfile_information"]["topics_with_message_count"]
        begun = [e["message_count"] for e in entries if e["topic_metadata"]["name"].endswith("/conversation")]
        return max(sum(begun), 1)
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, UnicodeDecodeError):
        return None


def _dualtalk_pairs(files: Mapping[str, Path]) -> list[ClipSource]:
    sources = []
    for name in [n.removesuffix("_speaker1.wav") for n in files if n.endswith("_speaker1.wav")]:
        if f"{name}_speaker2.wav" not in files:
            continue
        for own, partner in (SPEAKERS, SPEAKERS[::-1]):
            stems = [f"{name}_{speaker}" for speaker in (own, partner)]
            voices = [files[f"{stem}.wav"] for stem in stems]
            motion = [files.get(f"{stem}.npz") for stem in stems]
            sources.append(ClipSource(f"{name} {own}", *voices, *motion))
    return sources


def _named_pair(folder: Path, files: Mapping[str, Path]) -> list[ClipSource]:
    own, partner = (
        next((files[f"{party}{end}"] for end in SOUND_SUFFIXES if f"{party}{end}" in files), None)
        for party in (SELF, PARTNER)
    )
    if own is None or partner is None:
        return []
    motion = [files.get(f"{party}_motion.npz") for party in (SELF, PARTNER)]
    return [ClipSource(folder.resolve().name, own, partner, *motion)]


def _channels(file: Path) -> int:
    try:
        return soundfile.info(file).channels
    except soundfile.LibsndfileError:
        return 0


def _read_stereo(path: Path) -> tuple[np.ndarray, np.ndarray]:
    count = _channels(path)
    if count != 2:
        what = f"has {count} channel{'s' * (count != 1)}" if count else "is no sound file that can be read"
        raise TimarError(
            f"{path} {what}; expected two (left: self, right: partner); two files go with --self and --partner"
        )
    return read_voice(path, channel=0), read_voice(path, channel=1)


def _with_partner_motion(frames: Sequence[Frame], other: MotionTrack) -> tuple[Frame, ...]:
    """Frames in which the partner's face is seen; what FLAME does not tell of it is NaN."""
    seen = np.full((len(other), MOTION_DIM), np.nan, np.float32)
    if other.kind == ARKIT:
        seen[:] = other.values
    else:
        shown = other.shown()
        told = np.flatnonzero(shown.any(axis=0) | (np.arange(MOTION_DIM) < len(HEAD_CHANNELS)))
        seen[:, told] = shown[:, told]
    return tuple(replace(f, partner_motion=seen[f.index]) if f.index < len(seen) else f for f in frames)


# --- bags ----------------------------------------------------------------------------------------


def live_runs(recording: Recording) -> list[LiveRun]:
    """The conversations of a bag's trace; a new one begins where the frame numbers begin anew."""
    parts: list[list[TracedHop]] = []
    last = None
    for traced in recording.hops:
        first = traced.hop.frames[0].index
        if last is None or first <= last:
            parts.append([])
        parts[-1].append(traced)
        last = traced.hop.frames[-1].index
    runs = []
    for hops in parts:
        indices = [frame.index for traced in hops for frame in traced.hop.frames]
        # What was told last before its end: a recorder that comes late hears of it, latched, behind the first hops.
        before = [facts for told_ns, facts in recording.conversations if told_ns <= hops[-1].planned_ns]
        told = before[-1:] or [facts for _, facts in recording.conversations[:1]]
        facts = told[0] if told else {}
        runs.append(LiveRun(facts, tuple(hops), bool(facts) and indices == list(range(len(indices)))))
    return runs


def traced_frames(live: LiveRun) -> tuple[tuple[Frame, ...], MotionTrack]:
    """Frames from index 0 and the motion drawn live; silence and rest stand in for hops that are missing."""
    first = live.hops[0].hop.frames[0].index
    count = live.hops[-1].hop.frames[-1].index + 1 - first
    held: dict[int, tuple[Frame, np.ndarray]] = {}
    for traced in live.hops:
        for frame, motion in zip(traced.hop.frames, traced.hop.motion, strict=True):
            held[frame.index - first] = (frame, motion)
    start_ns = held[0][0].stamp_ns
    frames, motion = [], np.zeros((count, live.hops[0].hop.motion.shape[1]), np.float32)
    silence = np.zeros(FRAME_SAMPLES, np.float32)
    for index in range(count):
        if index in held:
            frame, motion[index] = held[index]
            frames.append(replace(frame, index=index))
        else:
            frames.append(Frame(index, start_ns + index * FRAME_NS, silence, silence, False, False))
            motion[index] = motion[index - 1]
    return tuple(frames), track_of(motion)


def _paired_by_stamps(recording: Recording, notes: list[str]) -> tuple[tuple[Frame, ...], MotionTrack | None]:
    """Frames of a bag without a trace, on the timeline of its stamps, and what the head showed in them."""
    voices = recording.voices
    if not voices:
        listed = "; ".join(f"{topic} [{kind}]" for topic, (kind, _) in recording.topics.items()) or "none"
        raise TimarError(
            f"{recording.path} holds no sound of either voice. Its topics: {listed}. Name the two with "
            "--topic self_audio=/TOPIC --topic partner_audio=/TOPIC"
        )
    notes.append("there is no trace in it: the voices are paired by their stamps, not exactly as they were live")
    for party in (SELF, PARTNER):
        if party not in voices:
            listed = ", ".join(topic for topic, (kind, _) in recording.topics.items())
            notes.append(
                f"no sound of {party}: silence stands in for it; if another topic holds it (there are {listed}), "
                f"name it with --topic {party}_audio=/TOPIC"
            )
    start_ns = min(voice.start_ns for voice in voices.values())
    shown = recording.blendshapes or recording.head_pose
    if shown is not None:  # on the live head's own frames
        start_ns = int(shown.stamps_ns[0]) - max(0, int(shown.stamps_ns[0]) - start_ns) // FRAME_NS * FRAME_NS
    end_ns = max(voice.end_ns for voice in voices.values())
    count = int((end_ns - start_ns) // FRAME_NS)
    sound = {party: _framed(voices.get(party), start_ns, count) for party in (SELF, PARTNER)}
    face = _FaceInTime(recording.partner_head_pose, recording.partner_blendshapes)
    frames = []
    for index in range(count):
        stamp_ns = start_ns + index * FRAME_NS
        own, own_heard = (part[index] for part in sound[SELF])
        partner, partner_heard = (part[index] for part in sound[PARTNER])
        seen = face.at(stamp_ns + FRAME_NS)
        frames.append(Frame(index, stamp_ns, own, partner, bool(own_heard), bool(partner_heard), seen))
    return tuple(frames), _recorded_motion(recording, start_ns, count)


def _framed(voice: Voice | None, start_ns: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """[count, 640] samples, and [count] whether anything of them was recorded."""
    if voice is None:
        return np.zeros((count, FRAME_SAMPLES), np.float32), np.zeros(count, bool)
    samples = voice.between(start_ns, start_ns + count * FRAME_NS).reshape(count, FRAME_SAMPLES)
    ends_ns = start_ns + FRAME_NS * np.arange(1, count + 1)
    inside = (ends_ns > voice.start_ns) & (ends_ns - FRAME_NS < voice.end_ns)
    return samples, inside & (samples.any(axis=1) if voice.missing_ns else True)


class _FaceInTime:
    """The partner's face as of rising times, from a bag's messages."""

    def __init__(self, poses: Signal | None, faces: Signal | None) -> None:
        self._face = PartnerFace()
        self._waiting = sorted(
            [
                (int(stamp_ns), k, signal)
                for signal in (poses, faces)
                if signal is not None
                for k, stamp_ns in enumerate(signal.stamps_ns)
            ],
            key=lambda entry: entry[0],
            reverse=True,
        )
        self._poses = poses

    def at(self, time_ns: int) -> np.ndarray | None:
        while self._waiting and self._waiting[-1][0] <= time_ns:
            stamp_ns, k, signal = self._waiting.pop()
            if signal is self._poses:
                self._face.push_pose(stamp_ns, signal.values[k])
            else:
                self._face.push_blendshapes(stamp_ns, signal.names, signal.values[k])
        return self._face.at(time_ns)


def _recorded_motion(recording: Recording, start_ns: int, count: int) -> MotionTrack | None:
    """What the head published for each frame, held where a message is missing."""
    if recording.blendshapes is None and recording.head_pose is None:
        return None
    motion = np.zeros((count, MOTION_DIM))
    parts = [(slice(len(HEAD_CHANNELS), MOTION_DIM), recording.blendshapes, None)]
    if recording.head_pose is not None:
        parts.append((slice(0, len(HEAD_CHANNELS)), recording.head_pose, recording.head_rpy()))
    times_ns = start_ns + FRAME_NS * np.arange(count)
    for channels, signal, values in parts:
        if signal is not None:
            latest = np.searchsorted(signal.stamps_ns, times_ns + FRAME_NS // 2, side="right") - 1
            motion[:, channels] = (signal.values if values is None else values)[latest.clip(0)]
    return MotionTrack(motion)
