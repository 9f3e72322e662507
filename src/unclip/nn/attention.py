"""Multi-head attention.

Shapes: B batch, L queries, S keys, N heads, E channels per head, W = N·E width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHORT = 256  # queries; from here on bfloat16 is no slower than float32 on a CPU


_selected = "sdpa"  # of the process, not of a thread: recomputed blocks run on autograd's threads


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Let `attend` use ``name`` while the context lasts.

    `sdpa` is torch's own choice among its kernels, and what `auto` stands for; `math` the formula
    itself, in any precision and on any device; `xformers` the memory-efficient attention of that
    package, an extra.

    Raises:
        UserError: xformers is not installed, or serves no device of this machine.
    """
    global _selected
    if name == "xformers":
        from unclip.nn import xformers_attention

        xformers_attention.check()
    before, _selected = _selected, "sdpa" if name == "auto" else name
    try:
        yield
    finally:
        _selected = before


def causal_mask(length: int, device: torch.device | None = None) -> Tensor:
    """``[length, length]`` boolean, True where query i may see key j, that is j ≤ i."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Softmax(q kᵀ / √E) v (arXiv 1706.03762, equation 1).

    Args:
        q: queries ``[B, N, L, E]``.
        k: keys ``[B, N, S, E]``.
        v: values ``[B, N, S, E]``.
        mask: boolean, broadcastable to ``[B, N, L, S]``, True = this query may see this key.
        causal: query i sees only keys j ≤ i, besides what ``mask`` says; needs L = S.

    Returns:
        ``[B, N, L, E]``. A query that may see no key at all gets zeros, and no gradient.

    Raises:
        ValueError: ``causal`` with L ≠ S.
    """
    if causal and q.shape[-2] != k.shape[-2]:
        raise ValueError(f"causal attention of {q.shape[-2]} queries over {k.shape[-2]} keys")
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[-2] < SHORT:
        # There torch's kernel is three to five times slower in bfloat16 (docs/benchmarks.md).
        return attend(q.float(), k.float(), v.float(), mask, causal).to(q.dtype)
    if mask is None:
        return _attend(q, k, v, None, causal)
    if causal:
        mask = mask & causal_mask(q.shape[-2], q.device)
    # The softmax over no keys is 0/0 and kernels differ in what they make of it: such a query
    # sees everything instead, and its result is thrown away.
    blind = ~mask.any(dim=-1, keepdim=True)
    return _attend(q, k, v, mask | blind, False).masked_fill(blind, 0)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """By the chosen backend; every query sees a key."""
    if _selected == "sdpa":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    if _selected == "xformers":
        from unclip.nn import xformers_attention

        return xformers_attention.attend(q, k, v, mask, causal)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if causal:
        mask = causal_mask(q.shape[-2], q.device)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.float().softmax(dim=-1).to(v.dtype) @ v


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """``[B, L, parts·W]`` to ``parts`` views ``[B, heads, L, E]``.

    The order of the channels is (part, head, channel of the head): with 3 parts all of q, then all
    of k, then all of v.
    """
    return tuple(p.unflatten(-1, (heads, -1)).transpose(1, 2) for p in x.chunk(parts, dim=-1))


def join_heads(x: Tensor) -> Tensor:
    """``[B, heads, L, E]`` to ``[B, L, W]``."""
    return x.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases; channel order of ``qkv`` as in `split_heads`."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """``[B, L, W]`` to the same; ``mask`` and ``causal`` as in `attend`."""
        q, k, v = split_heads(self.qkv(x), 3, self.heads)
        return self.out(join_heads(attend(q, k, v, mask, causal)))
