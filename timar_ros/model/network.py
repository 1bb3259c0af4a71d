"""TIMAR in our own size: two parties' speech and motion in one causal network, for conversations without end.

Each 40 ms frame is four tokens, interleaved as in TIMAR (arXiv 2512.15340): partner's speech, partner's motion,
own speech, own motion. Attention is causal by turns: a token sees its own turn, both directions, and the
`window_frames` frames before that turn's start. Own motion that is still to be drawn is masked; the output at a
masked token is the condition z of the diffusion head.

Where it differs from the published network, and why:
- Positions are rotary (Su et al. 2021) over the frame number, so only distances count: keys and values of a closed
  turn stay valid however long the conversation, and the cache is exact. Published positions count from the window's
  start and make every cached key wrong when the window slides.
- Separator tokens give way to an embedding of the frame's place in its turn, so every frame costs four tokens and
  the cache is a ring.
- A motion token starts from its party's speech of that frame, too. Left to attention alone, a network of this size
  needs hundreds of steps of training before it finds the voice at all.
- Speech comes as log-mel frames without look-ahead instead of wav2vec 2.0, whose 315 M parameters see whole seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from timar_ros.model.config import NetworkConfig
from timar_ros.model.diffusion import DiffusionHead
from timar_ros.model.features import FEATURES_PER_FRAME

TOKENS_PER_FRAME = 4
PARTNER_SPEECH, PARTNER_MOTION, OWN_SPEECH, OWN_MOTION = range(TOKENS_PER_FRAME)


@dataclass
class FrameInputs:
    """What the network is given of a run of frames. Every field is a tensor over [batch, frames].

    Attributes:
        own_speech, partner_speech: [B, T, FEATURES_PER_FRAME] log-mel.
        own_heard, partner_heard: [B, T] bool; where False, the network is told that the voice is not known.
        own_motion: [B, T, motion_dim] in normalised units; counts only where own_given.
        own_given: [B, T] bool; False marks motion that is masked.
        partner_motion: [B, T, motion_dim] in normalised units; counts only where partner_seen.
        partner_seen: [B, T] bool.
        turn_place: [B, T] int, the frame's place in its turn from 0.
        frame: [B, T] int64, the frame's number in the conversation.
    """

    own_speech: Tensor
    partner_speech: Tensor
    own_heard: Tensor
    partner_heard: Tensor
    own_motion: Tensor
    own_given: Tensor
    partner_motion: Tensor
    partner_seen: Tensor
    turn_place: Tensor
    frame: Tensor


class Attention(nn.Module):
    """Multi-head attention with rotary positions over frame numbers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, rotation: Tensor, mask: Tensor | None, past: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend from x [B, N, width] to `past` [2, B, heads, P, head_width] and to x itself.

        Args:
            rotation: [B, N, head_width / 2, 2], cosine and sine of each token's angles.
            mask: bool, broadcastable to [B, heads, N, P + N]; True where attention is allowed.

        Returns:
            the update of x, and this call's keys and values, each [B, heads, N, head_width].
        """
        batch, tokens, width = x.shape
        q, k, v = self.project(x, rotation)
        fresh = (k, v)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        y = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, width)), fresh

    def project(self, x: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, heads, N, head_width] of x [B, N, width]."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return rotate(q, rotation), rotate(k, rotation), v


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self, x: Tensor, rotation: Tensor, mask: Tensor | None, past: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        update, fresh = self.attn(self.norm1(x), rotation, mask, past)
        x = x + update
        return x + self.mlp(self.norm2(x)), fresh


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn the pairs (i, i + half) of x [B, heads, N, head_width] by the angles in `rotation` [B, N, half, 2]."""
    cos, sin = rotation[:, None].to(x.dtype).unbind(-1)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class TimarNetwork(nn.Module):
    """The backbone, the token encoders and the diffusion head."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width

        def encoder(inputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))

        self.speech_encoder = encoder(FEATURES_PER_FRAME)
        self.motion_encoder = encoder(config.motion_dim)
        self.kind_embedding = nn.Parameter(0.02 * torch.randn(TOKENS_PER_FRAME, width))
        self.turn_place_embedding = nn.Parameter(0.02 * torch.randn(config.max_turn_frames, width))
        self.unheard_token = nn.Parameter(0.02 * torch.randn(2, width))  # own, partner
        self.unseen_token = nn.Parameter(0.02 * torch.randn(width))
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.diffusion = DiffusionHead(config.motion_dim, width, config.diffusion_width, config.diffusion_depth)
        self.register_buffer("motion_mean", torch.zeros(config.motion_dim))
        self.register_buffer("motion_scale", torch.ones(config.motion_dim))
        head_width = width // config.heads
        # Periods from about 6 frames (a quarter of a second) to beyond the window; float64 keeps hours exact.
        frequencies = 1000.0 ** (-torch.arange(head_width // 2, dtype=torch.float64) / (head_width // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def rotation(self, frame: Tensor) -> Tensor:
        """Cosine and sine [B, 4 T, head_width / 2, 2] float32 for the tokens of frames [B, T]."""
        angle = frame.to(torch.float64).repeat_interleave(TOKENS_PER_FRAME, dim=1)[..., None] * self.frequencies
        return torch.stack([angle.cos(), angle.sin()], dim=-1).float()

    def tokens(self, inputs: FrameInputs) -> Tensor:
        """Frames [B, T] as tokens [B, 4 T, width]."""
        own_unheard, partner_unheard = self.unheard_token
        motion = self.motion_encoder(torch.stack([inputs.partner_motion, inputs.own_motion]))
        speech = self.speech_encoder(torch.stack([inputs.partner_speech, inputs.own_speech]))
        partner_speech = torch.where(inputs.partner_heard[..., None], speech[0], partner_unheard.to(speech.dtype))
        own_speech = torch.where(inputs.own_heard[..., None], speech[1], own_unheard.to(speech.dtype))
        partner_motion = torch.where(inputs.partner_seen[..., None], motion[0], self.unseen_token.to(motion.dtype))
        own_motion = torch.where(inputs.own_given[..., None], motion[1], self.mask_token.to(motion.dtype))
        kinds = [partner_speech, partner_motion + partner_speech, own_speech, own_motion + own_speech]
        x = torch.stack(kinds, dim=2) + self.kind_embedding
        x = x + self.turn_place_embedding[inputs.turn_place][:, :, None]
        return x.flatten(1, 2)

    def encode(
        self, inputs: FrameInputs, mask: Tensor | None = None, past: Tensor | None = None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Run the backbone over the frames [B, T].

        Args:
            mask: bool, broadcastable to [B, heads, 4 T, P + 4 T]; None lets every token see all.
            past: [blocks, 2, B, heads, P, head_width], keys and values of closed turns.

        Returns:
            z [B, T, width], the output at the own-motion tokens, and of each block the keys and values of these
            frames, each [B, heads, 4 T, head_width].
        """
        x, rotation, fresh = self._all_but_last(inputs, mask, past)
        x, keys_values = self.blocks[-1](x, rotation, mask, None if past is None else past[-1])
        z = self.norm(x[:, OWN_MOTION::TOKENS_PER_FRAME])
        return z, [*fresh, keys_values]

    def keys_values(
        self, inputs: FrameInputs, mask: Tensor | None = None, past: Tensor | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """The second half of what `encode` returns, for less: of the last block only keys and values are computed."""
        x, rotation, fresh = self._all_but_last(inputs, mask, past)
        last = self.blocks[-1]
        return [*fresh, last.attn.project(last.norm1(x), rotation)[1:]]

    def _all_but_last(
        self, inputs: FrameInputs, mask: Tensor | None, past: Tensor | None
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """Tokens after all blocks but the last, their rotation, and the blocks' keys and values."""
        x, rotation, fresh = self.tokens(inputs), self.rotation(inputs.frame), []
        for i, block in enumerate(self.blocks[:-1]):
            x, keys_values = block(x, rotation, mask, None if past is None else past[i])
            fresh.append(keys_values)
        return x, rotation, fresh

    def normalise(self, motion: Tensor) -> Tensor:
        """Motion in its own units (rad, blendshape weights) -> units of the network."""
        return (motion - self.motion_mean) / self.motion_scale

    def denormalise(self, motion: Tensor) -> Tensor:
        return motion * self.motion_scale + self.motion_mean
