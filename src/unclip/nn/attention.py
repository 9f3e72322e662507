"""Multi-head attention.

Shapes: B batch, L queries, S keys, N heads, E channels per head, W = N·E width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALIGNED = 8  # channels of a head: 16 bytes of a half, which kernels of CUDA load at once
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


def causal_mask(queries: int, keys: int, device: torch.device | None = None) -> Tensor:
    """``[L, S]`` boolean, True where query i may see key j, that is j ≤ i + S − L."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Softmax(q kᵀ / √E) v (arXiv 1706.03762, equation 1).

    Args:
        q: queries ``[B, N, L, E]``.
        k: keys ``[B, N, S, E]``.
        v: values ``[B, N, S, E]``.
        mask: broadcastable to ``[B, N, L, S]``: boolean, True = this query may see this key; or
            numbers that are added to the scores, -inf = it may not. Every query must see a key:
            the softmax over none is 0/0.
        causal: the queries are the last L of S positions and see none after their own; instead of
            a ``mask``, which no fast kernel of a GPU takes.

    Returns:
        ``[B, N, L, E]``.

    Raises:
        ValueError: ``causal`` with a mask, or with L > S.
    """
    if causal and (mask is not None or q.shape[-2] > k.shape[-2]):
        raise ValueError("causal attention takes no mask, and no more queries than keys")
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[-2] < SHORT:
        # There torch's kernel is three to five times slower in bfloat16 (docs/benchmarks.md).
        with torch.autocast("cpu", enabled=False):  # it would cast back
            return attend(q.float(), k.float(), v.float(), mask, causal).to(q.dtype)
    if causal and (before := k.shape[-2] - q.shape[-2]):
        # Kernels know the causal mask of a square alone, in which the first rows are not needed.
        return _attend(F.pad(q, (0, 0, before, 0)), k, v, None, True)[..., before:, :]
    return _attend(q, k, v, mask, causal)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """By the chosen backend; causal attention is square."""
    if mask is not None and mask.is_floating_point():
        mask = mask.to(q.dtype)
    if _selected == "sdpa":
        return _torch_attention(q, k, v, mask, causal)
    if _selected == "xformers":
        from unclip.nn import xformers_attention

        return xformers_attention.attend(q, k, v, mask, causal)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if causal:
        mask = causal_mask(q.shape[-2], k.shape[-2], q.device)
    if mask is not None:
        added = mask.is_floating_point()
        scores = scores + mask if added else scores.masked_fill(~mask, float("-inf"))
    return scores.float().softmax(dim=-1).to(v.dtype) @ v


def _torch_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """By the kernel that torch chooses: on CUDA flash attention, else the memory-efficient one.

    Flash attention takes half precision without a mask, from Ampere on. The other runs on every GPU
    and in float32, but takes heads of whole `ALIGNED` channels alone, for want of which torch would
    hold the whole matrix of scores: zeros beside the channels change nothing of it.
    """
    channels, more = q.shape[-1], -q.shape[-1] % ALIGNED
    if not more or q.device.type != "cuda":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    q, k, v = (F.pad(x, (0, more)) for x in (q, k, v))
    found = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=channels**-0.5
    )
    return found[..., :channels]


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """``[B, L, parts·W]`` to ``parts`` views ``[B, heads, L, E]``.

    The order of the channels is (part, head, channel of the head): with 3 parts all of q, then all
    of k, then all of v.
    """
    return tuple(p.unflatten(-1, (heads, -1)).transpose(1, 2) for p in x.chunk(parts, dim=-1))


def join_heads(x: Tensor) -> Tensor:
    """``[B, heads, L, E]`` to ``[B, L, W]``."""
    return x.transpose(1, 2).flatten(2)


class KeysValues(NamedTuple):
    """Keys and values of positions that other positions attend to."""

    keys: Tensor  # [B, N, S, E]
    values: Tensor  # [B, N, S, E]

    def before(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """These positions, then those of ``k`` and ``v`` ``[B, N, L, E]``."""
        return torch.cat([self.keys, k], dim=2), torch.cat([self.values, v], dim=2)


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases; channel order of ``qkv`` as in `split_heads`."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        *,
        before: KeysValues | None = None,
    ) -> Tensor:
        """``[B, L, W]`` to the same; ``mask`` and ``causal`` as in `attend`.

        The positions of ``before`` stand before x's own and are attended to as well.
        """
        q, k, v = split_heads(self.qkv(x), 3, self.heads)
        if before is not None:
            k, v = before.before(k, v)
        return self.out(join_heads(attend(q, k, v, mask, causal)))

    def keys_values(self, x: Tensor) -> KeysValues:
        """Of x ``[B, L, W]``, for positions that come after it."""
        return KeysValues(*split_heads(self.qkv(x), 3, self.heads)[1:])
