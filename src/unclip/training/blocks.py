"""Activation checkpointing and offloading of a network's blocks (`unclip.nn.blocks`).

It replaces nothing: the names in a state dict stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
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


Pack = Callable[[Tensor], Any]
Unpack = Callable[[Any], Tensor]


class OnHost(NamedTuple):
    """What autograd keeps of the forward pass, in the machine's memory."""

    tensor: Tensor
    device: torch.device

    @classmethod
    def put(cls, tensor: Tensor) -> OnHost:
        """Copy it there, into memory from which a GPU copies by itself."""
        if tensor.device.type != "cuda":
            return cls(tensor.cpu(), tensor.device)
        there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return cls(there.copy_(tensor, non_blocking=True), tensor.device)

    def get(self) -> Tensor:
        """Copy it back."""
        return self.tensor.to(self.device, non_blocking=True)


def offload_blocks(net: nn.Module, pack: Pack = OnHost.put, unpack: Unpack = OnHost.get) -> None:
    """Keep what the blocks of ``net`` need for the backward pass in the machine's memory.

    Not their weights, which stay where they are. After `checkpoint_blocks` it is less: with `full`
    the blocks' inputs alone.

    Args:
        net: changed in place.
        pack: What is done with a tensor that is kept.
        unpack: And how it comes back.
    """
    for block in blocks_of(net):
        block.forward = _offloading(block, block.forward, pack, unpack)  # type: ignore[method-assign]


def _offloading(
    block: nn.Module, forward: Callable[..., Any], pack: Pack, unpack: Unpack
) -> Callable[..., Any]:
    def offloaded(*args: Any, **kwargs: Any) -> Any:
        own = {_storage(weight) for weight in block.parameters()}  # as gathered, with FSDP

        def put(tensor: Tensor) -> tuple[bool, Any]:
            is_own = _storage(tensor) in own
            return is_own, tensor if is_own else pack(tensor)

        def get(kept: tuple[bool, Any]) -> Tensor:
            is_own, value = kept
            return value if is_own else unpack(value)

        with torch.autograd.graph.saved_tensors_hooks(put, get):
            return forward(*args, **kwargs)

    return offloaded


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _recomputing(forward: Callable[..., Any], **how: Any) -> Callable[..., Any]:
    """A closure: dynamo compiles nothing of a block whose `forward` is a `partial`."""

    def recomputed(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, **how, **kwargs)

    return recomputed
