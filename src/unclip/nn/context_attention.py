"""Causal self-attention over a sequence and an encoded context, with a key/value cache.

Shapes: B batch, M context positions, L sequence positions, S = M + the longest sequence, N heads,
E channels per head, W width, X context width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from unclip.nn.attention import attend, causal_mask, join_heads, split_heads


class LayerCache(NamedTuple):
    """One layer's keys and values: the context's, then those of the positions done so far."""

    keys: Tensor  # [B, N, S, E]
    values: Tensor  # [B, N, S, E]


def context_mask(visible: Tensor, length: int) -> Tensor:
    """``[B, 1, L, M + L]``: L positions after a context that is seen where ``visible`` ``[B, M]``.

    The same for every layer.
    """
    causal = causal_mask(length, length, visible.device).expand(len(visible), 1, -1, -1)
    return torch.cat([visible[:, None, None].expand(-1, 1, length, -1), causal], dim=3)


class ContextAttention(nn.Module):
    """Every position sees the whole context, itself and what is before it, in one softmax.

    As in GLIDE (arXiv 2112.10741, section 4.1) the context's keys and values are put before the
    sequence's own.
    """

    def __init__(self, width: int, heads: int, context_width: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.context_kv = nn.Linear(context_width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """``x`` ``[B, L, W]`` and ``context`` ``[B, M, X]`` to ``[B, L, W]``.

        ``mask`` is that of `context_mask`, where not all of the context may be seen.
        """
        q, k, v = split_heads(self.qkv(x), 3, self.heads)
        before_k, before_v = split_heads(self.context_kv(context), 2, self.heads)
        k, v = torch.cat([before_k, k], dim=2), torch.cat([before_v, v], dim=2)
        return self.out(join_heads(attend(q, k, v, mask, causal=mask is None)))

    def start(self, context: Tensor, length: int) -> LayerCache:
        """A cache for ``length`` positions after ``context`` ``[B, M, X]``; never grows."""
        parts = split_heads(self.context_kv(context), 2, self.heads)
        room = [part.new_zeros(*part.shape[:2], length, part.shape[3]) for part in parts]
        return LayerCache(*(torch.cat(pair, dim=2) for pair in zip(parts, room)))

    def step(self, x: Tensor, cache: LayerCache, slot: Tensor, seen: Tensor) -> Tensor:
        """One position ``x`` ``[B, 1, W]``, written to ``slot`` ``[1]`` of the cache.

        ``seen`` ``[B, S]`` is True where this position may look, its own slot included. All shapes
        are the same at every position, so that the step can be compiled or captured once.
        """
        q, k, v = split_heads(self.qkv(x), 3, self.heads)
        cache.keys.index_copy_(2, slot, k)
        cache.values.index_copy_(2, slot, v)
        return self.out(join_heads(attend(q, cache.keys, cache.values, seen[:, None, None])))


class ContextBlock(nn.Module):
    """x + attention(LN(x), context), then x + MLP(LN(x)) with a hidden width of 4W and GELU."""

    def __init__(self, width: int, heads: int, context_width: int, *, dropout: float = 0.0):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = ContextAttention(width, heads, context_width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """As `ContextAttention.forward`."""
        x = x + self.dropout(self.attention(self.attention_norm(x), context, mask))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))

    def step(self, x: Tensor, cache: LayerCache, slot: Tensor, seen: Tensor) -> Tensor:
        """As `ContextAttention.step`."""
        x = x + self.attention.step(self.attention_norm(x), cache, slot, seen)
        return x + self.mlp(self.mlp_norm(x))
