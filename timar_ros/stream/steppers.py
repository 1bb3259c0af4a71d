"""A loaded policy as something that moves a head hop by hop, whichever network it is of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from timar_ros.errors import TimarError
from timar_ros.model.checkpoint import Policy
from timar_ros.model.published import FRAMES, PublishedNetwork
from timar_ros.stream.frames import Frame
from timar_ros.stream.policy import IncrementalPolicy
from timar_ros.stream.published_policy import PublishedPolicy, published_sampling
from timar_ros.stream.sampling import Sampling
from timar_ros.stream.turns import TurnBoundary

HOP, TURN, AUTO = "hop", "turn", "auto"


class Stepper(Protocol):
    """What a conversation asks of a policy.

    Attributes:
        device, precision: where and in what it runs now.
        fallback: why it left the device that it was to run on, or None.
        limitation: what of the face it cannot move, or None.
    """

    device: torch.device
    precision: str
    fallback: str | None
    limitation: str | None

    def step(self, frames: Sequence[Frame], boundaries: Sequence[TurnBoundary]) -> np.ndarray:
        """Hear one hop and draw its motion [len(frames), 55]; see `PolicyBatch.step`."""

    def settle(self) -> None:
        """Work that can wait until the hop's motion has been sent. It changes no result."""

    def reset(self) -> None:
        """Forget the conversation."""


def most_lookahead_frames(policy: Policy) -> int:
    """By how many frames at most the own voice may run ahead of everything else for this policy."""
    return 0 if isinstance(policy.network, PublishedNetwork) else policy.network.config.max_lookahead_frames


def make_stepper(
    policy: Policy,
    device: str = "auto",
    seed: int = 0,
    temperature: float = 1.0,
    precision: str = "auto",
    hop_frames: int = 2,
    lookahead_frames: int = 0,
) -> Stepper:
    """The stepper for a policy's network, drawing as the policy's folder says, its temperature times `temperature`.

    Raises:
        TimarError: the own voice runs ahead by more frames than the policy knows.
    """
    if isinstance(policy.network, PublishedNetwork):
        if lookahead_frames:
            raise TimarError(
                f"the own voice runs ahead by {lookahead_frames} frames; published weights, as {policy.name}, know 0"
            )
        sampling = published_sampling(policy, temperature)
        return PublishedPolicy(policy, device, seed, sampling, precision)
    sampling = Sampling.from_policy(policy, temperature)
    return IncrementalPolicy(policy, device, seed, sampling, precision, hop_frames, lookahead_frames)


def frames_in_hop(policy: Policy, predict_by: str, hop_frames: int, device: torch.device) -> int:
    """How many frames the policy advances by.

    Args:
        predict_by: "hop"; "turn", to wait for the whole second as published; or "auto": hop, but turn for published
            weights on the CPU, where the open second cannot be encoded at each hop in time.

    Raises:
        TimarError: turn for a policy whose turns are no seconds, or a hop that does not divide the published second.
    """
    published = isinstance(policy.network, PublishedNetwork)
    if predict_by == AUTO:
        predict_by = TURN if published and device.type == "cpu" else HOP
    if predict_by == TURN and not published:
        raise TimarError(
            f"predict_by is turn, but the turns of policy {policy.name} are the conversation's, not seconds; use hop"
        )
    if predict_by == TURN:
        return FRAMES
    if published and FRAMES % hop_frames:
        raise TimarError(f"hop_frames is {hop_frames}; published weights need a divisor of {FRAMES}: 1, 5 or 25")
    return hop_frames
