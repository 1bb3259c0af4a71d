"""How a head behaves in a conversation, in figures that need no true motion beside them.

All of motion at 25 frames a second and of who has the floor at each frame. None stands where nothing was there to be
measured: a floor that nobody held, a channel that the motion does not have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.signal import butter, sosfiltfilt

from timar_ros.channels import ARKIT_BLENDSHAPES
from timar_ros.motion.track import MotionTrack
from timar_ros.rates import FRAME_RATE, FRAME_S, FRAME_SAMPLES
from timar_ros.replay.published_metrics import correlation
from timar_ros.stream.floor import Floor
from timar_ros.stream.turns import TurnBoundary

FLOORS = tuple(floor.value for floor in Floor)
LEAST_S = 1.0
"""A floor that was held for less in all has no figure of its own."""
NOD_BAND_HZ = (0.5, 3.5)
NOD_SWING_DEG = 1.5
NOD_PAUSE_S = 1.0
LIP_REACH = 8
"""Frames within which the best offset of mouth and sound is looked for: ±320 ms."""
RESPONSE_S = 2.0
CUE_S = 1.0
TURN_S = 1.0
SMILE_RISE = 0.1
SMILE_RISE_FRAMES = 12
SMILE = ("mouthSmileLeft", "mouthSmileRight")
RAISED_BROWS = ("browInnerUp", "browOuterUpLeft", "browOuterUpRight")
BLINK_CLOSED, BLINK_OPEN = 0.5, 0.3
FROZEN_DEG_S, FROZEN_S = 0.5, 3.0
JERK_HZ = 8.0
ENERGY_FLOOR = 1e-5
MOVED_SHAPE = 0.03
"""Standard deviation above which a shape of the mouth moves enough to be followed."""
MOUTH_SHAPES = tuple(name for name in ARKIT_BLENDSHAPES if name.startswith("mouth"))


def floor_by_frame(boundaries: Sequence[TurnBoundary], frames: int) -> np.ndarray:
    """Who has the floor at each frame [frames], from turn boundaries, which are set back to where it changed."""
    floor = np.full(frames, Floor.NOBODY.value, dtype="<U8")
    for boundary in boundaries:
        if boundary.reason == "floor":
            floor[boundary.frame :] = boundary.floor.value
    return floor


def movement(track: MotionTrack, floor: np.ndarray) -> dict[str, dict[str, float | None]]:
    """Mean speed of the head (deg/s) and of the mouth (openings a second) while each has the floor."""
    head = np.append(angular_speed(track), 0.0)
    mouth = np.append(np.abs(np.diff(track.mouth())) * FRAME_RATE, 0.0)
    result: dict[str, dict[str, float | None]] = {"head": {}, "mouth": {}}
    for name in FLOORS:
        held = (floor == name) & (np.arange(len(floor)) < len(floor) - 1)
        for part, speed in (("head", head), ("mouth", mouth)):
            result[part][name] = float(speed[held].mean()) if held.sum() >= LEAST_S * FRAME_RATE else None
    return result


def angular_speed(track: MotionTrack) -> np.ndarray:
    """[n - 1] deg/s, as the length of the change of roll, pitch and yaw."""
    return np.linalg.norm(np.degrees(np.diff(track.rpy(), axis=0)), axis=1) * FRAME_RATE


def head_figures(track: MotionTrack) -> dict[str, float | None]:
    """Spread, speed and acceleration of the head.

    `sd_deg` is the mean of the three axes' standard deviations.
    """
    angles = np.degrees(track.rpy())
    speed = angular_speed(track)
    acceleration = np.linalg.norm(np.diff(angles, n=2, axis=0), axis=1) * FRAME_RATE**2
    roll, pitch, yaw = (float(value) for value in angles.std(axis=0))
    figures: dict[str, float | None] = {
        "sd_deg": (roll + pitch + yaw) / 3,
        "sd_roll_deg": roll,
        "sd_pitch_deg": pitch,
        "sd_yaw_deg": yaw,
    }
    for percent in (50, 95, 99):
        figures[f"speed_p{percent}_deg_s"] = float(np.percentile(speed, percent)) if len(speed) else None
    for percent in (50, 95):
        name = f"acceleration_p{percent}_deg_s2"
        figures[name] = float(np.percentile(acceleration, percent)) if len(acceleration) else None
    return figures


def frozen_stretches(track: MotionTrack) -> dict[str, float]:
    """Stretches in which the head stays slower than 0.5 deg/s for 3 s or more: how many, and their length."""
    slow = np.concatenate([[False], angular_speed(track) < FROZEN_DEG_S, [False]])
    edges = np.flatnonzero(np.diff(slow.astype(np.int8)))
    lengths = np.diff(edges.reshape(-1, 2), axis=1)[:, 0] * FRAME_S
    long = lengths[lengths >= FROZEN_S - 1e-9]
    return {"count": len(long), "seconds": float(long.sum()), "longest_s": float(lengths.max(initial=0.0))}


def jerk(track: MotionTrack) -> float | None:
    """RMS third difference of the head's angles over their RMS speed, both below 8 Hz, 1/s^2.

    A Butterworth low-pass of 4th order, forwards and backwards. None for a head that does not move.
    """
    angles = track.rpy()
    if len(angles) < 32 or np.ptp(angles, axis=0).max() < 1e-9:
        return None
    smooth = sosfiltfilt(butter(4, JERK_HZ, fs=FRAME_RATE, output="sos"), angles, axis=0)
    third = np.diff(smooth, n=3, axis=0) * FRAME_RATE**3
    speed = np.diff(smooth, axis=0) * FRAME_RATE
    return math.sqrt(float(np.square(third).sum(axis=1).mean()) / float(np.square(speed).sum(axis=1).mean()))


def nod_onsets(track: MotionTrack) -> np.ndarray:
    """[k] frames at which nods begin: the middle of the first way down.

    Pitch is passed through 0.5 to 3.5 Hz (Hadar et al. 1985: nods are rhythmic, within that band), without delay. A
    swing is the way from one turning point to the next, of 1.5 deg or more. Swings that follow each other within 1 s
    are one nod, however many cycles it has; it takes two, there and back. The filter swings up before the head first
    goes down, so that a nod would seem to begin before its cause.
    """
    pitch = np.degrees(track.rpy()[:, 1])
    if len(pitch) < 2 * FRAME_RATE:
        return np.zeros(0, np.int64)
    swinging = sosfiltfilt(butter(2, NOD_BAND_HZ, "bandpass", fs=FRAME_RATE, output="sos"), pitch)
    turning = np.flatnonzero(np.diff(np.sign(np.diff(swinging))) != 0) + 1
    starts, ends = turning[:-1], turning[1:]
    large = np.abs(swinging[ends] - swinging[starts]) >= NOD_SWING_DEG
    onsets, last = [], -(10**9)
    first_down, up, told = None, False, False
    for start, end in zip(starts[large], ends[large], strict=True):
        if start - last > NOD_PAUSE_S * FRAME_RATE:
            first_down, up, told = None, False, False
        last = end
        if swinging[end] < swinging[start]:
            up = True
        elif first_down is None:
            first_down = (start + end) // 2
        if up and first_down is not None and not told:
            onsets.append(first_down)
            told = True
    return np.array(onsets, np.int64)


def per_minute(onsets: np.ndarray, floor: np.ndarray) -> dict[str, float | None]:
    """Events a minute of each floor, by who has it when they begin."""
    result: dict[str, float | None] = {}
    for name in FLOORS:
        frames = int((floor == name).sum())
        count = int((floor[onsets] == name).sum())
        result[name] = 60.0 * FRAME_RATE * count / frames if frames >= LEAST_S * FRAME_RATE else None
    return result


def blinks(track: MotionTrack) -> dict[str, float | None]:
    """Blinks a minute and their median length: lids above 0.5 until below 0.3. None where motion has no lids."""
    left, right = track.channel("eyeBlinkLeft"), track.channel("eyeBlinkRight")
    if left is None or right is None:
        return {"per_minute": None, "closed_ms": None}
    lids, lengths, since = (left + right) / 2, [], None
    for frame, lid in enumerate(lids):
        if since is None and lid > BLINK_CLOSED:
            since = frame
        elif since is not None and lid < BLINK_OPEN:
            lengths.append(frame - since)
            since = None
    return {
        "per_minute": 60.0 * FRAME_RATE * len(lengths) / len(lids),
        "closed_ms": float(np.median(lengths)) * 1000 * FRAME_S if lengths else None,
    }


def expression(track: MotionTrack) -> dict[str, float | None]:
    """How much the face smiles, and how much it raises its brows: weights. None where motion lacks the channels."""
    smile = [track.channel(name) for name in SMILE]
    brows = [track.channel(name) for name in RAISED_BROWS]
    return {
        "smile_mean": None if any(side is None for side in smile) else float(np.mean(smile)),
        "brows_sd": None if any(part is None for part in brows) else float(np.std(brows, axis=1).mean()),
    }


def responses(track: MotionTrack, floor: np.ndarray) -> dict[str, float | None]:
    """What follows within 2 s when the partner gives up the floor: a nod, a smile that rises, or the own voice.

    Returns:
        pauses, the share of them that was answered, and the answers' median delay in ms; `motion_...` count nods
        and smiles alone.
    """
    own, partner = (np.isin(floor, (name, "both")).astype(np.int8) for name in ("self", "partner"))
    own_starts = np.flatnonzero(np.diff(own, prepend=np.int8(0)) == 1)
    partner_stops = np.flatnonzero(np.diff(partner, prepend=np.int8(0)) == -1)
    moved = np.sort(np.concatenate([nod_onsets(track), _smile_onsets(track)]))
    pauses = partner_stops[partner_stops + RESPONSE_S * FRAME_RATE <= len(track)]
    result: dict[str, float | None] = {"pauses": len(pauses)}
    for prefix, events in (("", np.sort(np.concatenate([moved, own_starts]))), ("motion_", moved)):
        places = np.searchsorted(events, pauses)
        delays = [
            (events[place] - pause) * FRAME_S
            for place, pause in zip(places, pauses, strict=True)
            if place < len(events) and (events[place] - pause) * FRAME_S <= RESPONSE_S
        ]
        result[f"{prefix}share"] = len(delays) / len(pauses) if len(pauses) else None
        result[f"{prefix}delay_ms"] = 1000.0 * float(np.median(delays)) if delays else None
    return result


def cue_answers(track: MotionTrack, floor: np.ndarray, cues_s: np.ndarray) -> dict[str, float | None]:
    """How nods and smiles of a listener fall on the cues in the partner's speech.

    An answer is a nod or a smile that begins while self does not speak, or no longer than a backchannel; both within a
    second are one answer. It is on a cue where it begins within 1 s after it; a cue takes one answer and an answer one
    cue, in order of time.

    Args:
        cues_s: [n] s, rising: when the partner offered to be answered.

    Returns:
        The counts `offered`, `answers` and `on_cue`, and of them `precision`, `recall` and `f1`.
    """
    begins = np.unique(np.concatenate([nod_onsets(track), _smile_onsets(track)]))
    begins = begins[listening(floor)[begins]] * FRAME_S
    answers = begins[np.diff(begins, prepend=-np.inf) > CUE_S]
    cues_s = cues_s[cues_s + CUE_S <= len(track) * FRAME_S]
    on_cue, first = 0, 0
    for answer in answers:
        while first < len(cues_s) and cues_s[first] < answer - CUE_S:
            first += 1
        if first < len(cues_s) and cues_s[first] <= answer:
            on_cue, first = on_cue + 1, first + 1
    return {"offered": len(cues_s), "answers": len(answers), "on_cue": on_cue} | agreement(
        len(cues_s), len(answers), on_cue
    )


def listening(floor: np.ndarray, me: str = "self") -> np.ndarray:
    """[n] whether somebody, who is `me` in the floor, says no more than a backchannel (0.66 s at p95 by telephone)."""
    speaking = np.isin(floor, (me, "both"))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], speaking, [False]]).astype(np.int8))).reshape(-1, 2)
    result = np.ones(len(speaking), bool)
    for start, end in edges:
        result[start:end] = (end - start) * FRAME_S < TURN_S
    return result


def agreement(offered: float, answers: float, on_cue: float) -> dict[str, float | None]:
    """Precision, recall and F1 of answers to cues; also of counts summed over conversations."""
    return {
        "precision": on_cue / answers if answers else None,
        "recall": on_cue / offered if offered else None,
        "f1": 2 * on_cue / (offered + answers) if offered else None,
    }


def _smile_onsets(track: MotionTrack) -> np.ndarray:
    """[k] frames at which a smile has risen by 0.1 within half a second."""
    sides = [track.channel(name) for name in SMILE]
    if sides[0] is None or len(track) <= SMILE_RISE_FRAMES:
        return np.zeros(0, np.int64)
    smile = (sides[0] + sides[1]) / 2
    rising = np.concatenate([[False], smile[SMILE_RISE_FRAMES:] - smile[:-SMILE_RISE_FRAMES] >= SMILE_RISE])
    return np.flatnonzero(np.diff(rising.astype(np.int8)) == 1) + SMILE_RISE_FRAMES


def frame_energy(voice: np.ndarray, floor: float = ENERGY_FLOOR) -> np.ndarray:
    """Log of the mean square of each 40 ms frame of a voice [n], [n // 640]; `floor` is added to the mean square."""
    frames = voice[: len(voice) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    return np.log(np.square(frames).mean(axis=1) + floor)


def best_offset(
    mouths: Sequence[np.ndarray], references: Sequence[np.ndarray], reach: int = LIP_REACH
) -> tuple[float | None, int | None]:
    """The highest correlation within ±`reach` frames, and its offset in frames (positive: the mouth is late).

    Of several conversations, joined after all were moved alike.
    """
    pairs = [(mouth, there, min(len(mouth), len(there))) for mouth, there in zip(mouths, references, strict=True)]
    values = {}
    for lag in range(-reach, reach + 1):
        late, early = max(lag, 0), max(-lag, 0)
        moved = np.concatenate([mouth[late : frames - early] for mouth, _, frames in pairs])
        value = correlation(moved, np.concatenate([there[early : frames - late] for _, there, frames in pairs]))
        if value is not None:
            values[lag] = value
    if not values:
        return None, None
    lag = max(values, key=values.get)
    return values[lag], lag


def lips(track: MotionTrack, own_voice: np.ndarray | None, truth: MotionTrack | None) -> dict[str, Any]:
    """How the mouth's opening follows the true mouth, where it is known, and the own voice's log energy.

    `correlation` and `offset_ms` are against `against`: "truth" where there is one, else "voice". `same_instant` is
    the correlation at offset 0.
    """
    mouth = track.mouth()
    result: dict[str, Any] = {"against": "truth" if truth is not None else "voice"}
    references = {
        "": truth.mouth() if truth is not None else None,
        "voice_": frame_energy(own_voice) if own_voice is not None else None,
    }
    if truth is None:
        references[""] = references["voice_"]
    for prefix, reference in references.items():
        value, lag = (None, None) if reference is None else best_offset([mouth], [reference])
        at_once = None
        if reference is not None:
            frames = min(len(mouth), len(reference))
            at_once = correlation(mouth[:frames], reference[:frames])
        result[f"{prefix}correlation"] = value
        result[f"{prefix}offset_ms"] = None if lag is None else 40 * lag
        result[f"{prefix}same_instant"] = at_once
    if truth is not None:
        late_ms = result["offset_ms"]
        result["shapes"] = shapes_correlation(track, truth)
        result["shapes_at_offset"] = None if late_ms is None else shapes_correlation(track, truth, late_ms // 40)
    return result


def shapes_correlation(track: MotionTrack, truth: MotionTrack, late_frames: int = 0) -> float | None:
    """Correlation with the truth, averaged over the shapes of the mouth that move in it (sd > 0.03).

    Args:
        late_frames: by how many frames the track is taken to be later than the truth.
    """
    first, true_first = max(0, late_frames), max(0, -late_frames)
    frames, values = min(len(track) - first, len(truth) - true_first), []
    for name in MOUTH_SHAPES:
        drawn, real = track.channel(name), truth.channel(name)
        if drawn is None or real is None:
            continue
        drawn, real = drawn[first : first + frames], real[true_first : true_first + frames]
        if real.std() > MOVED_SHAPE:
            values.append(correlation(drawn, real) or 0.0)
    return float(np.mean(values)) if values else None


def behaviour_metrics(
    track: MotionTrack,
    floor: np.ndarray | None = None,
    own_voice: np.ndarray | None = None,
    truth: MotionTrack | None = None,
    cues_s: np.ndarray | None = None,
) -> dict[str, Any]:
    """All figures of one motion; what rests on an argument that is not given is left out.

    Args:
        floor: [n] who has the floor at each frame (`floor_by_frame`).
        own_voice: 16 kHz mono, from the first frame's start.
        truth: what the true person did.
        cues_s: [n] s, when the partner offered to be answered.
    """
    own_jerk, true_jerk = jerk(track), jerk(truth) if truth is not None else None
    figures: dict[str, Any] = {
        "head": head_figures(track),
        "frozen": frozen_stretches(track),
        "jerk": {
            "value": own_jerk,
            "ratio": own_jerk / true_jerk if own_jerk is not None and true_jerk else None,
        },
        "blinks": blinks(track),
        "expression": expression(track),
    }
    if own_voice is not None or truth is not None:
        figures["lips"] = lips(track, own_voice, truth)
    if floor is not None:
        frames = min(len(floor), len(track))
        track, floor = track.cut(frames), floor[:frames]
        figures["movement"] = movement(track, floor)
        figures["nods_per_minute"] = per_minute(nod_onsets(track), floor)
        figures["responses"] = responses(track, floor)
        listening, speaking = (figures["movement"]["mouth"][name] for name in ("partner", "self"))
        figures["mouth_while_listening"] = listening / speaking if listening is not None and speaking else None
        if cues_s is not None:
            figures["cues"] = cue_answers(track, floor, cues_s)
    return figures
