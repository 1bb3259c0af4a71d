"""One policy on one clip, with one seed and under one perturbation: the same frames, turns, policy as live."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import torch

from timar_ros.errors import TimarError
from timar_ros.model.checkpoint import Policy, load_policy
from timar_ros.model.precision import FLOAT32
from timar_ros.motion.track import MotionTrack, track_of
from timar_ros.rates import FRAME_S
from timar_ros.replay.behaviour_metrics import behaviour_metrics, floor_by_frame
from timar_ros.replay.clips import Clip, ClipSource
from timar_ros.replay.limit_use import limit_use
from timar_ros.replay.offline import HeardConversation, hear_frames, hop_motions
from timar_ros.replay.perturbations import perturbed
from timar_ros.replay.published_metrics import published_metrics
from timar_ros.replay.rivals import ENERGY_JAW, RIVALS, SEEDED, rival_motion
from timar_ros.robot.profile import RobotProfile
from timar_ros.stream.device import choose_device
from timar_ros.stream.frames import SELF, Frame
from timar_ros.stream.lookahead import own_voice_ahead, own_voice_as_known
from timar_ros.stream.published_policy import PublishedPolicy
from timar_ros.stream.steppers import AUTO, HOP, frames_in_hop, make_stepper, most_lookahead_frames
from timar_ros.stream.trace import policy_fingerprint

HOP_FRAMES = 2
LIVE = "live"
"""Stands for a policy's name: the motion that was recorded, not drawn anew."""


@dataclass(frozen=True)
class Settings:
    """How policies are run; None takes what a live bag tells, else the head node's default."""

    hop_frames: int | None = None
    turns: str | None = None
    temperature: float | None = None
    precision: str | None = None
    device: str = "cpu"
    robot: str | None = "generic"


@dataclass(frozen=True)
class Variant:
    """What is compared. `policy` None is the policy of the live bag, else the default one; likewise `seed`.

    Attributes:
        policy: a policy's name or folder, `LIVE`, or one of `RIVALS`.
        perturbation: see perturbations.py.
        lookahead_frames: by how much the own voice is known before it is heard, as a synthesiser's is. None: as much as
            in the live bag, if the policy knows it, else 0.
        draws: None: what the policy draws with this seed. A number: the mean of so many draws, each with a seed of its
            own, which is what the policy expects; 0: one draw at temperature 0, which is about that and costs less.
    """

    policy: str | None = None
    seed: int | None = None
    perturbation: str | None = None
    lookahead_frames: int | None = None
    draws: int | None = None

    @property
    def without_seed(self) -> Variant:
        """Trials that differ in nothing else are averaged."""
        return replace(self, seed=None)

    @property
    def label(self) -> str:
        """Without the seed. A folder that training wrote, RUN/policy, goes by its run's name."""
        *_, run, name = ["", "", *(self.policy or "policy").rstrip("/").split("/")]
        parts = [run if run and name == "policy" else name, self.perturbation]
        if self.lookahead_frames:
            parts.append(f"{1000 * FRAME_S * self.lookahead_frames:.0f} ms ahead")
        if self.draws is not None:
            parts.append(f"mean of {self.draws}" if self.draws else "temperature 0")
        return ", ".join(part for part in parts if part)


def variants_of(
    policies: Sequence[str | None],
    seeds: Sequence[int | None] = (None,),
    perturbations: Sequence[str] = (),
    lookaheads: Sequence[int | None] = (None,),
    draws: int | None = None,
) -> list[Variant]:
    """Every combination that means something.

    What was recorded and the rivals hear no partner, so they are not disturbed; of rivals only those that are
    `SEEDED` differ by seed; only who hears the own voice can hear it earlier. The mean of draws is taken once for
    all seeds, of the undisturbed conversation.
    """
    found = []
    for policy, perturbation, lookahead, seed in product(policies, (None, *perturbations), lookaheads, seeds):
        deaf = policy == LIVE or policy in RIVALS
        if deaf and perturbation:
            continue
        if deaf and policy != ENERGY_JAW:
            lookahead = 0 if 0 in lookaheads else None
        seed = None if deaf and policy not in SEEDED else seed
        found.append(Variant(policy, seed, perturbation, lookahead))
        if draws is not None and not deaf and perturbation is None:
            found.append(Variant(policy, seeds[0], None, lookahead, draws))
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Trial:
    """What came of it.

    Attributes:
        metrics: nested figures, None where not defined.
        truth: the same behaviour figures of the true person, where that is known.
        wall_s: time for hearing, drawing and planning, without reading and scoring.
        error: why there is no result, a sentence.
    """

    clip: str
    variant: Variant
    policy: str = ""
    seed: int = 0
    seconds: float = 0.0
    wall_s: float = 0.0
    metrics: Mapping[str, Any] = field(default_factory=dict)
    truth: Mapping[str, Any] = field(default_factory=dict)
    motion: MotionTrack | None = None
    floor: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    error: str | None = None


def run_trial(source: ClipSource, variant: Variant, settings: Settings, others: Sequence[ClipSource] = ()) -> Trial:
    """Run and score one variant on one clip; what a person can put right comes back as `error`.

    Args:
        others: clips of which the next that is of other people lends its partner to `swap-partner`, and from whose true
            people the rivals know people.
    """
    try:
        return _run(source, variant, settings, others)
    except TimarError as error:
        return Trial(source.name, variant, error=str(error))


def run_trials(
    source: ClipSource, variants: Sequence[Variant], settings: Settings, others: Sequence[ClipSource] = ()
) -> list[Trial]:
    """Several variants on one clip, which is read and heard once."""
    return [run_trial(source, variant, settings, others) for variant in variants]


def _run(source: ClipSource, variant: Variant, settings: Settings, others: Sequence[ClipSource]) -> Trial:
    clip = _read(source)
    began = time.perf_counter()
    plain = _hear(source, None, HOP_FRAMES, "floor", ())
    notes: list[str] = list(clip.notes)
    figures: dict[str, Any] = {}
    if variant.policy == LIVE:
        if clip.recorded is None:
            raise TimarError(f"{clip.name} holds no recorded motion; leave the policy 'live' out")
        track, policy_name, seed, hops = clip.recorded, LIVE, 0, None
    elif variant.policy in RIVALS:
        frames, seed = own_voice_ahead(clip.frames, variant.lookahead_frames or 0), variant.seed or 0
        track = rival_motion(variant.policy, clip, frames, seed, tuple(others) or (source,))
        policy_name, hops = variant.policy, None
    else:
        drawn = _draw(clip, source, variant, settings, others)
        track, policy_name, seed, hops = drawn.track, drawn.policy, drawn.seed, drawn.hops
        notes += drawn.notes
        figures["live"] = drawn.against_live
    wall_s = time.perf_counter() - began
    count = len(track)
    hops = hops or [2] * (count // 2)
    if settings.robot is not None:
        planning = time.perf_counter()
        figures["limits"] = limit_use(RobotProfile.load(settings.robot), track.rpy(), hops)
        wall_s += time.perf_counter() - planning
    floor = floor_by_frame([b for update in plain.updates for b in update.boundaries], len(clip.frames))
    own_voice = clip.voice(SELF)
    cues_s = clip.made.cues if clip.made else None
    figures |= behaviour_metrics(track, floor, own_voice, clip.truth, cues_s)
    truth: dict[str, Any] = {}
    if clip.truth is not None:
        figures |= published_metrics(track, clip.truth, clip.other)
        truth = behaviour_metrics(clip.truth, floor, own_voice, cues_s=cues_s)
        # Against the voice, whereas the policy's are against the true mouth.
        truth["lips"] = {name: value for name, value in truth["lips"].items() if name.startswith("voice_")}
    if clip.system:
        figures["system"] = dict(clip.system)
    return Trial(
        clip.name, variant, policy_name, seed, clip.seconds, wall_s, figures, truth, track, floor[:count], tuple(notes)
    )


@dataclass(frozen=True)
class _Drawn:
    track: MotionTrack
    policy: str
    seed: int
    hops: list[int]
    against_live: dict[str, Any]
    notes: list[str]


def _draw(clip: Clip, source: ClipSource, variant: Variant, settings: Settings, others: Sequence[ClipSource]) -> _Drawn:
    told = clip.live.told if clip.live else {}
    name = variant.policy or str(told.get("policy", "default"))
    precision = settings.precision or str(told.get("precision", FLOAT32))  # the same in every process
    policy = _policy(name, precision)
    device = choose_device(settings.device)
    hop_frames = settings.hop_frames or told.get("hop_frames") or frames_in_hop(policy, AUTO, HOP_FRAMES, device)
    told_ahead = int(told.get("lookahead_frames", 0))
    lookahead = variant.lookahead_frames
    if lookahead is None:
        lookahead = min(told_ahead, most_lookahead_frames(policy))
    asked = {
        "policy": name,
        "seed": int(told.get("seed", 0)) if variant.seed is None else variant.seed,
        "hop_frames": frames_in_hop(policy, HOP, hop_frames, device),
        "turns": settings.turns or str(told.get("turns", "floor")),
        "temperature": float(told.get("temperature", 1.0)) if settings.temperature is None else settings.temperature,
        "precision": precision,
        "lookahead_frames": lookahead,
    }
    notes = []
    undisturbed = Variant(variant.policy, variant.seed, None, variant.lookahead_frames)
    same = clip.live is not None and variant == undisturbed and all(told.get(k) == v for k, v in asked.items())
    if same and told.get("fingerprint") not in (None, policy_fingerprint(policy.folder)):
        notes.append(f"{clip.name}: the policy {name} here is not the one that ran live, though its name is the same")
        same = False
    repeats = same and clip.live.whole
    torch.set_num_threads(int(told.get("threads", 1)) if repeats else 1)
    lenders = tuple(others) if variant.perturbation else ()
    heard = _hear(source, variant.perturbation, asked["hop_frames"], asked["turns"], lenders)
    hops = [asked["hop_frames"]] * (len(clip.frames) // asked["hop_frames"])
    differing = None
    if repeats:
        live_updates = tuple(update for traced in clip.live.hops for update in traced.hop.updates)
        hops = [len(traced.hop.frames) for traced in clip.live.hops]
        differing = sum(a != b for a, b in zip(live_updates, heard.updates, strict=False))
        if differing:
            notes.append(
                f"{clip.name}: voice activity decided otherwise here in {differing} of {len(live_updates)} frames "
                "(another processor or version); the decisions of the live run were used"
            )
            heard = HeardConversation(heard.frames[: len(live_updates)], live_updates)
    if lookahead == told_ahead and variant.perturbation is None:
        known = own_voice_as_known(heard.frames)  # live it was not known what was queued late or dropped
    else:
        known = own_voice_ahead(heard.frames, lookahead)
    heard = HeardConversation(known, heard.updates)

    def draw(seed: int, temperature: float) -> tuple[MotionTrack, np.ndarray]:
        noise = _seed_in(clip, seed)
        stepper = make_stepper(policy, settings.device, noise, temperature, precision, asked["hop_frames"], lookahead)
        shown, flame = [], []
        for motion in hop_motions(stepper, heard, hops=hops):
            shown.append(motion)
            if isinstance(stepper, PublishedPolicy):
                flame.append(stepper.flame_motion)
        return track_of(np.concatenate(flame or shown)), np.concatenate(shown)

    if variant.draws is None:
        track, shown = draw(asked["seed"], asked["temperature"])
    elif variant.draws == 0:
        track, shown = draw(asked["seed"], 0.0)
    else:
        each = [draw(asked["seed"] + k, asked["temperature"])[0] for k in range(variant.draws)]
        track, shown = MotionTrack(np.mean([one.values for one in each], axis=0), each[0].kind), None
    against_live: dict[str, Any] = {"largest_difference": None, "exact": None, "differing_decisions": differing}
    against_live["lookahead_frames"] = told_ahead if clip.live else None
    if repeats:
        live_motion = np.concatenate([traced.hop.motion for traced in clip.live.hops])
        largest = float(np.abs(shown - live_motion).max())
        against_live |= {"largest_difference": largest, "exact": largest == 0.0}
    return _Drawn(track, name, asked["seed"], hops, against_live, notes)


def _seed_in(clip: Clip, seed: int) -> int:
    """As live; but of its own in each generated dialogue: with the same noise in all a head would lean alike in all."""
    made = clip.made
    if made is None:
        return seed
    return int(np.random.default_rng([made.seed, made.number, made.party, seed]).integers(2**31))


@lru_cache(maxsize=2)
def _read(source: ClipSource) -> Clip:
    return source.read()


@lru_cache(maxsize=2)
def _policy(name: str, precision: str) -> Policy:
    """A policy's weights; by precision, since a stepper brings them to it in place."""
    return load_policy(name)


@lru_cache(maxsize=4)
def _hear(
    source: ClipSource, name: str | None, hop_frames: int, turns: str, others: tuple[ClipSource, ...]
) -> HeardConversation:
    clip = _read(source)
    if name is None:
        return hear_frames(clip.frames, hop_frames, turns)

    def stranger() -> Sequence[Frame] | None:
        place = others.index(source) if source in others else 0
        mine = {source.own, source.partner}
        other = next((each for each in (*others[place:], *others[:place]) if each.own not in mine), None)
        return None if other is None else other.read().frames

    return hear_frames(perturbed(name, clip.frames, clip.name, stranger), hop_frames, turns)


def plain(figures: Any) -> Any:
    """Figures as JSON can hold them: Python's own numbers, None for what is not finite."""
    if isinstance(figures, Mapping):
        return {str(key): plain(value) for key, value in figures.items()}
    if isinstance(figures, list | tuple):
        return [plain(value) for value in figures]
    if isinstance(figures, np.generic):
        figures = figures.item()
    if isinstance(figures, float) and not math.isfinite(figures):
        return None
    return figures
