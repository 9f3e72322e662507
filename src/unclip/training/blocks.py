"""Activation checkpointing of a network's blocks (`unclip.nn.blocks`).

It replaces nothing: the names in a state dict stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from unclip.nn.blocks import blocks_of

_ATEN = torch.ops.aten
PRODUCTS = [
    _ATEN.mm.default,
    _ATEN.addmm.default,
    _ATEN.bmm.default,
    _ATEN.convolution.default,
    _ATEN._scaled_dot_product_flash_attention.default,
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
    _ATEN._scaled_dot_product_efficient_attention.default,
    _ATEN._scaled_dot_product_cudnn_attention.default,
]
"""What selective checkpointing keeps: nearly all of a block's arithmetic."""


def checkpoint_blocks(net: nn.Module, how: str) -> None:
    """Recompute the blocks of ``net`` in the backward pass instead of keeping what they computed.

    Args:
        net: changed in place; a copy made afterwards would call this one's blocks.
        how: `none`; `full` keeps the blocks' inputs alone; `selective` keeps the results of matrix
            products, convolutions and attention too, and recomputes what is cheap.
    """
    if how == "none":
        return
    more: dict[str, Any] = {}
    if how == "selective":
        more["context_fn"] = partial(create_selective_checkpoint_contexts, PRODUCTS)
    for block in blocks_of(net):
        random = any(isinstance(m, nn.Dropout) and m.p > 0 for m in block.modules())
        block.forward = _recomputing(  # type: ignore[method-assign]
            block.forward, preserve_rng_state=random, **more
        )


def _recomputing(forward: Callable[..., Any], **how: Any) -> Callable[..., Any]:
    """A closure: dynamo compiles nothing of a block whose `forward` is a `partial`."""

    def recomputed(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, **how, **kwargs)

    return recomputed
