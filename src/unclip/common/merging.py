"""The weights of a network with adapters."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from unclip.common.adapters import A, B


def pairs(adapter: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of each layer that ``adapter`` changes.

    Raises:
        ValueError: a pair is not whole, or its halves do not fit each other.
    """
    layers = [name.removesuffix(A) for name in adapter if name.endswith(A)]
    if odd := {*adapter} - {layer + end for layer in layers for end in (A, B)}:
        raise ValueError(f"{min(odd)} is not a weight of an adapter, or lacks its other half")
    found = {}
    for layer in layers:
        a, b = adapter[layer + A], adapter.get(layer + B)
        if b is None:
            raise ValueError(f"{layer}: has no {B[1:]}")
        fit = a.dim() == b.dim() >= 2 and 0 < len(a) == b.shape[1] and b.shape[2:].numel() == 1
        if not fit or not (a.is_floating_point() and b.is_floating_point()):
            raise ValueError(f"{layer}: A {_kind(a)} and B {_kind(b)} do not fit")
        found[layer] = (a, b)
    return found


def _kind(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"


def merged(
    weights: Mapping[str, Tensor], adapter: Mapping[str, Tensor], scale: float
) -> dict[str, Tensor]:
    """``weights`` with W + ``scale`` B A where the adapter has a pair, in W's own type.

    Linear: A ``[r, in]``, B ``[out, r]``. Convolution: A ``[r, in, k, k]``, B ``[out, r, 1, 1]``.

    Raises:
        ValueError: a pair is not whole, or fits no weight.
    """
    found = dict(weights)
    for layer, (a, b) in pairs(adapter).items():
        if (name := f"{layer}.weight") not in found:
            raise ValueError(f"{layer}: has no weight in the base")
        w = found[name]
        if a.shape[1:] != w.shape[1:] or len(b) != len(w):
            raise ValueError(
                f"{layer}: A {list(a.shape)} and B {list(b.shape)} do not fit {list(w.shape)}"
            )
        change = b.float().flatten(1) @ a.float().flatten(1)
        found[name] = (w.float() + scale * change.view(w.shape)).to(w.dtype)
    return found
