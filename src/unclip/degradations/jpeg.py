"""JPEG compression and decompression of each sample at its own quality, batched.

As libjpeg does both by default: ITU-T T.81 (8 x 8 DCT, the tables of its Annex K), JFIF's colours,
chroma at half the resolution both ways (4:2:0), and every rounding of its integer arithmetic but
those inside the DCT. What is left out is the entropy coding, which loses nothing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.degradations.borders import replicated, whole

_LUMA = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99),
    *(99,) * 32,
)
# Colours in 16-bit fixed point; no sum of products reaches 2^24, so float32 is exact.
_ONE = 65536
_TO_YCC = ((19595, 38470, 7471), (-11058, -21710, 32768), (32768, -27439, -5329))
_TO_YCC_ROUNDED_BY = (32768, 128 * _ONE + 32767, 128 * _ONE + 32767)
_FROM_CHROMA = ((0, 91881), (-22553, -46802), (116130, 0))  # Cb, Cr to R - Y, G - Y, B - Y


def _transform() -> Tensor:
    """``[64, 64]``: the two-dimensional DCT of a block, both as vectors (T.81, A.3.3)."""
    k = torch.arange(8, dtype=torch.float64)
    cosines = torch.cos((2 * k + 1) * k[:, None] * math.pi / 16) / 2
    cosines[0] = 8**-0.5
    return torch.kron(cosines, cosines).float()


_DCT = _transform()


def quantization_tables(quality: Tensor) -> Tensor:
    """``[G, 2, 64]`` (luma and chroma, rows of a block) of ``quality`` ``[G]`` from 1 to 100."""
    percent = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    tables = torch.tensor([_LUMA, _CHROMA], device=quality.device)
    return ((tables * percent[:, None, None] + 50) // 100).clamp(1, 255)


def _coded(planes: Tensor, table: Tensor) -> Tensor:
    """``planes`` ``[G, C, H, W]`` of whole blocks, 0 to 255, quantized by ``table`` ``[G, 64]``."""
    dct, step = _DCT.to(planes.device), table[:, None, :].float()
    split = planes.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
    blocks = (split - 128).reshape(len(planes), -1, 64)
    eighths = (blocks @ (8 * dct.T)).round_()  # libjpeg's DCT is of integers
    levels = eighths.abs().div_(8 * step).add_(0.5).floor_().copysign_(eighths)
    pixels = (levels.mul_(step) @ dct).add_(128.5).floor_().clamp_(0, 255)
    return pixels.reshape(split.shape).transpose(3, 4).reshape(planes.shape)


def _halved(planes: Tensor) -> Tensor:
    """Means of 2 x 2 pixels; those of half a level go down and up by turns, column by column."""
    rows = planes[..., 0::2, :] + planes[..., 1::2, :]
    sums = rows[..., 0::2] + rows[..., 1::2]
    return sums.add_(_alternating(1.0, 2.0, sums)).div_(4).floor_()


def _doubled(planes: Tensor) -> Tensor:
    """As libjpeg does by default: weights of 9, 3, 3 and 1 sixteenths, borders repeated."""
    smooth = F.interpolate(planes, scale_factor=2, mode="bilinear", align_corners=False)
    return smooth.add_(_alternating(8 / 16, 7 / 16, smooth)).floor_()


def _alternating(even: float, odd: float, like: Tensor) -> Tensor:
    return like.new_tensor([even, odd]).repeat(like.shape[-1] // 2)


def jpeg(image: Tensor, quality: Tensor, size: Tensor | None = None) -> Tensor:
    """``image`` ``[G, 3, H, W]`` in [0, 1] as it is after having been a JPEG file, in 255ths.

    Args:
        image: A canvas; rounded to 255ths first.
        quality: ``[G]`` int64 from 1 to 100, on the CPU or the image's device.
        size: ``[G, 2]`` of the samples (see `unclip.degradations.borders`); all, if None.
    """
    size = whole(image) if size is None else size
    height, width = image.shape[2:]
    tables = quantization_tables(quality.to(image.device))
    rgb = (image * 255).round_().clamp_(0, 255).flatten(2)
    to_ycc, half = rgb.new_tensor(_TO_YCC), rgb.new_tensor(_TO_YCC_ROUNDED_BY)
    ycc = (to_ycc @ rgb).add_(half[:, None]).div_(_ONE).floor_().view(image.shape)

    # Whole blocks of 16 x 16 pixels. libjpeg repeats the last row of the chroma once it is halved.
    tall, wide = -(-height // 16) * 16, -(-width // 16) * 16
    y = _coded(replicated(ycc[:, :1], size, (tall, wide)), tables[:, 0])
    small = -(-size // 2)
    chroma = _halved(replicated(ycc[:, 1:], size, (tall, wide)))
    chroma = replicated(chroma, _with_width(small, wide // 2), (tall // 2, wide // 2))
    chroma = _coded(chroma, tables[:, 1])

    chroma = _doubled(replicated(chroma, small, (-(-height // 2), -(-width // 2))))
    chroma, y = chroma[..., :height, :width], y[..., :height, :width]
    from_chroma = rgb.new_tensor(_FROM_CHROMA)
    differences = (from_chroma @ (chroma - 128).flatten(2)).add_(_ONE // 2).div_(_ONE).floor_()
    return differences.view(image.shape).add_(y).clamp_(0, 255).div_(255)


def _with_width(size: Tensor, width: int) -> Tensor:
    return torch.stack([size[:, 0], torch.full_like(size[:, 1], width)], dim=1)
