"""The residual and attention blocks of the ADM U-Net (arXiv 2105.05233; arXiv 2112.10741).

Shapes: B batch, C channels, H × W pixels, P = H·W, S context tokens of width X, F features of time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.nn import chunked_convolution
from unclip.nn.attention import KeysValues, attend, join_heads, split_heads
from unclip.nn.config import TimeKind

Layer = TypeVar("Layer", bound=nn.Module)


class GroupNorm32(nn.GroupNorm):
    """Group normalisation, computed in float32 and returned as the input's type.

    The networks of the papers have 32 groups of many channels. A narrow network may want fewer: a
    group of one channel is instance normalisation, which wipes out that channel's level, and with
    it the brightness and colour of flat areas.
    """

    def __init__(self, channels: int, groups: int):
        super().__init__(groups, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, ...]`` to the same."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        return F.group_norm(x.to(dtype), self.num_groups, weight, bias, self.eps).to(x.dtype)


def zero_parameters(layer: Layer) -> Layer:
    """The same layer with all of its parameters zero, so that its branch starts silent."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ResBlock(nn.Module):
    """A residual block that takes the time and, if asked, resamples inside.

    h = conv(r(SiLU(GN(x)))); h = conv₀(SiLU(GN(h)·(1 + scale) + shift)); skip(r(x)) + h, where r is
    2×2 average pooling, nearest doubling or nothing, and conv₀ starts at zero. With additive time
    (arXiv 2006.11239, and Karlo's upsamplers) the second is h = conv₀(SiLU(GN(h + shift))).
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        time_width: int,
        dropout: float,
        groups: int = 32,
        time: TimeKind = "scale_shift",
        resample: Literal["down", "up"] | None = None,
    ):
        super().__init__()
        self.resample = resample
        self.scales = time == "scale_shift"
        self.in_norm = GroupNorm32(channels, groups)
        self.in_conv = nn.Conv2d(channels, out_channels, 3, padding=1)
        parts = 2 if self.scales else 1  # scale, then shift
        self.time = nn.Linear(time_width, parts * out_channels)
        self.out_norm = GroupNorm32(out_channels, groups)
        self.dropout = nn.Dropout(dropout)
        self.out_conv = zero_parameters(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = (
            nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)
        )

    def _modulate(self, h: Tensor, of_time: Tensor) -> Tensor:
        """Normalised ``h``, scaled and shifted unless time was added before."""
        if not self.scales:
            return h
        scale, shift = of_time.chunk(2, dim=1)
        return h * (1 + scale) + shift

    def _resample(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return x

    def forward(self, x: Tensor, time: Tensor, beside: Tensor | None = None) -> Tensor:
        """One block.

        Args:
            x: ``[B, C, H, W]``, or its first channels.
            time: ``[B, F]``, already through the SiLU.
            beside: the further channels ``[B, C'', H, W]``, from the way down of a U-Net.

        Returns:
            ``[B, C', H', W']``.
        """
        parts = [x] if beside is None else [x, beside]
        of_time = self.time(time)[:, :, None, None]
        convs = (self.in_conv, self.out_conv)
        if chunked_convolution.needs_chunks(*parts, convs=convs) and not self.training:
            return self._forward_in_chunks(parts, of_time)
        x = x if beside is None else torch.cat(parts, dim=1)
        h = self.in_conv(self._resample(F.silu(self.in_norm(x))))
        h = self._modulate(self.out_norm(h if self.scales else h + of_time), of_time)
        return self.skip(self._resample(x)) + self.out_conv(self.dropout(F.silu(h)))

    def _forward_in_chunks(self, parts: list[Tensor], of_time: Tensor) -> Tensor:
        """The same, with no temporary of the size of the map. Outside training only."""
        total, width = parts[0].shape[2:]
        factor = {"down": 0.5, "up": 2.0, None: 1.0}[self.resample]
        total = int(total * factor)
        widest = max(self.in_conv.in_channels, self.in_conv.out_channels)
        step = chunked_convolution.chunk_height(parts[0], widest, int(width * max(1.0, factor)))
        rows, normalise = (
            chunked_convolution.rows_of(parts),
            chunked_convolution.normaliser(self.in_norm, parts),
        )

        def resample(change: Callable[[Tensor], Tensor]) -> chunked_convolution.Rows:
            """Rows a to b after the resampling, of what ``change`` makes of the input."""

            def made(a: int, b: int) -> Tensor:
                first = int(a / factor)
                found = self._resample(change(rows(first, math.ceil(b / factor))))
                skipped = a - int(first * factor)
                return found[:, :, skipped : skipped + b - a]

            return made

        h = chunked_convolution.convolve_in_chunks(
            self.in_conv,
            resample(lambda x: F.silu(normalise(x))),
            total,
            step=step,
            add=None if self.scales else lambda a, b: of_time,
        )
        again, out = (
            chunked_convolution.normaliser(self.out_norm, [h]),
            chunked_convolution.rows_of([h]),
        )
        plain = resample(lambda x: x)
        return chunked_convolution.convolve_in_chunks(
            self.out_conv,
            lambda a, b: F.silu(self._modulate(again(out(a, b)), of_time)),
            total,
            step=step,
            add=lambda a, b: self.skip(plain(a, b)),
        )


class AttentionBlock(nn.Module):
    """Self-attention over the pixels, with context tokens as further keys and values.

    The context is projected by this block's own linear layer and put before the pixels. Channel
    orders: ``qkv`` is (q, k, v), ``context_kv`` is (k, v), each by head. In channels-last memory
    the reshapes between [B, C, H, W] and [B, P, C] copy nothing.
    """

    def __init__(
        self, channels: int, *, head_channels: int, context_width: int | None, groups: int = 32
    ):
        super().__init__()
        if channels % head_channels:
            raise ValueError(f"{channels} channels do not split into heads of {head_channels}")
        self.heads = channels // head_channels
        self.norm = GroupNorm32(channels, groups)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.context_kv = nn.Linear(context_width, 2 * channels) if context_width else None
        self.out = zero_parameters(nn.Linear(channels, channels))

    def forward(
        self,
        x: Tensor,
        context: Tensor | KeysValues | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """``x`` ``[B, C, H, W]``, ``context`` ``[B, S, X]`` if the block was built for one.

        What `project` made of the context is taken in its place.
        ``context_mask`` is ``[B, S]`` boolean, True = may be seen; None shows all of the context.
        """
        pixels = self.norm(x).flatten(2).transpose(1, 2)  # [B, P, C]
        q, k, v = split_heads(self.qkv(pixels), 3, self.heads)
        if self.context_kv is not None:
            if not isinstance(context, KeysValues):
                assert context is not None
                context = self.project(context)
            k, v = context.before(k, v)
        mask = None
        if context_mask is not None:
            mask = F.pad(context_mask, (0, pixels.shape[1]), value=True)[:, None, None]
        h = self.out(join_heads(attend(q, k, v, mask)))
        return x + h.transpose(1, 2).unflatten(2, x.shape[2:])

    def project(self, context: Tensor) -> KeysValues:
        """The block's keys and values of context tokens ``[B, S, X]``."""
        assert self.context_kv is not None
        return KeysValues(*split_heads(self.context_kv(context), 2, self.heads))
