"""The small image of a large one: clean, or as a `CorruptionConfig` leaves it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from unclip.degradations.blur import gaussian_blur
from unclip.degradations.bsr import bsr
from unclip.degradations.bsr_parameters import VARIANTS
from unclip.degradations.config import CorruptionConfig


def resize(image: Tensor, side: int) -> Tensor:
    """``image`` ``[B, C, H, W]`` at ``side`` x ``side``, bicubic, antialiased, kept in [-1, 1]."""
    resized = F.interpolate(
        image.float(), size=(side, side), mode="bicubic", antialias=True, align_corners=False
    )
    return resized.clamp(-1, 1)


def corrupt(
    image: Tensor, side: int, corruption: CorruptionConfig, *, uniforms: Tensor, noise: Tensor
) -> Tensor:
    """Small images ``[B, 3, side, side]`` of ``image`` ``[B, 3, S, S]``, all of them corrupted.

    ``uniforms`` ``[B, UNIFORMS]`` and ``noise`` (of the shape of ``image``) are BSR's chance (see
    `unclip.degradations.bsr.bsr`); the other kinds have none and do not look at them.
    """
    if corruption.kind in VARIANTS:
        scale, variant = image.shape[-1] // side, VARIANTS[corruption.kind]
        return bsr(image, scale=scale, variant=variant, uniforms=uniforms, noise=noise)
    low = resize(image, side)
    if corruption.kind == "none":
        return low
    return gaussian_blur(low, kernel=corruption.kernel, sigma=corruption.sigma)
