"""The known part of an image, as inpainting networks are told it (GLIDE, arXiv 2112.10741, 4.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHANNELS = 4
"""Further input channels of a network with ``model.inpaint``: the known image, and where it is."""

ALL_UNKNOWN = 0.25  # share of training samples of which nothing is known


class Known(NamedTuple):
    """What an image to be drawn must show."""

    known: Tensor  # [B, 3, S, S] in [-1, 1]
    keep: Tensor  # [B, 1, S, S] boolean, True = known
    resample: int | None  # times that RePaint goes through each noise level; None: no RePaint


def known_channels(image: Tensor, keep: Tensor) -> Tensor:
    """Images ``[B, 3, H, W]`` and where they are known ``[B, 1, H, W]`` as ``[B, 4, H, W]``."""
    keep = keep.to(image)
    return torch.cat([image * keep, keep], dim=1)


def with_known(x_t: Tensor, known: Tensor | None) -> Tensor:
    """``x_t`` ``[B, 3, H, W]`` with `known_channels` after it; None: nothing is known."""
    if known is None:
        known = x_t.new_zeros(len(x_t), CHANNELS, *x_t.shape[2:])
    return torch.cat([x_t, known.to(x_t.dtype)], dim=1)


def random_keep(u: Tensor, side: int) -> Tensor:
    """Masks ``[B, 1, side, side]`` for training, True = known, of uniform draws ``u`` ``[B, 5]``.

    All but a rectangle is known; of one sample in four nothing is.
    """
    edges = (u[:, :4] * (side + 1)).long().unflatten(1, (2, 2)).sort(dim=2).values  # [B, axis, 2]
    at = torch.arange(side, device=u.device)
    inside = (at >= edges[:, :, :1]) & (at < edges[:, :, 1:])  # [B, axis, side]
    hole = inside[:, 0, :, None] & inside[:, 1, None, :] | (u[:, 4] < ALL_UNKNOWN)[:, None, None]
    return ~hole[:, None]
