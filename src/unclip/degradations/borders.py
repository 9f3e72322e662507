"""Pixels beyond the border, for samples of different sizes on one canvas.

A canvas ``[G, C, H, W]`` holds each sample in its upper left corner; ``size`` ``[G, 2]`` (int64, on
the CPU) is its height and width. What lies outside of a sample is finite and never looked at.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.common.upload import upload_together


def full_size(image: Tensor) -> Tensor:
    """The ``size`` ``[G, 2]`` of samples that fill their canvas."""
    return torch.tensor([image.shape[2:]]).expand(len(image), 2)


def mirror_index(index: Tensor, length: Tensor) -> Tensor:
    """``index`` reflected into [0, length) about the centres of the first and the last pixel."""
    period = (2 * (length - 1)).clamp(min=1)
    index = index.remainder(period)
    return torch.minimum(index, period - index)


def gather_pixels(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The pixels ``[G, C, h, w]`` at ``rows`` ``[G, h]`` and ``columns`` ``[G, w]`` (int64)."""
    if len(image) == 1:
        return image.index_select(2, rows[0]).index_select(3, columns[0])
    image = torch.take_along_dim(image, rows[:, None, :, None], dim=2)
    return torch.take_along_dim(image, columns[:, None, None, :], dim=3)


def replicate_edges(image: Tensor, size: Tensor | None, shape: tuple[int, int]) -> Tensor:
    """``[G, C, *shape]``, in which the last row and column of each sample go on for ever.

    ``shape`` is no smaller than the canvas, which the samples fill if ``size`` is None.
    """
    if size is None:
        below, beside = (new - old for new, old in zip(shape, image.shape[2:]))
        return F.pad(image, (0, beside, 0, below), mode="replicate") if below or beside else image
    rows, columns = (
        torch.arange(length).minimum(size[:, axis, None] - 1) for axis, length in enumerate(shape)
    )
    return gather_pixels(image, *upload_together(rows, columns, device=image.device))
