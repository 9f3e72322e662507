"""Blocks of LAION's diffusion prior: attention by cosine with one head of keys, and a gated MLP.

Shapes: B batch, L positions, W width, N heads, E channels per head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.nn.attention import attend, join_heads

SHARPNESS = 16.0  # of the softmax over cosines
ROTATED = 32  # channels of a head that tell the position, at most
BUCKETS, FARTHEST = 32, 128  # of T5's distances


class DistanceBias(nn.Module):
    """A learned number for each head and bucket of distances, added to the attention's scores.

    T5's causal buckets (arXiv 1910.10683, section 2.1): the first 16 hold one distance each, the
    others grow geometrically up to `FARTHEST`. The table starts at N(0, .02²).
    """

    def __init__(self, heads: int):
        super().__init__()
        self.table = nn.Embedding(BUCKETS, heads)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, length: int) -> Tensor:
        """Scores to add ``[1, N, L, 1 + L]`` for ``length`` L positions, -inf for later ones.

        Column 0 is the null key, so that query i is at distance max(0, i - j) from column j: a
        position and the one before it share a bucket.
        """
        device = self.table.weight.device
        i = torch.arange(length, device=device)[:, None]
        j = torch.arange(length + 1, device=device)
        own, half = (i - j).clamp(min=0), BUCKETS // 2
        growth = (own.clamp(min=half) / half).log() / math.log(FARTHEST / half)
        far = (half + (growth * half).long()).clamp(max=BUCKETS - 1)
        bias = self.table(torch.where(own < half, own, far)).permute(2, 0, 1)[None]
        return bias.masked_fill(j > i + 1, float("-inf"))


def rotary_frequencies(head_channels: int) -> Tensor:
    """Radians a position ``[R/2]``, 10000^(-2k/R), for the first R = min(32, E) channels."""
    size = min(ROTATED, head_channels)
    return 10000 ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)


def rotate(x: Tensor, frequencies: Tensor) -> Tensor:
    """``[..., L, E]``, each position turned by its number (RoPE, arXiv 2104.09864, eq. 34).

    Channels 2k and 2k + 1 are a plane that turns by frequency k of ``[R/2]``; those from R on stay.
    """
    size = 2 * len(frequencies)
    turn = torch.arange(x.shape[-2], device=x.device)[:, None] * frequencies.float()
    cos, sin = turn.cos().to(x.dtype), turn.sin().to(x.dtype)
    a, b = x[..., 0:size:2], x[..., 1:size:2]
    turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
    return torch.cat([turned, x[..., size:]], dim=-1)


class MultiQueryAttention(nn.Module):
    """Queries of N heads over one head of keys and values (arXiv 1911.02150), by their cosine.

    A learned null key and value come before those of the positions, and turn with none of them.
    """

    def __init__(self, width: int, heads: int, head_channels: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, bias=False)
        self.q = nn.Linear(width, heads * head_channels, bias=False)
        self.kv = nn.Linear(width, 2 * head_channels, bias=False)
        self.null_kv = nn.Parameter(torch.randn(2, head_channels))
        self.out = nn.Linear(heads * head_channels, width, bias=False)
        self.out_norm = nn.LayerNorm(width, bias=False)

    def forward(self, x: Tensor, bias: Tensor, frequencies: Tensor | None) -> Tensor:
        """``[B, L, W]`` to the same.

        Args:
            x: ``[B, L, W]``.
            bias: as `DistanceBias` gives it.
            frequencies: those of `rotate`; None turns nothing.
        """
        x = self.norm(x)
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(x)[:, None].chunk(2, dim=-1)
        if frequencies is not None:
            q, k = rotate(q, frequencies), rotate(k, frequencies)
        null_k, null_v = (n.to(k.dtype).expand(len(x), 1, 1, -1) for n in self.null_kv)
        k, v = torch.cat([null_k, k], dim=2), torch.cat([null_v, v], dim=2)
        q = F.normalize(q, dim=-1) * (SHARPNESS * math.sqrt(q.shape[-1]))  # attend divides by √E
        k = F.normalize(k, dim=-1)
        k, v = (y.expand(-1, self.heads, -1, -1) for y in (k.to(q.dtype), v.to(q.dtype)))
        return self.out_norm(self.out(join_heads(attend(q, k, v, bias))))


class MultiQueryBlock(nn.Module):
    """x + attention, then x + MLP: value · SiLU(gate) (arXiv 2002.05202), no layer with a bias.

    With ``normformer`` the MLP's hidden units are normalised too (arXiv 2110.09456).
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        head_channels: int,
        hidden: int,
        dropout: float,
        normformer: bool,
    ):
        super().__init__()
        self.attention = MultiQueryAttention(width, heads, head_channels)
        self.mlp_norm = nn.LayerNorm(width, bias=False)
        self.mlp_in = nn.Linear(width, 2 * hidden, bias=False)
        self.hidden_norm = nn.LayerNorm(hidden, bias=False) if normformer else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.mlp_out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, bias: Tensor, frequencies: Tensor | None) -> Tensor:
        """``[B, L, W]`` to the same, with the arguments of `MultiQueryAttention`."""
        x = x + self.attention(x, bias, frequencies)
        value, gate = self.mlp_in(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.mlp_out(self.dropout(self.hidden_norm(value * F.silu(gate))))


class StableNorm(nn.LayerNorm):
    """A norm without shift of rows divided by their largest number first, so that none overflows.

    The norm's ε counts beside that quotient, so this is not the plain norm.
    """

    def __init__(self, width: int):
        super().__init__(width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., W]`` to the same."""
        return super().forward(x / x.amax(dim=-1, keepdim=True).detach())
