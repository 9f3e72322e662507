"""Redrawing part of an image from a caption.

By networks that were trained to (``model.inpaint``, as GLIDE's), or by RePaint with any others.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.data.transforms import Square
from unclip.diffusion.inpainting import SAMPLERS
from unclip.pipeline.inference import inference
from unclip.pipeline.inputs import Array, Images, arrays, squares
from unclip.pipeline.sampling import Generated, Sampling
from unclip.stages._diffusion.known import Known

RESAMPLE = 5  # passes of RePaint
Masks = Any
"""One mask or several, ``[H, W]`` boolean arrays or tensors, True = keep; or ``[B, H, W]``."""


@inference
def inpaint(
    sampling: Sampling,
    images: Images,
    masks: Masks,
    captions: Sequence[str],
    seeds: Sequence[int],
    resample: int | None,
) -> Generated:
    """The work of `Pipeline.inpaint`."""
    found, kept = arrays(images), _masks(masks)
    numbers = {len(found), len(kept), len(captions), len(seeds)}
    if len(numbers) > 1:
        each = {"image": found, "mask": kept, "caption": captions, "seed": seeds}
        counts = ", ".join(counted(len(values), noun) for noun, values in each.items())
        raise UserError(f"{counts}: give one of each per image")
    for photo, mask in zip(found, kept):
        if mask.shape != photo.shape[:2]:
            (h, w), (rows, columns) = photo.shape[:2], mask.shape
            raise UserError(f"mask: is {columns}x{rows} pixels, its image {w}x{h}")
    cascade = sampling.cascade
    if resample is None and not cascade.decoder.net.config.inpaint:
        resample = RESAMPLE
    if resample is not None:
        _check_repaint(resample, sampling.decoder.sampler)

    def at(size: int) -> Known:
        keep = torch.stack([kept_pixels(mask, size) for mask in kept]).to(cascade.device)
        return Known(squares(found, size, cascade.device), keep[:, None], resample)

    drawn = sampling.generate(captions, seeds, known=at)
    whole = at(drawn.image.shape[-1])
    return drawn._replace(image=torch.where(whole.keep, whole.known, drawn.image))


def _check_repaint(resample: int, sampler: str) -> None:
    if resample < 1:
        raise UserError(f"resample={resample}: must be at least 1")
    if sampler not in SAMPLERS:
        raise UserError(f"decoder.sampler={sampler}: cannot inpaint; {' and '.join(SAMPLERS)} can")


def _masks(masks: Masks) -> list[Array]:
    batched = isinstance(masks, (Tensor, np.ndarray)) and masks.ndim == 3
    listed = masks if isinstance(masks, Sequence) or batched else [masks]
    found = [np.asarray(mask) for mask in listed]
    if not all(mask.dtype == np.bool_ and mask.ndim == 2 for mask in found):
        raise UserError("mask: must be a boolean array [H, W], True = keep")
    return found


def kept_pixels(mask: Array, size: int) -> Tensor:
    """``mask`` ``[H, W]`` for the square of `squares`: ``[size, size]`` boolean.

    A pixel is kept if nothing of the hole goes into it: otherwise the old content would show.
    """
    weight_of_hole = Square(sizes=(size,))((~mask).astype(np.float32), Random())[0]
    return torch.from_numpy(abs(weight_of_hole) < 1e-6)
