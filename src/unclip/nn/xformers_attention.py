"""Attention by the xformers package, imported when it is chosen and tried before it is used."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.common.devices import is_ampere
from unclip.common.errors import UserError
from unclip.common.local_rank import local_rank

INSTEAD = "use trainer.attention=sdpa"


def check() -> None:
    """Make one real call, forward and backward.

    Raises:
        UserError: the package is missing, or none of its operators serves this machine.
    """
    if importlib.util.find_spec("xformers") is None:
        raise UserError(
            "trainer.attention=xformers: not installed; pip install 'unclip[xformers]', or "
            f"{INSTEAD}"
        )
    if not torch.cuda.is_available():
        raise UserError(f"trainer.attention=xformers: needs a GPU, none found; {INSTEAD}")
    device = torch.device("cuda", local_rank())  # not 0 of them all: a context costs half a GB
    half = torch.bfloat16 if is_ampere(device) else torch.float16
    q = torch.randn(1, 1, 16, 32, device=device, dtype=half, requires_grad=True)
    try:
        attend(q, q, q, None, False).sum().backward()
    except Exception as error:  # its dispatcher lists every operator's reasons, over many lines
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"trainer.attention=xformers: does not work here: {first}; {INSTEAD}"
        ) from None


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """As `unclip.nn.attention.attend`, every query seeing a key; ``[B, N, L, E]``."""
    from xformers import ops

    queries, keys, values = (x.transpose(1, 2).contiguous() for x in (q, k, v))  # [B, L, N, E]
    bias: Any = ops.LowerTriangularMask() if causal else None
    if mask is not None:
        # Its kernels want rows of bias that start at multiples of 8.
        length, count = q.shape[-2], k.shape[-2]
        if not mask.is_floating_point():
            mask = q.new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))
        whole = mask.expand(*q.shape[:2], length, count)
        bias = F.pad(whole, (0, -count % 8))[..., :count]
    found = ops.memory_efficient_attention(queries, keys, values, attn_bias=bias)
    return found.transpose(1, 2)
