"""The shape of each network, as the experiment files give it. Imports no torch.

Defaults are the paper's (arXiv 2204.06125, table 3 and appendix C) unless a comment says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from unclip.common.checks import require, require_choices

TimeKind = Literal["scale_shift", "additive"]


@dataclass(kw_only=True)
class TextEncoderConfig:
    """The caption transformer of the decoder and the AR prior (GLIDE's: bidirectional)."""

    context: int = 256
    vocabulary: int = 49408
    width: int = 2048
    layers: int = 24
    heads: int = 32

    def validate(self) -> None:
        """Refuse shapes that no network can have."""
        require(
            self.width % self.heads == 0, "model.text.heads", f"does not divide width={self.width}"
        )


@dataclass(kw_only=True)
class ConvUNetConfig:
    """An ADM U-Net (arXiv 2105.05233), by default without attention: an upsampler's."""

    channels: int = 320
    blocks: int = 3  # residual blocks per resolution
    multiples: list[int] = field(default_factory=lambda: [1, 2, 3, 4])
    dropout: float = 0.1
    attention: list[int] = field(default_factory=list)  # sides with attention
    head_channels: int = 64
    norm_groups: int = 32  # of group normalisation; fewer where channels are few
    time: TimeKind = "scale_shift"  # how blocks take the timestep; additive: Karlo's upsamplers

    def validate(self) -> None:
        """Refuse shapes that no network can have."""
        require_choices(self, "model.unet")
        require(len(self.multiples) > 0, "model.unet.multiples", "must not be empty")
        require(self.norm_groups > 0, "model.unet.norm_groups", "must be above 0")
        for width in self._widths():
            require(
                width % self.norm_groups == 0,
                "model.unet.norm_groups",
                f"does not divide {self._told(width)}",
            )
        require(0 <= self.dropout < 1, "model.unet.dropout", "must be in [0, 1)")

    def validate_for(self, image_size: int) -> None:
        """`validate`, and refuse attention at a side that images of ``image_size`` never have."""
        self.validate()
        sides = [image_size >> level for level in range(len(self.multiples))]
        for side in self.attention:
            require(side in sides, "model.unet.attention", f"{side} is none of the sides {sides}")
        widths = self._widths()
        attended = [widths[level] for level in self.attention_levels(image_size)]
        for width in (
            [*attended, widths[-1]] if attended else []
        ):  # the middle is as wide as the last
            require(
                self.head_channels > 0 and width % self.head_channels == 0,
                "model.unet.head_channels",
                f"does not divide {self._told(width)}",
            )

    def _widths(self) -> list[int]:
        """Channels of each level."""
        return [multiple * self.channels for multiple in self.multiples]

    def _told(self, width: int) -> str:
        return f"the {width} channels of a level (channels={self.channels} times a multiple)"

    def attention_levels(self, image_size: int) -> list[int]:
        """Levels at which the sides of images of ``image_size`` are those of ``attention``."""
        levels = range(len(self.multiples))
        return [level for level in levels if image_size >> level in self.attention]


@dataclass(kw_only=True)
class UNetConfig(ConvUNetConfig):
    """The same with attention at low resolutions: the decoder's."""

    channels: int = 512
    attention: list[int] = field(default_factory=lambda: [32, 16, 8])
