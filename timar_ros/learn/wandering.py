"""Where a policy wanders when it lives on its own motion, as histories to learn the way back from.

A network that was only shown what people did knows nothing of its own small errors; fed back frame after frame, they
carry the head to where no person was, and the better it uses its past the further. So a policy is let run over
conversations, beginning anew every few seconds, and is then trained with the motion it drew as its past (DAgger, Ross
et al. 2011): to do there what the person did, while the deviation dies away as the channel's own deviations do.

What is left of a steady pull shows as a head that is held askew or a smile that stays, moved too far or not far enough
about its place; `settle` takes that out.
"""

from __future__ import annotations

from collections.abc import Sequence

import joblib
import numpy as np
import torch
from tqdm import tqdm

from timar_ros.channels import CHANNELS, HEAD_CHANNELS
from timar_ros.learn.dataset import Conversation
from timar_ros.model.checkpoint import Policy
from timar_ros.model.precision import FLOAT32
from timar_ros.rates import FRAME_NS, FRAME_SAMPLES
from timar_ros.stream.floor import Floor
from timar_ros.stream.frames import Frame
from timar_ros.stream.policy import Hop, PolicyBatch
from timar_ros.stream.sampling import Sampling
from timar_ros.stream.turns import TurnBoundary

HOP_FRAMES = 2
RUN_FRAMES = (100, 400)  # least and most between two beginnings
WHOLE = (2**40, 2**40 + 1)  # the same, so that a conversation is lived through from one end to the other
TOGETHER = 4  # conversations in one batch
STILL = 1e-4  # rad or weight; what deviates by less does not move

# How far a head moves that is settled, of a person's own. People together cover more than each does (1.13 to 1.17
# times in generated dialogues), as each holds the head elsewhere, which a policy does not.
HEAD_SPREAD = 1.08

# Head and expression, which are held. Gaze and blinks come and go, and lips are the mean of what could be.
_EXPRESSION = ("brow", "cheekSquint", "eyeSquint", "eyeWide", "mouthDimple", "mouthSmile", "noseSneer")
SETTLED = np.array([name in HEAD_CHANNELS or name.startswith(_EXPRESSION) for name in CHANNELS])


def wander(
    policy: Policy,
    conversations: Sequence[Conversation],
    sampling: Sampling,
    seed: int,
    run_frames: tuple[int, int] = RUN_FRAMES,
) -> list[np.ndarray]:
    """Let a policy live through conversations as either party; their turns are taken as known.

    Args:
        run_frames: least and most frames between two beginnings.

    Returns:
        For each conversation the motion that it drew, [2, T, 55] float32; a last frame without a hop is the people's.
    """
    rng = np.random.default_rng(seed)
    streams = [(conversation, party) for conversation in conversations for party in (0, 1)]
    seeds = [int(s) for s in rng.integers(2**31, size=len(streams))]
    batch = PolicyBatch(policy, seeds, "cpu", sampling, hop_frames=HOP_FRAMES, precision=FLOAT32)  # as everywhere
    drawn = [conversation.motion.copy() for conversation in conversations]
    anew = rng.integers(*run_frames, len(streams))
    for first in range(0, max(c.frames for c in conversations) - HOP_FRAMES + 1, HOP_FRAMES):
        hops: list[Hop | None] = []
        for stream, (conversation, party) in enumerate(streams):
            if first + HOP_FRAMES > conversation.frames:
                hops.append(None)
                continue
            if first >= anew[stream]:
                batch.reset(stream)
                anew[stream] = first + rng.integers(*run_frames)
            hops.append(_hop(conversation, party, first))
        for stream, motion in enumerate(batch.step(hops)):
            if motion is not None:
                drawn[stream // 2][stream % 2, first : first + HOP_FRAMES] = motion
    return drawn


def settle(
    policy: Policy, conversations: Sequence[Conversation], lived_through: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Let a policy hold its head and its expression where people hold theirs, and move them as far about there.

    As far: the variance about one's own mean is, averaged, that of people, and the head's spread HEAD_SPREAD times
    theirs. Mean and scale of the `SETTLED` channels are changed, so that the network goes on in its own units as
    before. Of what the data does not tell nothing is changed.

    Args:
        conversations: whose people it is like: all there are, as people differ in posture more than a policy does.
        lived_through: by the policy, of these, whole: the first so many.

    Returns:
        [55] float32 rad or blendshape weight, by how much each channel was moved, and [55] by what its spread was
        multiplied.
    """
    motions = [wander_through(policy, conversations[:lived_through], seed, WHOLE), [c.motion for c in conversations]]
    (drawn, people), (drawn_variance, variance) = (
        [np.mean([measure(track, axis=0) for motion in each for track in motion], axis=0) for each in motions]
        for measure in (np.mean, np.var)
    )
    drawn_spread, spread = np.sqrt(drawn_variance), np.sqrt(variance)
    spread[: len(HEAD_CHANNELS)] *= HEAD_SPREAD
    settled = SETTLED & np.all([c.known for c in conversations], axis=0)
    # A channel that does not move at all, in the data or of the policy, is not to be divided by.
    moves = settled & (spread > STILL) & (drawn_spread > STILL)
    wider = np.where(moves, spread / np.maximum(drawn_spread, STILL), 1.0).astype(np.float32)
    moved = np.where(settled, people - drawn, 0.0).astype(np.float32)
    network = policy.network
    # What lies about the mean of the units is spread about it, too.
    network.motion_mean += torch.from_numpy(moved + (1 - wider) * (drawn - network.motion_mean.numpy()))
    network.motion_scale *= torch.from_numpy(wider)
    return moved, wider


def wander_through(
    policy: Policy, conversations: Sequence[Conversation], seed: int, run_frames: tuple[int, int] = RUN_FRAMES
) -> list[np.ndarray]:
    """What the policy draws in the conversations by its own sampling, as `wander` gives it, on all cores."""
    sampling = Sampling.from_policy(policy)
    groups = [conversations[k : k + TOGETHER] for k in range(0, len(conversations), TOGETHER)]
    pending = joblib.Parallel(n_jobs=-1, return_as="generator")(
        joblib.delayed(wander)(policy, group, sampling, seed + k, run_frames) for k, group in enumerate(groups)
    )
    return [motion for motions in tqdm(pending, total=len(groups), desc="wandering") for motion in motions]


def _hop(conversation: Conversation, party: int, first: int) -> Hop:
    voices = conversation.voices[[party, 1 - party], first * FRAME_SAMPLES : (first + HOP_FRAMES) * FRAME_SAMPLES]
    own, partner = (voices / np.float32(32768)).reshape(2, HOP_FRAMES, FRAME_SAMPLES)
    frames = [Frame(first + k, (first + k) * FRAME_NS, own[k], partner[k], True, True) for k in range(HOP_FRAMES)]
    starts = conversation.turn_starts
    inside = starts[(starts >= first) & (starts < first + HOP_FRAMES)]
    return Hop(frames, [TurnBoundary(int(start), "floor", Floor.NOBODY) for start in inside])
