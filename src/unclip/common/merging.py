"""The weights of a network with adapters."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from unclip.common.adapters import A, B


def merged(
    weights: Mapping[str, Tensor], adapter: Mapping[str, Tensor], scale: float
) -> dict[str, Tensor]:
    """``weights`` with W + ``scale`` B A where the adapter has a pair, in W's own type.

    Linear: A ``[r, in]``, B ``[out, r]``. Convolution: A ``[r, in, k, k]``, B ``[out, r, 1, 1]``.

    Raises:
        ValueError: a pair is not whole, or fits no weight.
    """
    found = dict(weights)
    layers = [name.removesuffix(A) for name in adapter if name.endswith(A)]
    if odd := {*adapter} - {layer + end for layer in layers for end in (A, B)}:
        raise ValueError(f"{min(odd)} is no weight of an adapter, or lacks its other half")
    for layer in layers:
        a, b, name = adapter[layer + A], adapter.get(layer + B), f"{layer}.weight"
        if b is None or name not in found:
            raise ValueError(f"{layer}: has no {B[1:] if b is None else 'weight in the base'}")
        w = found[name]
        if a.shape[1:] != w.shape[1:] or b.shape[:2] != (len(w), len(a)) or b[0, 0].numel() != 1:
            raise ValueError(
                f"{layer}: A {list(a.shape)} and B {list(b.shape)} do not fit {list(w.shape)}"
            )
        change = b.float().flatten(1) @ a.float().flatten(1)
        found[name] = (w.float() + scale * change.view(w.shape)).to(w.dtype)
    return found
