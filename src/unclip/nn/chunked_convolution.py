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

from unclip.common.devices import widened, widest

ELEMENTS = 1 << 25  # numbers per chunk and sample where memory is the machine's: 128 MiB
SHARE = 32  # of a GPU's memory, that one chunk of the whole batch may take in float32

Rows = Callable[[int, int], Tensor]
"""``rows(a, b)``: rows a to b of a map, ``[B, C, b - a, W]``."""


def chunk_numbers(device: torch.device, batch: int) -> int:
    """Numbers in a chunk of ``batch`` samples.

    By the sample on a CPU, so that small images are never chunked, however many there are: chunks
    of many samples would be a few rows each, and all time would go into starting operations. A GPU
    has a memory of its own size, which the batch shares; its chunks are large however many they
    are. Its whole memory counts, not what is free: other programs must not change the rounding.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // SHARE // 4
    return ELEMENTS * batch


def needs_chunks(*parts: Tensor, convs: Sequence[nn.Module] = ()) -> bool:
    """Whether a map takes more than two chunks; never while gradients are recorded.

    ``convs`` are the layers that it will go through: one with an adapter, whose weight alone is not
    what it computes, takes it whole.
    """
    if torch.is_grad_enabled() or not all(isinstance(conv, nn.Conv2d) for conv in convs):
        return False
    first = parts[0]
    return sum(p.numel() for p in parts) > 2 * chunk_numbers(first.device, len(first))


def chunk_height(map_part: Tensor, channels: int, width: int) -> int:
    """Rows of a chunk of a map of ``channels`` and ``width`` with the batch of ``map_part``.

    Even, so that halving and doubling cut no pixel.
    """
    batch = len(map_part)
    numbers = chunk_numbers(map_part.device, batch)
    return max(2, numbers // (batch * channels * width) // 2 * 2)


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
    step, rows = chunk_height(parts[0], channels, width), rows_of(parts)
    count, mean, square = 0, torch.zeros((), dtype=widest(parts[0].device)), torch.zeros(())
    for a in range(0, total, step):
        chunk = rows(a, min(a + step, total)).float().reshape(batch, norm.num_groups, -1)
        n = chunk.shape[2]
        var, own = (widened(x) for x in torch.var_mean(chunk, dim=2, correction=0))
        if count == 0:
            mean, square = own, var * n
        else:
            square = square + var * n + (own - mean) ** 2 * (count * n / (count + n))
            mean = mean + (own - mean) * (n / (count + n))
        count += n
    each = channels // norm.num_groups
    rstd = (square / count + norm.eps).rsqrt().repeat_interleave(each, dim=1)
    scale = rstd * widened(norm.weight)
    shift = widened(norm.bias) - mean.repeat_interleave(each, dim=1) * scale
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
