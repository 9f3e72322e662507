"""Makes a step on fake CPU tensors keep what other kernels would keep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from unclip.nn import attention

_layer_norm, _dropout = F.layer_norm, F.dropout
_attention = F.scaled_dot_product_attention


def _float_layer_norm(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Autocast's rule on CUDA, which it has not on a CPU."""
    return _layer_norm(x.float() if torch.is_autocast_enabled("cpu") else x, *args, **kwargs)


def _fused_dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """With a boolean mask, where a CPU multiplies by one of the type of ``x``."""
    if not training or inplace:
        return _dropout(x, p, training, inplace)
    return torch.native_dropout(x, p, True)[0]


def _flash_attention(*args: Any, attn_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
    """Whatever the caller had better take on a CPU, where a mask that learns has no such kernel."""
    if attn_mask is not None:
        kwargs["attn_mask"] = attn_mask.detach()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return _attention(*args, **kwargs)


ONE_ATTENTION = {(F, "scaled_dot_product_attention"): _flash_attention}
GPU = {
    **ONE_ATTENTION,
    (attention, "SHORT"): 0,
    (F, "layer_norm"): _float_layer_norm,
    (F, "dropout"): _fused_dropout,
}


@contextmanager
def _replaced(by: dict[tuple[Any, str], Any]) -> Iterator[None]:
    before = {place: getattr(*place) for place in by}
    try:
        for (module, name), value in by.items():
            setattr(module, name, value)
        yield
    finally:
        for (module, name), value in before.items():
            setattr(module, name, value)


def kernels(*, gpu: bool, recomputing: bool) -> AbstractContextManager[None]:
    """While it lasts, CPU tensors keep what they would keep on a GPU, or on a CPU.

    On a GPU no code takes a CPU's way around slow kernels, attention never holds its matrix, and
    autocast casts what it casts there. Fake CUDA tensors would be the plain way, but without a GPU
    autograd and autocast refuse them; a TorchFunctionMode is off during a backward pass.

    Recomputation on a CPU takes one kind of attention, since a choice that a network makes around
    its blocks does not reach the second pass.
    """
    if gpu:
        return _replaced(GPU)
    return _replaced(ONE_ATTENTION) if recomputing else nullcontext()
