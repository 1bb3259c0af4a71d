"""What the policy remembers of a conversation: the open turn as heard and moved, closed turns as keys and values."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from timar_ros.model.features import FEATURES_PER_FRAME
from timar_ros.model.network import TOKENS_PER_FRAME, TimarNetwork

# Frame number of a place in the ring that holds nothing, before every frame.
NEVER = -(2**40)


class ClosedTurns:
    """Keys and values of several streams, in one buffer of frames' places:

        0 ... ring            the last `window_frames` frames of closed turns, each at its number modulo the window
        ring ... ring + tail  the turns of the present pass
        the last              what is written there is never read

    `frames` [streams, window_frames] tells which frame each place of the ring holds.
    """

    def __init__(self, network: TimarNetwork, streams: int, device: torch.device, dtype: torch.dtype) -> None:
        config = network.config
        self.ring = config.window_frames
        self.tail = 2 * config.max_turn_frames
        self.nowhere = self.ring + self.tail
        slots = (self.nowhere + 1) * TOKENS_PER_FRAME
        self.keys_values = torch.zeros(
            config.blocks, 2, streams, config.heads, slots, config.width // config.heads, device=device, dtype=dtype
        )
        self.frames = np.full((streams, self.ring), NEVER)

    def keep(self, place: Tensor) -> None:
        """Copy the frames of the present pass to their places [streams, frames] (int64, on the device)."""
        streams, frames = place.shape
        token = torch.arange(TOKENS_PER_FRAME, device=place.device)
        to = (place[..., None] * TOKENS_PER_FRAME + token).flatten(1)
        stream = torch.arange(streams, device=place.device)[:, None]
        slots = self.keys_values.permute(2, 4, 0, 1, 3, 5)
        first = self.ring * TOKENS_PER_FRAME
        slots[stream, to] = slots[:, first : first + frames * TOKENS_PER_FRAME]

    def clear(self) -> None:
        self.frames[:] = NEVER


class OpenTurn:
    """The frames since the last boundary: what was heard, and the motion sent so far (normalised units)."""

    HEARD = (
        *("own_speech", "partner_speech", "own_heard", "partner_heard", "partner_motion", "partner_seen"),
        "nod_place",
    )

    def __init__(self, first_frame: int, motion_dim: int) -> None:
        self.first_frame = first_frame
        self.own_speech = np.zeros((0, FEATURES_PER_FRAME), np.float32)
        self.partner_speech = np.zeros((0, FEATURES_PER_FRAME), np.float32)
        self.own_heard = np.zeros(0, bool)
        self.partner_heard = np.zeros(0, bool)
        self.partner_motion = np.zeros((0, motion_dim), np.float32)
        self.partner_seen = np.zeros(0, bool)
        self.nod_place = np.zeros(0, np.int64)
        self.own_motion = np.zeros((0, motion_dim), np.float32)

    def __len__(self) -> int:
        return len(self.own_heard)

    @property
    def drawn(self) -> int:
        """How many of its frames have motion."""
        return len(self.own_motion)

    def extend(self, **heard: np.ndarray) -> None:
        for name in self.HEARD:
            setattr(self, name, np.concatenate([getattr(self, name), heard[name]]))

    def add_motion(self, motion: np.ndarray) -> None:
        self.own_motion = np.concatenate([self.own_motion, motion])

    def split(self, frame: int) -> tuple[OpenTurn, OpenTurn]:
        """The frames before `frame`, and those from it on as a turn of their own."""
        at = frame - self.first_frame
        before = OpenTurn(self.first_frame, self.own_motion.shape[1])
        after = OpenTurn(frame, self.own_motion.shape[1])
        for name in (*self.HEARD, "own_motion"):
            setattr(before, name, getattr(self, name)[:at])
            setattr(after, name, getattr(self, name)[at:])
        return before, after
