"""Convolutions over a large feature map in chunks of rows, so that only chunks need temporaries.

A plain tiling of a U-Net is wrong twice: a tile does not see beyond its edge, and group
normalisation would take a tile's statistics for the image's. Here each layer goes over the whole
map before the next one begins: the statistics are gathered from all chunks first, and a chunk is
read with the one row above and below that its 3 × 3 kernel reaches. So the result is that of the
whole map, but for rounding, at its edges too.

Shapes: B batch, C channels, H × W pixels. A *map* is a list of tensors that count as concatenated
along their channels, which copies a chunk at a time instead of everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ELEMENTS = 1 << 23  # numbers per chunk; a larger map than two chunks is split

Rows = Callable[[int, int], Tensor]
"""``rows(a, b)``: rows a to b of a map, ``[B, C, b - a, W]``."""


def needs_chunks(*parts: Tensor) -> bool:
    """Whether a map is large enough to be split; never while gradients are recorded."""
    return not torch.is_grad_enabled() and sum(p.numel() for p in parts) > 2 * ELEMENTS


def chunk_height(batch: int, channels: int, width: int) -> int:
    """Rows of a chunk; even, so that halving and doubling cut no pixel."""
    return max(2, ELEMENTS // (batch * channels * width) // 2 * 2)


def rows_of(parts: Sequence[Tensor]) -> Rows:
    """The rows of a map."""

    def rows(a: int, b: int) -> Tensor:
        cut = [part[:, :, a:b] for part in parts]
        return cut[0] if len(cut) == 1 else torch.cat(cut, dim=1)

    return rows


def normaliser(norm: nn.GroupNorm, parts: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """``norm`` with the statistics of the whole map, to be applied to any rows of it.

    Means and variances of the chunks are merged in float64 (Chan et al. 1979).
    """
    batch, _, total, width = parts[0].shape
    channels = sum(part.shape[1] for part in parts)
    step, rows = chunk_height(batch, channels, width), rows_of(parts)
    count, mean, square = 0, torch.zeros((), dtype=torch.float64), torch.zeros(())
    for a in range(0, total, step):
        chunk = rows(a, min(a + step, total)).float().reshape(batch, norm.num_groups, -1)
        n = chunk.shape[2]
        var, own = (x.double() for x in torch.var_mean(chunk, dim=2, correction=0))
        if count == 0:
            mean, square = own, var * n
        else:
            square = square + var * n + (own - mean) ** 2 * (count * n / (count + n))
            mean = mean + (own - mean) * (n / (count + n))
        count += n
    each = channels // norm.num_groups
    rstd = (square / count + norm.eps).rsqrt().repeat_interleave(each, dim=1)
    scale = rstd * norm.weight.double()
    shift = norm.bias.double() - mean.repeat_interleave(each, dim=1) * scale
    scale, shift = (x.float()[:, :, None, None] for x in (scale, shift))

    def normalise(x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        return torch.addcmul(shift, x.to(dtype), scale).to(x.dtype)

    return normalise


def convolve_in_chunks(
    conv: nn.Conv2d,
    rows: Rows,
    total: int,
    *,
    step: int,
    add: Rows | None = None,
) -> Tensor:
    """A 3 × 3 convolution of the map whose rows ``rows`` computes.

    Args:
        conv: kernel 3, padding 1.
        rows: gives its input; asked for one row more than a chunk on either side.
        total: H.
        step: rows of a chunk.
        add: rows that are added to the result.

    Returns:
        ``[B, C', H, W]``.
    """
    out = None
    for a in range(0, total, step):
        b = min(a + step, total)
        chunk = rows(max(a - 1, 0), min(b + 1, total))
        chunk = F.pad(chunk, (1, 1, int(a == 0), int(b == total)))
        made = F.conv2d(chunk, conv.weight, conv.bias)
        if add is not None:
            made = made + add(a, b)
        if out is None:
            batch, channels, _, width = made.shape
            out = made.new_empty(batch, channels, total, width)
        out[:, :, a:b] = made
    assert out is not None
    return out
