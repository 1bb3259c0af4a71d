"""Attention of a training window: its history, and beside it copies of open turns in groups of their own.

A copy attends to the history and to itself. Copies lie in groups that none of them crosses, so most of what a dense
mask would rule out is never computed: on a CPU that halves a step of training. On a GPU, where writing the weights down
takes longer than computing them, each group is one of torch's fused kernels beside its own copy of the history.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from timar_ros.model.network import TOKENS_PER_FRAME


def may_attend(frame: Tensor, turn_start: Tensor, copy: Tensor, window_frames: int) -> Tensor:
    """Which frame sees which [B, N, N], from frame number, turn's first frame and copy (-1: history), each [B, N].

    A frame sees its own turn (in its own copy), and of the history the `window_frames` frames before that turn.
    """
    query, key = (slice(None), slice(None), None), (slice(None), None, slice(None))
    same_turn = (copy[query] == copy[key]) & (turn_start[query] == turn_start[key])
    history = (copy[key] == -1) & (frame[key] < turn_start[query]) & (frame[key] >= turn_start[query] - window_frames)
    return same_turn | history


def by_tokens(frames: Tensor) -> Tensor:
    """[B, N, M] of frames -> [B, 1, 4 N, 4 M] of their tokens, as the network's `mask`."""
    return frames.repeat_interleave(TOKENS_PER_FRAME, 1).repeat_interleave(TOKENS_PER_FRAME, 2)[:, None]


class WindowAttention:
    """What the blocks call with queries, keys and values [B, heads, 4 N, head_width]; returns the same shape.

    Args:
        may: [B, N, N] bool, `may_attend` of the window's frames: `history` closed ones, then the open turns' in
            groups of `group`. Between groups nothing may be allowed.
        fused: by torch's kernels, or by products of our own; None: what is faster on the device.
    """

    def __init__(self, may: Tensor, history: int, group: int, dtype: torch.dtype, fused: bool | None = None) -> None:
        batch, frames = may.shape[:2]
        groups = (frames - history) // group
        opened = may[:, history:, history:].unflatten(1, (groups, group)).unflatten(3, (groups, group))
        own = opened.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2).reshape(batch, groups * group, group)

        def bias(frames: Tensor) -> Tensor:
            allowed = by_tokens(frames)
            return torch.zeros(allowed.shape, dtype=dtype, device=may.device).masked_fill_(~allowed, float("-inf"))

        self._history = history * TOKENS_PER_FRAME
        self._groups = groups
        self._closed = bias(may[:, :history, :history])
        self._open = bias(torch.cat([may[:, history:, :history], own], dim=2))
        self._attend = self._by_kernel if (may.is_cuda if fused is None else fused) else self._by_products

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        lengths = [self._history, q.shape[2] - self._history]
        closed, opened = zip(*(x.split(lengths, dim=2) for x in (q, k, v)), strict=True)
        return torch.cat(self._attend(closed, opened), dim=2)

    def _by_kernel(self, closed: Sequence[Tensor], opened: Sequence[Tensor]) -> list[Tensor]:
        def by_group(x: Tensor) -> Tensor:
            """[B, heads, groups n, d] -> [B groups, heads, n, d]."""
            return x.unflatten(2, (self._groups, -1)).transpose(1, 2).flatten(0, 1)

        from_closed = scaled_dot_product_attention(*closed, attn_mask=self._closed)
        keys, values = (
            torch.cat([history.repeat_interleave(self._groups, 0), by_group(own)], dim=2)
            for history, own in zip(closed[1:], opened[1:], strict=True)
        )
        from_open = scaled_dot_product_attention(by_group(opened[0]), keys, values, attn_mask=by_group(self._open))
        return [from_closed, from_open.unflatten(0, (-1, self._groups)).transpose(1, 2).flatten(2, 3)]

    def _by_products(self, closed: Sequence[Tensor], opened: Sequence[Tensor]) -> list[Tensor]:
        history, groups = self._history, self._groups
        (closed_q, closed_k, closed_v), (open_q, open_k, open_v) = closed, opened
        closed_q, open_q = (q * q.shape[-1] ** -0.5 for q in (closed_q, open_q))
        from_closed = (closed_q @ closed_k.transpose(-1, -2) + self._closed).softmax(dim=-1) @ closed_v
        own_q, own_k, own_v = (x.unflatten(2, (groups, -1)) for x in (open_q, open_k, open_v))
        to_own = (own_q @ own_k.transpose(-1, -2)).flatten(2, 3)
        to_history = open_q @ closed_k.transpose(-1, -2)
        weights = (torch.cat([to_history, to_own], dim=-1) + self._open).softmax(dim=-1)
        from_own = (weights[..., history:].unflatten(2, (groups, -1)) @ own_v).flatten(2, 3)
        return [from_closed, weights[..., :history] @ closed_v + from_own]
