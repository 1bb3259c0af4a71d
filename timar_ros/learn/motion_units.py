"""The units that a network draws motion in, and how deviations go on, both found in the conversations to learn from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from timar_ros.channels import CHANNELS
from timar_ros.learn.dataset import MOUTH, Conversation, known_channels
from timar_ros.model.network import NOD_FRAMES, TimarNetwork

# From how many conversations it is learned how deviations go on.
WAYS_BACK_OF = 40


def set_motion_units(network: TimarNetwork, conversations: list[Conversation], started: bool = False) -> None:
    """Normalise each channel by its mean and standard deviation, and find how well its past predicts it (linear
    regression over 1, 2, ... frames) but for the mouth's; a floor keeps channels that hardly move from being noise.

    The course of a nod is the mean of all, from the frame before each. A network that is `started` from another policy
    keeps that one's units in channels that the conversations do not tell of.
    """
    known = torch.from_numpy(known_channels(conversations))
    units = ("motion_mean", "motion_scale", "motion_kept", "motion_step", "nod_course")
    before = {name: getattr(network, name).clone() for name in units}
    _find_units(network, conversations)
    if started:
        for name, values in before.items():
            getattr(network, name).copy_(torch.where(known, getattr(network, name), values))
    network.partner_mean.copy_(network.motion_mean)
    network.partner_scale.copy_(torch.where(known, network.motion_scale, torch.inf))
    network.own_shown.copy_(torch.from_numpy(~MOUTH))


def _find_units(network: TimarNetwork, conversations: list[Conversation]) -> None:
    motion = np.concatenate([conversation.motion.reshape(-1, len(CHANNELS)) for conversation in conversations])
    network.motion_mean.copy_(torch.from_numpy(motion.mean(axis=0, dtype=np.float64)))
    network.motion_scale.copy_(torch.from_numpy(motion.std(axis=0, dtype=np.float64).clip(0.02)))
    mean, scale = network.motion_mean.numpy(), network.motion_scale.numpy()
    tracks = [(track - mean) / scale for conversation in conversations for track in conversation.motion]
    longer = [track for track in tracks if len(track) >= len(network.motion_step)]
    for lag in range(1, len(network.motion_step)):
        together = np.mean([np.mean(track[lag:] * track[:-lag], axis=0) for track in longer], axis=0)
        alone = np.mean([np.mean(track[:-lag] ** 2, axis=0) for track in longer], axis=0)
        kept = np.where(MOUTH, 0.0, (together / alone.clip(1e-6)).clip(0.0, 1.0))
        square = np.mean([np.mean((track[lag:] - kept * track[:-lag]) ** 2, axis=0) for track in longer], axis=0)
        network.motion_kept[lag] = torch.from_numpy(kept)
        network.motion_step[lag] = torch.from_numpy(np.sqrt(square).clip(0.05))
    places = [place for conversation in conversations for place in conversation.nod_place]
    courses = [
        track[before + 1 : before + 1 + NOD_FRAMES] - track[before]
        for track, place in zip(tracks, places, strict=True)
        for before in np.flatnonzero(place[NOD_FRAMES:] == NOD_FRAMES)
    ]
    network.nod_course[1:] = torch.from_numpy(np.where(MOUTH, 0.0, np.mean(courses, axis=0) if courses else 0.0))


def find_ways_back(network: TimarNetwork, conversations: list[Conversation]) -> Tensor:
    """[2, lags, 55] how a deviation goes on after so many frames: shares of it and of its last change, by regression.

    Both are 0 for the mouth, whose past is not shown.
    """
    mean, scale = network.motion_mean.cpu().numpy(), network.motion_scale.cpu().numpy()
    tracks = [(track - mean) / scale for conversation in conversations[:WAYS_BACK_OF] for track in conversation.motion]
    ways = np.zeros((2, len(network.motion_step), len(CHANNELS)), np.float32)
    for lag in range(1, ways.shape[1]):
        value, change, later = (
            np.concatenate(parts)
            for parts in zip(*((t[1:-lag], np.diff(t[:-lag], axis=0), t[1 + lag :]) for t in tracks), strict=True)
        )
        vv, vc, cc = (value * value).mean(0), (value * change).mean(0), (change * change).mean(0)
        vl, cl, det = (value * later).mean(0), (change * later).mean(0), vv * cc - vc * vc
        solved = np.stack([cc * vl - vc * cl, vv * cl - vc * vl]) / np.maximum(det, 1e-9)
        ways[:, lag] = np.where(MOUTH | (det < 1e-6), 0.0, solved.clip(-1.0, [[1.0], [25.0]]))
    return torch.from_numpy(ways)
