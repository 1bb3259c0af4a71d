"""How the parties of a dialogue move: head rotation and 52 ARKit blendshapes, 25 frames a second.

A model of behaviour from the literature, driven by what is said and heard:

- Lips and jaw follow the phonemes and the vocal effort (visemes.py).
- Head and brows beat on accents, close to the stressed syllable (Munhall et al. 2004; Graf et al.
  2002), dip at the end of statements, and lift with the brows in questions.
- Gaze: away at the start of a long turn, back at its end (Kendon 1967); at the partner about 40 %
  of the time while speaking and 75 % while listening (Argyle & Cook 1976). The eyes jump and the
  head follows part of the way; the eyes counter-rotate.
- A listener nods at cues in the speaker's voice, about half a second later, 1 to 3 cycles of 1.5 to
  2.4 Hz that decay, 2.8 to 5.5 degrees (within what Hadar 1985 and McClave 2000 report), and smiles
  a little.
- Blinks (Bentivoglio 1997): 17 to 26 a minute, often at phrase ends and with gaze shifts.
- Beneath it drift and sway, so that stillness is not dead, with the spectrum and the speeds that
  were measured from a lively and a calm person; liveliness lies between the two.

Frame k shows the instant k * 40 ms, the capture of the frame's first sample.
"""

from dataclasses import dataclass

import numpy as np
from scipy.signal import butter, sosfiltfilt

from timar_ros.channels import ARKIT_BLENDSHAPES, CHANNELS, HEAD_CHANNELS
from timar_ros.dialogues.dialogue import Dialogue, Phrase, Response, join_intervals
from timar_ros.dialogues.sentences import (
    AGREEMENT,
    APPRECIATION,
    BACKCHANNEL,
    NO_ANSWER,
    OTHER_QUESTION,
    QUESTIONS,
    STATEMENT,
    YES_ANSWER,
)
from timar_ros.dialogues.traits import Traits
from timar_ros.dialogues.visemes import minimum_jerk, mouth
from timar_ros.dialogues.voices import CONTROL_RATE
from timar_ros.rates import FRAME_RATE

_STRIDE = CONTROL_RATE // FRAME_RATE
_SILENT_DB = -12.0  # effort where nothing is said, only for smooth edges
_EYE_RANGE = np.radians(30.0)  # rotation of the eye at a weight of 1

# Sway: rms in degrees of noise in bands of Hz, calm and lively, for (roll, pitch, yaw). Together
# with the events they give the measured deviations and spectra.
_SWAY_BANDS = ((0.02, 0.25), (0.25, 0.8), (0.8, 1.8), (1.8, 4.2))
_SWAY_CALM = np.array([[1.2, 0.6, 0.8], [0.5, 0.45, 0.4], [0.34, 0.36, 0.3], [0.34, 0.36, 0.3]])
_SWAY_LIVELY = np.array([[2.8, 4.8, 5.0], [1.3, 1.8, 2.0], [0.85, 1.0, 1.05], [0.65, 0.85, 0.75]])
_LATE_S = 0.3  # the head wakes with the voice, not before it
_REST = (1.0, 0.5, 0.35, 0.35)  # of each band while silent; 1.35 while speaking


@dataclass
class _Scene:
    """What one party's behaviour is made from; times in s, curves at CONTROL_RATE."""

    count: int
    traits: Traits
    own: list[Phrase]
    partner: list[Phrase]
    rng: np.random.Generator

    @property
    def time(self) -> np.ndarray:
        return np.arange(self.count) / CONTROL_RATE

    def scale(self, calm: float, lively: float) -> float:
        """Between the calm and the lively person's value, in equal ratios."""
        return calm * (lively / calm) ** self.traits.liveliness


def move(dialogue: Dialogue, party: int, rng: np.random.Generator) -> np.ndarray:
    """Motion of one party: float32 [frames, 55], rad and weights in [0, 1], as in CHANNELS."""
    frames = round(dialogue.seconds * FRAME_RATE)
    scene = _Scene(
        count=frames * _STRIDE,
        traits=dialogue.parties[party].traits,
        own=dialogue.of(party),
        partner=dialogue.of(1 - party),
        rng=rng,
    )
    responses = [r for r in dialogue.responses if r.party == party]
    effort = _effort(scene, scene.own)
    phonemes = [p for phrase in scene.own for p in phrase.phonemes]
    lips = mouth(phonemes, effort, scene.traits)

    gaze, shifts = _gaze(scene)
    head = np.degrees([scene.traits.rest_roll, scene.traits.rest_pitch, scene.traits.rest_yaw])
    head = head + _sway(scene, lips.speaking)
    head += _follow_gaze(scene, gaze)
    turns = _effort(scene, [p for p in scene.own if p.act != BACKCHANNEL])
    head += _speech_gestures(scene, turns, lips.speaking)
    head += _listener_nods(scene, responses)
    head = np.radians(_low_pass(head, 6.0))
    head = 0.6 * np.tanh(head / 0.6)  # a neck ends

    face = {name: np.zeros(scene.count) for name in ARKIT_BLENDSHAPES}
    _add_mouth(face, lips.channels, scene.traits)
    _add_brows(face, scene, gaze)
    _add_smiles(face, scene, responses)
    _add_eyes(face, scene, gaze, head)
    _add_rest(face, scene)
    _close_lips(face, lips.closed)
    _add_blinks(face, scene, shifts)

    motion = np.empty((frames, len(CHANNELS)), np.float32)
    motion[:, : len(HEAD_CHANNELS)] = head[::_STRIDE]
    weights = np.stack([face[name] for name in ARKIT_BLENDSHAPES], axis=1)
    motion[:, len(HEAD_CHANNELS) :] = np.clip(weights[::_STRIDE], 0.0, 1.0)
    return motion


# --- curves ----------------------------------------------------------------------------------


def _effort(scene: _Scene, phrases: list[Phrase]) -> np.ndarray:
    """Vocal effort in `phrases` over the whole dialogue in dB, smooth into silence."""
    effort = np.full(scene.count, _SILENT_DB)
    for phrase in phrases:
        first = round(phrase.start * CONTROL_RATE)
        curve = phrase.speech.effort_db[: max(0, scene.count - first)]
        effort[first : first + len(curve)] = curve
    return effort


def _low_pass(curves: np.ndarray, hertz: float) -> np.ndarray:
    """Zero phase, fourth order, along the first axis."""
    sos = butter(2, hertz, fs=CONTROL_RATE, output="sos")
    return sosfiltfilt(sos, curves, axis=0)


def _late(curve: np.ndarray) -> np.ndarray:
    """The same curve `_LATE_S` later, [count]."""
    late = round(_LATE_S * CONTROL_RATE)
    return np.concatenate((np.full(late, curve[0]), curve[:-late]))


def _noise(scene: _Scene, low: float, high: float) -> np.ndarray:
    """Gaussian noise of deviation 1 between two frequencies in Hz, [count]."""
    count = scene.count + 400
    spectrum = np.fft.rfft(scene.rng.standard_normal(count))
    hertz = np.fft.rfftfreq(count, 1 / CONTROL_RATE)
    # Falls by 1/f inside its band, as drift does.
    gain = np.where((hertz >= low) & (hertz <= high), 1.0 / np.maximum(hertz, 0.1), 0.0)
    noise = np.fft.irfft(spectrum * gain, count)[200 : 200 + scene.count]
    return noise / (noise.std() + 1e-9)


def _bell(scene: _Scene, curve: np.ndarray, at: float, width_s: float, height: float) -> None:
    """Adds a Gaussian to `curve`."""
    low = max(0, int((at - 4 * width_s) * CONTROL_RATE))
    high = min(scene.count, int((at + 4 * width_s) * CONTROL_RATE) + 2)
    if low < high:
        time = np.arange(low, high) / CONTROL_RATE
        curve[low:high] += height * np.exp(-0.5 * ((time - at) / width_s) ** 2)


def _hold(scene: _Scene, start: float, end: float, rise_s: float, fall_s: float, height: float) -> np.ndarray:
    """A plateau from `start` to `end` that is reached and left with minimum jerk, [count]."""
    time = scene.time
    return height * (minimum_jerk((time - start) / rise_s) * (1.0 - minimum_jerk((time - end) / fall_s)))


# --- head ------------------------------------------------------------------------------------


def _sway(scene: _Scene, speaking: np.ndarray) -> np.ndarray:
    """Drift and sway in degrees, [count, 3]; quicker bands grow while speaking and fade at rest."""
    liveliness = scene.traits.liveliness
    sway = np.zeros((scene.count, 3))
    active = _low_pass(_late(speaking), 0.6)
    for band, (low, high) in enumerate(_SWAY_BANDS):
        size = _SWAY_CALM[band] ** (1 - liveliness) * _SWAY_LIVELY[band] ** liveliness
        for axis in range(3):
            # Who is silent keeps the head's nodding rhythm for answers.
            rest = _REST[band] * (0.3 if axis == 1 else 1.0)
            gain = 1.0 if band == 0 else np.clip(rest + (1.35 - rest) * active, 0.08, 1.35)
            sway[:, axis] += size[axis] * gain * _noise(scene, low, high)
    return sway


def _speech_gestures(scene: _Scene, effort: np.ndarray, speaking: np.ndarray) -> np.ndarray:
    """Beats, phrase ends, questions, yes and no: degrees, [count, 3]."""
    rng = scene.rng
    roll, pitch, yaw = np.zeros((3, scene.count))
    size = scene.scale(2.8, 6.0)
    # The head rises with effort and voice, slowly (Yehia et al. 2002 found them coupled).
    pitch -= 0.045 * size * _low_pass(_late((effort - _SILENT_DB) * speaking), 0.8)
    for phrase in scene.own:
        if phrase.act == BACKCHANNEL:
            continue
        for accent in phrase.accents:
            if accent.time < phrase.start + 0.4:  # the head answers the voice, it does not announce it
                continue
            if rng.random() > 0.35 + 0.15 * scene.traits.liveliness + 0.3 * accent.prominence:
                continue
            at = accent.time + rng.normal(0.0, 0.03)
            depth = size * accent.prominence * rng.uniform(0.8, 1.2)
            width = rng.uniform(0.055, 0.08)
            _bell(scene, pitch, at + 0.02, width, depth)
            _bell(scene, pitch, at - 2.1 * width, 1.1 * width, -0.35 * depth)
            _bell(scene, yaw, at, 1.5 * width, depth * rng.normal(0.0, 0.35))
            _bell(scene, roll, at, 1.5 * width, depth * rng.normal(0.0, 0.2))
        if phrase.act in QUESTIONS:
            end = phrase.end
            pitch -= _hold(scene, end - 0.7, end + 0.5, 0.5, 0.7, 1.3 * size * rng.uniform(0.5, 1.3))
            tilt = size * rng.normal(0.0, 1.0)
            roll += _hold(scene, end - 0.8, end + 0.9, 0.6, 0.9, tilt)
        elif phrase.act == NO_ANSWER:
            yaw += _swing(scene, phrase.start, 2.2, 2.5, 2.0 * size * rng.uniform(0.6, 1.2))
        elif phrase.act in (YES_ANSWER, AGREEMENT):
            pitch += _nod(scene, phrase.start + 0.12, rng.uniform(1.6, 2.6), 2, size * rng.uniform(1.2, 2.0))
        else:
            _bell(scene, pitch, phrase.end - 0.05, 0.2, 0.8 * size * rng.uniform(0.4, 1.3))
    return np.stack((roll, pitch, yaw), axis=1)


def _nod(scene: _Scene, start: float, hertz: float, cycles: int, degrees: float) -> np.ndarray:
    """`cycles` nods downwards from `start`, each 0.65 of the one before; degrees, [count]."""
    phase = (scene.time - start) * hertz
    inside = (phase > 0) & (phase < cycles)
    phase = np.where(inside, phase, 0.0)
    return degrees * 0.65 ** np.floor(phase) * 0.5 * (1.0 - np.cos(2 * np.pi * phase))


def _swing(scene: _Scene, start: float, hertz: float, cycles: float, degrees: float) -> np.ndarray:
    """A head shake: left and right around the middle, dying away; degrees, [count]."""
    phase = np.clip((scene.time - start) * hertz, 0.0, cycles)
    return degrees * np.sin(2 * np.pi * phase) * np.sin(np.pi * phase / cycles)


def _listener_nods(scene: _Scene, responses: list[Response]) -> np.ndarray:
    """Nods in answer to cues; degrees, [count, 3]."""
    rng = scene.rng
    head = np.zeros((scene.count, 3))
    for response in responses:
        if response.kind == "smile":
            head[:, 0] += _hold(
                scene,
                response.time,
                response.time + 1.2,
                0.6,
                0.9,
                scene.scale(0.6, 2.0) * rng.normal(),
            )
            continue
        cycles = int(rng.choice((1, 2, 3), p=(0.5, 0.4, 0.1)))
        hertz = float(np.clip(rng.normal(1.8, 0.15), 1.5, 2.4))
        size = float(np.clip(scene.scale(3.3, 4.8) * np.exp(rng.normal(0.0, 0.12)), 2.8, 5.5))
        head[:, 1] += _nod(scene, response.time, hertz, cycles, size)
    return head


# --- gaze ------------------------------------------------------------------------------------


def _gaze(scene: _Scene) -> tuple[np.ndarray, list[float]]:
    """Where the person looks: degrees from the partner (pitch down, yaw left), [count, 2], and the
    times of large shifts."""
    rng, traits = scene.rng, scene.traits
    long_turns = [
        (start, end)
        for start, end in join_intervals(((p.start, p.end) for p in scene.own if p.act != BACKCHANNEL), gap_s=1.0)
        if end - start > 2.0
    ]
    target = np.zeros((scene.count, 2))
    shifts: list[float] = []
    side = rng.choice((-1.0, 1.0))
    now = 0.0
    total = scene.count / CONTROL_RATE
    while now < total:
        turn = next(((s, e) for s, e in long_turns if s - 0.3 <= now < e - 0.5), None)
        share = traits.look_while_speaking if turn else traits.look_while_listening
        starting = turn is not None and now < turn[0] + 0.3
        away = float(np.clip(rng.gamma(3.0, 0.45 if turn else 0.3), 0.4, 4.0))
        look = float(np.clip(rng.gamma(2.0, 0.5) * share / (1 - share) * 1.3, 0.5, 9.0))
        if not (starting and rng.random() < 0.75):
            now += look
            # A turn that starts meanwhile takes the eyes away at its start.
            begun = next((s for s, _ in long_turns if now - look < s - 0.2 < now), None)
            if begun is not None:
                now = begun - 0.2
                continue
            # Nobody looks away just before handing over.
            if any(e - 0.8 < now < e + 0.5 for _, e in long_turns):
                continue
        if now >= total:
            break
        end = now + away
        if turn:
            end = min(end, turn[1] - 0.3)
        if end - now < 0.3:
            now += 0.3
            continue
        side = side if rng.random() < 0.6 else -side
        yaw = side * rng.uniform(6.0, 22.0) * (1.0 if turn else 0.7)
        pitch = rng.normal(2.0, 3.0) if not turn else rng.normal(0.0, 6.0)
        first, last = int(now * CONTROL_RATE), min(scene.count, int(end * CONTROL_RATE))
        target[first:last] = (pitch, yaw)
        shifts += [now, end]
        now = end + 0.05
    return target, shifts


def _follow_gaze(scene: _Scene, gaze: np.ndarray) -> np.ndarray:
    """The head's share of the gaze, slower than the eyes; degrees, [count, 3]."""
    share = scene.scale(0.12, 0.45)
    across = _low_pass(gaze[:, 1] * share, 1.1)
    # Up and down it goes slower and less far, so that it does not look like a nod.
    along = _low_pass(gaze[:, 0] * share * 0.7, 0.5)
    return np.stack((0.12 * across, along, across), axis=1)


def _add_eyes(face: dict, scene: _Scene, gaze: np.ndarray, head: np.ndarray) -> None:
    """Eyes carry what the head does not: gaze minus head, with quick but smooth jumps."""
    eyes = _low_pass(np.radians(gaze), 7.0) - head[:, 1:]
    eyes[:, 0] += np.radians(0.8) * _noise(scene, 0.3, 3.0)
    eyes[:, 1] += np.radians(1.0) * _noise(scene, 0.3, 3.0)
    down, left = np.clip(eyes / _EYE_RANGE, -1.0, 1.0).T
    for side, outward in (("Left", left), ("Right", -left)):
        face["eyeLookDown" + side] += np.maximum(down, 0.0)
        face["eyeLookUp" + side] += np.maximum(-down, 0.0)
        face["eyeLookOut" + side] += np.maximum(outward, 0.0)
        face["eyeLookIn" + side] += np.maximum(-outward, 0.0)
        # The lid follows the eye down and up.
        face["eyeBlink" + side] += 0.35 * np.maximum(down, 0.0)
        face["eyeWide" + side] += 0.25 * np.maximum(-down, 0.0)


def _add_blinks(face: dict, scene: _Scene, shifts: list[float]) -> None:
    """Blinks at phrase ends and gaze shifts, the rest at random, never less than 0.4 s apart."""
    rng = scene.rng
    minutes = scene.count / CONTROL_RATE / 60.0
    wanted = rng.poisson(scene.traits.blinks_per_minute * minutes)
    likely = [p.end + rng.normal(0.05, 0.08) for p in scene.own if rng.random() < 0.45]
    likely += [t + rng.normal(0.05, 0.04) for t in shifts if rng.random() < 0.3]
    rng.shuffle(likely)
    anywhere = rng.uniform(0.0, scene.count / CONTROL_RATE, 4 * wanted + 4).tolist()
    times: list[float] = []
    for at in likely[: round(0.6 * wanted)] + anywhere:
        if len(times) >= wanted:
            break
        if all(abs(at - other) > 0.4 for other in times):
            times.append(at)
    closed = np.zeros(scene.count)
    for at in times:
        # Shuts in 80 ms, stays 40 to 60 ms, opens in 150 ms.
        shut = _hold(scene, at - 0.08, at + rng.uniform(0.04, 0.06), 0.08, 0.15, rng.uniform(0.9, 1.0))
        closed = np.maximum(closed, shut)
    for side in ("Left", "Right"):
        lid = face["eyeBlink" + side]
        face["eyeBlink" + side] = lid + (1.0 - lid) * closed
        face["eyeWide" + side] *= 1.0 - closed
        face["eyeSquint" + side] += 0.1 * closed


# --- face ------------------------------------------------------------------------------------


def _add_mouth(face: dict, lips: dict[str, np.ndarray], traits: Traits) -> None:
    for name, values in lips.items():
        if name in face:
            face[name] += values
        else:
            face[name + "Left"] += values * traits.asymmetry
            face[name + "Right"] += values * (2.0 - traits.asymmetry)


def _add_brows(face: dict, scene: _Scene, gaze: np.ndarray) -> None:
    """Brows rise on accents and in questions and draw together when looking away to think."""
    rng, size = scene.rng, scene.traits.brows
    up, down = np.zeros((2, scene.count))
    for phrase in scene.own:
        if phrase.act in QUESTIONS:
            height = size * rng.uniform(0.2, 0.4) * (0.6 if phrase.act == OTHER_QUESTION else 1.0)
            up += _hold(scene, max(phrase.start, phrase.end - 1.2), phrase.end + 0.35, 0.3, 0.5, height)
        elif phrase.act == APPRECIATION:
            up += _hold(scene, phrase.start - 0.1, phrase.end + 0.2, 0.25, 0.5, 0.25 * size)
        for accent in phrase.accents:
            if rng.random() < 0.3 * accent.prominence:
                height = 0.13 * size * accent.prominence * rng.uniform(0.6, 1.3)
                _bell(scene, up, accent.time - 0.02, rng.uniform(0.09, 0.15), height)
    averted = np.linalg.norm(gaze, axis=1) > 8.0
    down += 0.08 * size * _low_pass(averted.astype(float), 1.2)
    up += 0.03 * size * np.abs(_noise(scene, 0.05, 0.6))
    up, down = np.clip(up, 0.0, 0.9), np.clip(down, 0.0, 0.6)
    face["browInnerUp"] += up
    for side, gain in _sides(scene):
        face["browOuterUp" + side] += 0.75 * gain * up
        face["browDown" + side] += gain * down * np.clip(1.0 - 3.0 * up, 0.0, 1.0)
        face["eyeWide" + side] += 0.25 * gain * up


def _add_smiles(face: dict, scene: _Scene, responses: list[Response]) -> None:
    """Smiles that answer the partner, that go with agreement, and a slow friendly undertone."""
    rng, size = scene.rng, scene.traits.smiles
    smile = 0.05 * size * np.clip(1.0 + _noise(scene, 0.02, 0.2), 0.0, 3.0)
    for response in responses:
        if response.kind == "smile" or rng.random() < 0.15 * size:
            length = rng.uniform(0.8, 2.5)
            smile += _hold(
                scene,
                response.time + 0.15,
                response.time + 0.15 + length,
                0.45,
                0.9,
                size * rng.uniform(0.12, 0.35),
            )
    for phrase in scene.own:
        chance = {AGREEMENT: 0.4, APPRECIATION: 0.6, YES_ANSWER: 0.4, STATEMENT: 0.08}.get(phrase.act, 0)
        if rng.random() < chance * size:
            smile += _hold(scene, phrase.start + 0.5, phrase.end + 0.7, 0.5, 1.0, size * rng.uniform(0.12, 0.35))
    smile = np.clip(smile, 0.0, 0.75)
    for side, gain in _sides(scene):
        face["mouthSmile" + side] += gain * smile
        face["cheekSquint" + side] += 0.5 * gain * smile
        face["eyeSquint" + side] += 0.3 * gain * smile
        face["mouthDimple" + side] += 0.15 * gain * smile
    # A smile stretches the lips and takes from their pucker.
    face["mouthPucker"] *= 1.0 - 0.5 * smile
    face["mouthFunnel"] *= 1.0 - 0.4 * smile


def _add_rest(face: dict, scene: _Scene) -> None:
    """The small weights that no face is without, and what lips do between words."""
    rng = scene.rng
    for name in ("mouthFrown", "mouthPress", "noseSneer", "browDown", "eyeSquint"):
        level = rng.uniform(0.01, 0.06) * np.clip(1.0 + 0.4 * _noise(scene, 0.02, 0.3), 0.0, 3.0)
        for side, gain in _sides(scene):
            face[name + side] += gain * level
    for name in ("mouthShrugLower", "mouthShrugUpper", "mouthRollUpper", "mouthPucker"):
        face[name] += rng.uniform(0.0, 0.05) * np.clip(1.0 + 0.4 * _noise(scene, 0.02, 0.3), 0.0, 3.0)
    slant = 0.03 * _noise(scene, 0.02, 0.4)
    for side, values in (("Left", slant), ("Right", -slant)):
        face["mouth" + side] += np.maximum(values, 0.0)
        face["jaw" + side] += 0.4 * np.maximum(values, 0.0)
    ajar = rng.uniform(0.0, 0.07) * np.clip(1.0 + 0.5 * _noise(scene, 0.02, 0.4), 0.0, 3.0)
    face["jawOpen"] += ajar * (1.0 - face["jawOpen"])
    # Before a phrase the mouth opens to breathe in.
    for phrase in scene.own:
        if phrase.act != BACKCHANNEL and rng.random() < 0.6:
            breath = np.zeros(scene.count)
            _bell(scene, breath, phrase.start - 0.22, 0.08, rng.uniform(0.04, 0.12))
            face["jawOpen"] = np.maximum(face["jawOpen"], breath)


def _close_lips(face: dict, closed: np.ndarray) -> None:
    """After all else was added: where the lips touch, nothing may pull them apart again."""
    face["mouthClose"] = np.maximum(face["mouthClose"], face["jawOpen"] * closed)
    for name in ("mouthFunnel", "mouthShrugLower"):
        face[name] *= 1.0 - 0.8 * closed


def _sides(scene: _Scene) -> tuple[tuple[str, float], tuple[str, float]]:
    return (("Left", scene.traits.asymmetry), ("Right", 2.0 - scene.traits.asymmetry))
