"""The shape of a UNet2DModel or UNet2DConditionModel of ADM's blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unclip.weights.settings import BLOCKS, Settings

DOWN = {"ResnetDownsampleBlock2D": False, "SimpleCrossAttnDownBlock2D": True}
UP = {"ResnetUpsampleBlock2D": False, "SimpleCrossAttnUpBlock2D": True}
"""Kinds of blocks, and whether they have attention."""


def shape_of(s: Settings, down: Mapping[str, bool], up: Mapping[str, bool]) -> dict[str, Any]:
    """Channels, blocks and levels, and the levels with attention."""
    widths = s.get("block_out_channels", list)
    if not widths or any(w % widths[0] for w in widths) or not widths[0]:
        raise s.refusal("block_out_channels", widths)
    kinds = {n: s.take(n) for n in ("down_block_types", "up_block_types")}
    for name, known in (("down_block_types", down), ("up_block_types", up)):
        value = kinds[name]
        if not isinstance(value, list) or any(
            not isinstance(k, str) or k not in known for k in value
        ):
            raise s.refusal(name, value)
        if len(value) != len(widths):
            raise s.refusal(name, value)
    levels = [k for k, kind in enumerate(kinds["down_block_types"]) if down[kind]]
    if [up[k] for k in reversed(kinds["up_block_types"])] != [
        k in levels for k in range(len(widths))
    ]:
        raise s.refusal("up_block_types", kinds["up_block_types"])
    s.fixed(
        act_fn="silu",
        center_input_sample=False,
        downsample_padding=1,
        flip_sin_to_cos=True,
        freq_shift=0,
        mid_block_scale_factor=1,
        norm_eps=1e-5,
        time_embedding_type="positional",
    )
    return {
        "levels": levels,
        "channels": widths[0],
        "multiples": [w // widths[0] for w in widths],
        "blocks": s.get("layers_per_block", int, most=BLOCKS),
        "dropout": s.share("dropout", 0.0),
        "norm_groups": s.get("norm_num_groups", int, 32),
        "time": s.choice(
            "resnet_time_scale_shift",
            {"scale_shift": "scale_shift", "default": "additive"},
            "default",
        ),
    }
