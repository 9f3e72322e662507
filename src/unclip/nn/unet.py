"""The ADM U-Net (arXiv 2105.05233) with GLIDE's context tokens (arXiv 2112.10741).

Shapes: B batch, H × W pixels, C = ``channels``, F = 4C features of time, S context tokens of width
X. A *level* is a resolution: level 0 is the input's, level l has 1/2^l of its side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.nn import chunked_convolution
from unclip.nn.attention import KeysValues
from unclip.nn.config import TimeKind
from unclip.nn.resblock import AttentionBlock, GroupNorm32, ResBlock, zero_parameters
from unclip.nn.timestep import TimestepMLP


class Layer(nn.Module):
    """A residual block, attention where the level has it, the way up where one follows."""

    def __init__(
        self, block: ResBlock, attention: AttentionBlock | None = None, up: ResBlock | None = None
    ):
        super().__init__()
        self.block = block
        self.attention = attention
        self.up = up

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor | KeysValues | None,
        beside: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """``[B, C, H, W]``, with the channels ``beside`` it, to ``[B, C', H', W']``."""
        x = self.block(x, time, beside)
        if self.attention is not None:
            x = self.attention(x, context, context_mask)
        return x if self.up is None else self.up(x, time)


class UNet(nn.Module):
    """A U-Net of residual blocks; freshly built, its output is exactly zero.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        channels: C, the width at level 0.
        blocks: residual blocks per level going down; one more going up.
        multiples: width of each level, in C.
        attention_levels: levels whose every block is followed by attention; with none there is no
            attention in the middle either.
        head_channels: channels per attention head.
        dropout: inside the residual blocks, in [0, 1).
        context_width: X, or None for a network without context tokens.
        groups: of the normalisation; must divide ``channels``.
        time: how the residual blocks take the time, see `ResBlock`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        channels: int,
        blocks: int,
        multiples: Sequence[int],
        attention_levels: Sequence[int] = (),
        head_channels: int = 64,
        dropout: float = 0.0,
        context_width: int | None = None,
        groups: int = 32,
        time: TimeKind = "scale_shift",
    ):
        super().__init__()
        self.in_channels = in_channels
        self.side_factor = 2 ** (len(multiples) - 1)
        time_width = 4 * channels

        def residual(width: int, out_width: int, **resample) -> ResBlock:
            return ResBlock(
                width,
                out_width,
                time_width=time_width,
                dropout=dropout,
                groups=groups,
                time=time,
                **resample,
            )

        def attention(width: int, wanted: bool) -> AttentionBlock | None:
            if not wanted:
                return None
            return AttentionBlock(
                width, head_channels=head_channels, context_width=context_width, groups=groups
            )

        self.time = TimestepMLP(channels, time_width)
        width = multiples[0] * channels
        self.input = nn.Conv2d(in_channels, width, 3, padding=1)

        self.down = nn.ModuleList()
        skips = [width]  # widths of what the way down leaves for the way up
        for level, multiple in enumerate(multiples):
            for _ in range(blocks):
                block = residual(width, multiple * channels)
                width = multiple * channels
                self.down.append(Layer(block, attention(width, level in attention_levels)))
                skips.append(width)
            if level < len(multiples) - 1:
                self.down.append(Layer(residual(width, width, resample="down")))
                skips.append(width)

        self.middle = nn.ModuleList(
            [
                Layer(residual(width, width), attention(width, len(attention_levels) > 0)),
                Layer(residual(width, width)),
            ]
        )

        self.up = nn.ModuleList()
        for level, multiple in reversed(list(enumerate(multiples))):
            for index in range(blocks + 1):
                block = residual(width + skips.pop(), multiple * channels)
                width = multiple * channels
                last = level > 0 and index == blocks
                up = residual(width, width, resample="up") if last else None
                self.up.append(Layer(block, attention(width, level in attention_levels), up))

        self.out_norm = GroupNorm32(width, groups)
        self.out = zero_parameters(nn.Conv2d(width, out_channels, 3, padding=1))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        time_offset: Tensor | None = None,
        context: Tensor | list[KeysValues | None] | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """Run the network.

        Args:
            x: ``[B, in_channels, H, W]``, H and W divisible by 2^(levels − 1).
            t: timesteps ``[B]``.
            time_offset: ``[B, F]``, added to the time embedding.
            context: tokens ``[B, S, X]``, or what `project` made of them; needed if and only if the
                network has a context width.
            context_mask: ``[B, S]`` boolean, True = the pixels may attend to this token; None shows
                all tokens.

        Returns:
            ``[B, out_channels, H, W]`` of the type of ``x``.

        Raises:
            ValueError: H or W is not divisible, or the channels are not ``in_channels``.
        """
        if x.shape[1] != self.in_channels:
            raise ValueError(f"{x.shape[1]} channels, not {self.in_channels}")
        if x.shape[2] % self.side_factor or x.shape[3] % self.side_factor:
            raise ValueError(
                f"an image of {x.shape[2]} × {x.shape[3]} pixels: both sides must be multiples"
                f" of {self.side_factor}"
            )
        time = self.time(t)
        if time_offset is not None:
            time = time + time_offset
        time = F.silu(time)  # once here, not once per block

        # Convolutions in bfloat16 want their channels last; the layers after this one follow.
        x_last = x.to(self.input.weight.dtype, memory_format=torch.channels_last)
        h = self.input(x_last)
        skips = [h]
        layers = self._layers()
        contexts = iter(context if isinstance(context, list) else [context] * len(layers))
        for layer in self.down:
            h = layer(h, time, next(contexts), None, context_mask)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, time, next(contexts), None, context_mask)
        for layer in self.up:
            h = layer(h, time, next(contexts), skips.pop(), context_mask)
        return self._output(h).to(x.dtype)

    def project(self, context: Tensor) -> list[KeysValues | None]:
        """Keys and values of ``context`` ``[B, S, X]``, by layer; None where it has no attention.

        The same in all steps of a sampling.
        """
        attentions = [layer.attention for layer in self._layers()]
        return [
            None if attention is None else attention.project(context) for attention in attentions
        ]

    def _layers(self) -> list[Layer]:
        """In the order in which they run."""
        return [*self.down, *self.middle, *self.up]

    def _output(self, h: Tensor) -> Tensor:
        if not chunked_convolution.needs_chunks(h, convs=[self.out]):
            return self.out(F.silu(self.out_norm(h)))
        normalise, rows = (
            chunked_convolution.normaliser(self.out_norm, [h]),
            chunked_convolution.rows_of([h]),
        )
        return chunked_convolution.convolve_in_chunks(
            self.out,
            lambda a, b: F.silu(normalise(rows(a, b))),
            h.shape[2],
            step=chunked_convolution.chunk_height(h, h.shape[1], h.shape[3]),
        )
