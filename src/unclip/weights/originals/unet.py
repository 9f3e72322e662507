"""The shape of a U-Net in guided diffusion's layout, by the names and shapes of its tensors."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from unclip.common.errors import UserError
from unclip.weights.settings import Settings

State = dict[str, Tensor]
_BLOCK = re.compile(r"(input|output)_blocks\.(\d{1,4})\.(\d)\.(\w+).*")


def unet_shape(state: State, prefix: str, where: str) -> tuple[dict[str, Any], list[int]]:
    """The shape of a U-Net in guided diffusion's layout, by its tensors' names and shapes.

    Returns:
        Channels, blocks and multiples, and the levels with attention.
    """
    inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    channels = shape_of(inner, "time_embed.0.weight", where)[1]
    blocks = [found.groups() for k in inner if (found := _BLOCK.fullmatch(k))]
    inputs = {at for way, at, _, _ in blocks if way == "input"}
    ups = {
        at
        for way, at, part, inside in blocks
        if (way, inside) == ("output", "in_layers") and part != "0"
    }
    levels = len(ups) + 1
    if len(inputs) % levels or len(inputs) // levels < 2 or not channels:
        raise UserError(f"{where}: its input_blocks make no U-Net of {levels} levels")
    per = len(inputs) // levels
    firsts = [1 + level * per for level in range(levels)]
    name = "input_blocks.{}.0.out_layers.3.weight"
    widths = [shape_of(inner, name.format(k), where, 4)[0] for k in firsts]
    rows = shape_of(inner, "input_blocks.1.0.emb_layers.1.weight", where)[0]
    shape = {
        "channels": channels,
        "multiples": [w // channels for w in widths],
        "blocks": per - 1,
        "time": "additive" if rows == widths[0] else "scale_shift",
    }
    return shape, [n for n, k in enumerate(firsts) if f"input_blocks.{k}.1.qkv.weight" in inner]


def check_blocks(config: Settings) -> None:
    """Refuse options of guided diffusion's class that make other blocks; others say nothing."""
    config.fixed(dims=2, resblock_updown=True)
    config.ignored("conv_resample", "num_heads_upsample", "use_checkpoint", "use_fp16")


def head_channels(config: Settings) -> int:
    """Channels of a head of the U-Net, by default the published 64.

    A network may have a number of heads in their place, of which each level's has other channels.
    """
    heads = config.take("num_heads")
    if heads not in (None, -1, 1) and "num_head_channels" not in config:
        raise config.refusal("num_heads", heads)
    return int(config.get("num_head_channels", int, 64))


def check_levels(config: Settings, size: int, multiples: list[int], levels: list[int]) -> None:
    """Refuse a configuration of other widths or levels with attention than `unet_shape` found.

    ``attention_resolutions`` are sides of images of ``size`` as text, as a list what divides them;
    those that no level has mean nothing.
    """
    widths, sides = (config.take(name) for name in ("channel_mult", "attention_resolutions"))
    if widths not in (None, "") and _numbers(widths) != multiples:
        raise config.refusal("channel_mult", widths)
    place = {size >> k if isinstance(sides, str) else 1 << k: k for k in range(len(multiples))}
    if sides is not None and {place[n] for n in _numbers(sides) if n in place} != set(levels):
        raise config.refusal("attention_resolutions", sides)
    if not levels:
        raise UserError(
            f"{config.where}: attention_resolutions={sides}: has attention in the middle alone, "
            "which no network of unclip has; it is another kind of network"
        )


def _numbers(listed: Any) -> list[int]:
    """Of a list, or of text with commas; of anything else none."""
    parts = listed.split(",") if isinstance(listed, str) else listed
    if not isinstance(parts, list) or not all(str(n).strip().isdecimal() for n in parts):
        return []
    return [int(n) for n in parts]


def shape_of(state: State, name: str, where: str, ndim: int = 2) -> tuple[int, ...]:
    """The shape of a tensor with ``ndim`` dimensions, which must be there."""
    if name not in state or state[name].ndim != ndim:
        raise UserError(f"{where}: {name} is missing or misshapen; fetch the file again")
    return tuple(state[name].shape)
