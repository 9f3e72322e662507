"""Classifier-free guidance (arXiv 2207.12598)."""

from __future__ import annotations

import torch
from torch import Tensor

from unclip.diffusion.process import at_least_float32


def guide(cond: Tensor, uncond: Tensor, scale: float, *, channels: int) -> Tensor:
    """ε̂ = ε̂_∅ + s (ε̂ - ε̂_∅) on the first ``channels``; the rest (the variance) is ``cond``'s.

    ``cond`` and ``uncond`` are raw outputs ``[B, channels or more, ...]``. Every prediction type is
    affine in ε̂ with the same coefficients in both branches, so x0 and v are guided alike.
    Scale 1 gives ``cond``, bit for bit; 0 gives ``uncond``.
    """
    cond, uncond = at_least_float32(cond), at_least_float32(uncond)
    guided = torch.lerp(uncond[:, :channels], cond[:, :channels], scale)
    return torch.cat([guided, cond[:, channels:]], dim=1)
