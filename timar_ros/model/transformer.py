"""Pre-norm transformer blocks that can keep the keys and values of what they have seen.

Both networks are made of these: the published one (model/published.py) adds absolute positions before the first
block, ours (model/network.py) turns queries and keys by rotary positions inside. The residual stream and the norms
stay in float32; what a block multiplies may run in a reduced precision (model/precision.py).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class Attention(nn.Module):
    """Multi-head attention. `dtype` is what it computes in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        rotation: Tensor | None = None,
        cache: Tensor | None = None,
        at: int = 0,
        rows: Tensor | None = None,
        attend: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Attend from x [B, N, width] to x and to what the cache holds.

        Args:
            mask: bool, broadcastable to [B, heads, N, at + N]; True where attention is allowed.
            rotation: [B, N, 2, head_width] by which `rotate` turns queries and keys; None: no rotation.
            cache: [2, B, heads, slots, head_width] of keys and values. Those of x are written to its slots from
                `at` on, and every token attends to the slots up to and with them.
            rows: [B, R] the tokens whose output is wanted; None: all.
            attend: what to do with queries, keys and values [B, heads, N, head_width] instead of masking them.

        Returns:
            [B, R or N, width].
        """
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv
        if rotation is not None:
            q, k = rotate(qkv[:2], rotation)
        if cache is not None:
            cache[0, :, :, at : at + tokens] = k
            cache[1, :, :, at : at + tokens] = v
            k, v = cache[:, :, :, : at + tokens]
        if rows is not None:
            q = q.gather(2, rows[:, None, :, None].expand(-1, self.heads, -1, q.shape[-1]))
            if mask is not None and mask.shape[2] > 1:
                mask = mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
        y = attend(q, k, v) if attend else scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(y.transpose(1, 2).reshape(batch, -1, width))


class Block(nn.Module):
    """Attention and a two-layer perceptron, each on a normalised input and added to the residual stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.dtype = torch.float32
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, rows: Tensor | None = None, **attention) -> Tensor:
        """x [B, N, width] -> the same, or [B, R, width] of the tokens `rows`; the rest goes to the attention."""
        update = self.attn(self.norm1(x).to(self.dtype), rows=rows, **attention)
        if rows is not None:
            x = x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))
        x = x + update
        return x + self.mlp(self.norm2(x).to(self.dtype))


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn the pairs (i, i + half) of x [..., B, heads, N, head_width].

    `rotation` [B, N, 2, head_width]: the cosines of the angles for both halves, then minus the sines and the sines.
    """
    cos, sin = rotation[:, None].unbind(-2)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def run_blocks(
    blocks: nn.ModuleList, x: Tensor, cache: Tensor | None = None, rows: Tensor | None = None, **attention
) -> Tensor:
    """All blocks in turn; `cache` [blocks, 2, B, heads, slots, head_width], `rows` as in `Attention`.

    Only the last block is spared the tokens that are not asked for: all others feed the next one's keys and values.
    """
    last = len(blocks) - 1
    for i, block in enumerate(blocks):
        x = block(x, cache=None if cache is None else cache[i], rows=rows if i == last else None, **attention)
    return x
