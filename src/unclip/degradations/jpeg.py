"""JPEG compression and decompression of each sample at its own quality, batched.

As libjpeg does both by default: ITU-T T.81 (8 x 8 DCT, the tables of its Annex K), JFIF's colours,
chroma at half the resolution both ways (4:2:0), and every rounding of its integer arithmetic but
those inside the DCT. What is left out is the entropy coding, which loses nothing.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.common.upload import upload
from unclip.degradations.borders import replicate_edges

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
# Colours in 16-bit fixed point; no sum of products reaches 2^24, so float32 is exact. All three are
# centred: Y - 128, and Cb and Cr without the 128 with which JFIF makes them positive.
_ONE = 65536
_TO_YCC = ((19595, 38470, 7471), (-11058, -21710, 32768), (32768, -27439, -5329))
_TO_YCC_ROUNDED_BY = (32768 - 128 * _ONE, 32767, 32767)
_FROM_CHROMA = ((0, 91881), (-22553, -46802), (116130, 0))  # Cb, Cr to R - Y, G - Y, B - Y
_AWAY = 1 + 2**-20  # rounds what lies midway between two levels away from zero, and moves no other


def quantization_tables(quality: Tensor) -> Tensor:
    """``[G, 2, 64]`` (luma and chroma, rows of a block) of ``quality`` ``[G]`` from 1 to 100."""
    percent = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    tables = torch.tensor([_LUMA, _CHROMA], device=quality.device)
    return ((tables * percent[:, None, None] + 50) // 100).clamp(1, 255)


class _Constants(NamedTuple):
    """Float32, on the device of the images."""

    dct: Tensor  # [8, 8] of 8 pixels (T.81, A.3.3), times 8 ** 0.5: so rows 0 and 4 are 1 and -1
    twice: Tensor  # [16, 16] of 8 pixels and the next 8: a product with it takes half the time
    tables: Tensor  # [100, 2, 64] of quality 1 to 100
    to_ycc: Tensor  # [3, 3]
    rounded_by: Tensor  # [3, 1]
    from_chroma: Tensor  # [3, 2]


@cache
def _constants(device: torch.device) -> _Constants:
    k = torch.arange(8, dtype=torch.float64)
    dct = 2**0.5 * torch.cos((2 * k + 1) * k[:, None] * math.pi / 16)
    dct[0] = 1
    found = _Constants(
        dct=dct,
        twice=torch.block_diag(dct, dct),
        tables=quantization_tables(torch.arange(1, 101)),
        to_ycc=torch.tensor(_TO_YCC) / _ONE,
        rounded_by=torch.tensor(_TO_YCC_ROUNDED_BY)[:, None] / _ONE,
        from_chroma=torch.tensor(_FROM_CHROMA) / _ONE,
    )
    return _Constants(*(x.to(device, torch.float32) for x in found))


def _code_blocks(planes: Tensor, table: Tensor) -> Tensor:
    """``planes`` ``[G, C, H, W]`` of whole blocks, -128 to 127, quantized by ``table`` ``[G, 64]``.

    Columns are transformed, then rows, where they are: nothing is put into blocks, or back. The
    8 rows of a row of blocks have an even number of eights, so that two can go at a time.
    """
    c, width = _constants(planes.device), planes.shape[3]
    step = table.view(-1, 8, 1, 8).expand(-1, -1, width // 8, -1).reshape(len(planes), 1, -1)
    columns = c.dct @ planes.unflatten(2, (-1, 8))
    eighths = (columns.view(-1, 16) @ c.twice.T).round_()  # libjpeg's DCT is of integers
    levels = eighths.view(len(planes), -1, 8 * width).mul_(_AWAY / 8 / step).round_()
    columns = (levels.mul_(step / 8).view(-1, 16) @ c.twice).view(columns.shape)
    return (c.dct.T @ columns).add_(0.5).floor_().clamp_(-128, 127).view(planes.shape)


def _halve(planes: Tensor) -> Tensor:
    """Means of 2 x 2 pixels; those of half a level go down and up by turns, column by column."""
    rows = planes[..., 0::2, :] + planes[..., 1::2, :]
    sums = rows[..., 0::2] + rows[..., 1::2]
    return sums.add_(_alternating(1.0, 2.0, sums.shape[-1], sums.device)).div_(4).floor_()


def _double(planes: Tensor) -> Tensor:
    """As libjpeg does by default: weights of 9, 3, 3 and 1 sixteenths, borders repeated."""
    smooth = F.interpolate(planes, scale_factor=2, mode="bilinear", align_corners=False)
    rounding = _alternating(8 / 16, 7 / 16, smooth.shape[-1], smooth.device)
    return smooth.add_(rounding).floor_()


@lru_cache(maxsize=256)
def _alternating(even: float, odd: float, length: int, device: torch.device) -> Tensor:
    return even + (odd - even) * (torch.arange(length, device=device) % 2)


def jpeg(image: Tensor, quality: Tensor, size: Tensor | None = None) -> Tensor:
    """``image`` ``[G, 3, H, W]`` in [0, 1] as it is after having been a JPEG file, in 255ths.

    Args:
        image: A canvas; rounded to 255ths first.
        quality: ``[G]`` int64 from 1 to 100, on the CPU.
        size: ``[G, 2]`` of the samples (see `unclip.degradations.borders`); all, if None.
    """
    height, width = image.shape[2:]
    c = _constants(image.device)
    tables = c.tables[upload(quality - 1, image.device)]
    rgb = (image * 255).round_().clamp_(0, 255).flatten(2)
    ycc = (c.to_ycc @ rgb).add_(c.rounded_by).floor_().view(image.shape)

    # Whole blocks of 16 x 16 pixels. libjpeg repeats the last row of the chroma once it is halved.
    tall, wide = -(-height // 16) * 16, -(-width // 16) * 16
    h, w = -(-height // 2), -(-width // 2)
    half = half_height = None
    if size is not None:
        half = -(-size // 2)
        half_height = half.index_fill(1, torch.tensor(1), wide // 2)  # and all of the width
    y = _code_blocks(replicate_edges(ycc[:, :1], size, (tall, wide)), tables[:, 0])
    chroma = _halve(replicate_edges(ycc[:, 1:], size, (tall, wide)))[..., :h, :]
    chroma = replicate_edges(chroma, half_height, (tall // 2, wide // 2))
    chroma = _code_blocks(chroma, tables[:, 1])

    chroma = _double(replicate_edges(chroma[..., :h, :w], half, (h, w)))[..., :height, :width]
    y = y[..., :height, :width].add_(128)
    differences = (c.from_chroma @ chroma.flatten(2)).add_(0.5).floor_().view(image.shape)
    return differences.add_(y).clamp_(0, 255).div_(255)
