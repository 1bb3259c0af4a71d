"""What the policy remembers of a conversation: the open turn's tokens, and closed turns as keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from timar_ros.model.network import TOKENS_PER_FRAME, TimarNetwork

# Frame number of a place in the ring that holds nothing, before every frame.
NEVER = -(2**40)


class TurnMemory:
    """Keys and values of several streams, in one buffer of frames' places:

        0 ... ring            the last `window_frames` frames of closed turns, each at its number modulo the window
        ring ... ring + tail  the turns of the present pass
        the last              what is written there is never read

    `frames` [streams, window_frames] tells which frame each place of the ring holds.

    Beside them `tokens` [streams, tail + 1, 4, width] of the turns that may be in a pass, each frame's at its number
    modulo `tail`; the last place is padding's.
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
        self.tokens = torch.zeros(streams, self.tail + 1, TOKENS_PER_FRAME, config.width, device=device)
        self.frames = np.full((streams, self.ring), NEVER)
        self._stream = torch.arange(streams, device=device)[:, None]

    def copy_from(self, other: TurnMemory) -> None:
        """Take over what another memory, maybe on another device, holds."""
        self.frames[:] = other.frames
        self.keys_values.copy_(other.keys_values)
        self.tokens.copy_(other.tokens)

    @torch.inference_mode()
    def forget(self, stream: int) -> None:
        """Hold nothing of a stream: what is hidden by masks must be finite as well."""
        self.frames[stream] = NEVER
        self.keys_values[:, :, stream] = 0.0
        self.tokens[stream] = 0.0

    def put_tokens(self, place: Tensor, tokens: Tensor) -> None:
        """Keep tokens [streams, frames, 4, width] of frames at places [streams, frames] (int64, on the device)."""
        self.tokens[self._stream, place] = tokens

    def tokens_at(self, place: Tensor) -> Tensor:
        """[streams, frames, 4, width] of the frames at places [streams, frames]."""
        return self.tokens[self._stream, place]

    def keep(self, place: Tensor) -> None:
        """Copy the frames of the present pass to their places [streams, frames] (int64, on the device)."""
        frames = place.shape[1]
        token = torch.arange(TOKENS_PER_FRAME, device=place.device)
        to = (place[..., None] * TOKENS_PER_FRAME + token).flatten(1)
        slots = self.keys_values.permute(2, 4, 0, 1, 3, 5)
        first = self.ring * TOKENS_PER_FRAME
        slots[self._stream, to] = slots[:, first : first + frames * TOKENS_PER_FRAME]


@dataclass
class Turn:
    """A run of frames; the first `drawn` of them have motion."""

    first_frame: int
    frames: int = 0
    drawn: int = 0

    @property
    def numbers(self) -> np.ndarray:
        """Of its frames in the conversation."""
        return np.arange(self.first_frame, self.first_frame + self.frames)

    def split(self, frame: int) -> tuple[Turn, Turn]:
        """The frames before `frame`, and those from it on as a turn of their own."""
        at = frame - self.first_frame
        return Turn(self.first_frame, at, min(self.drawn, at)), Turn(frame, self.frames - at, max(self.drawn - at, 0))
