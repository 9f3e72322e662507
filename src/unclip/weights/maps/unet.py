"""Names of the ADM U-Net in the layouts of its two families, for any shape of ours.

`original` is guided diffusion's (arXiv 2105.05233), which GLIDE and Karlo kept; `diffusers` that of
`UNet2DConditionModel` with ``SimpleCrossAttn*Block2D`` and of `UNet2DModel` without attention, both
of ``Resnet*sampleBlock2D``.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from unclip.nn.resblock import AttentionBlock
from unclip.nn.unet import Layer, UNet
from unclip.weights.maps.rules import CONVOLUTION, Rule, by_head, concatenate

Placed = list[tuple[str, str, nn.Module]]
"""Their prefix, our prefix and our module."""

BLOCK = {  # of a residual block: original, diffusers and our name
    ("in_layers.0", "norm1"): "in_norm",
    ("in_layers.2", "conv1"): "in_conv",
    ("emb_layers.1", "time_emb_proj"): "time",
    ("out_layers.0", "norm2"): "out_norm",
    ("out_layers.3", "conv2"): "out_conv",
    ("skip_connection", "conv_shortcut"): "skip",
}


def original(unet: UNet) -> list[Rule]:
    """Rules of guided diffusion's layout for ``unet``, which may be on "meta"."""
    rules = [
        Rule("time_embed.0.{w}", "time.hidden.{w}"),
        Rule("time_embed.2.{w}", "time.out.{w}"),
        Rule("input_blocks.0.0.{w}", "input.{w}"),
        Rule("out.0.{w}", "out_norm.{w}"),
        Rule("out.2.{w}", "out.{w}"),
    ]
    placed: Placed = []
    for index, (ours, layer) in enumerate(_layers(unet, "down"), start=1):
        placed += _numbered(f"input_blocks.{index}", _modules(ours, layer))
    middle = [part for ours, layer in _layers(unet, "middle") for part in _modules(ours, layer)]
    placed += _numbered("middle_block", middle)
    for index, (ours, layer) in enumerate(_layers(unet, "up")):
        placed += _numbered(f"output_blocks.{index}", _modules(ours, layer))
    for theirs, ours, module in placed:
        if isinstance(module, AttentionBlock):
            rules += _original_attention(theirs, ours, module)
        else:
            rules += [
                Rule(f"{theirs}.{name}.{{w}}", f"{ours}.{our}.{{w}}")
                for (name, _), our in BLOCK.items()
            ]
    return rules


def diffusers(unet: UNet) -> list[Rule]:
    """Rules of diffusers' layout for ``unet``, which may be on "meta"."""
    rules = [
        Rule("time_embedding.linear_1.{w}", "time.hidden.{w}"),
        Rule("time_embedding.linear_2.{w}", "time.out.{w}"),
        Rule("conv_in.{w}", "input.{w}"),
        Rule("conv_norm_out.{w}", "out_norm.{w}"),
        Rule("conv_out.{w}", "out.{w}"),
    ]
    levels = unet.side_factor.bit_length()
    per_level = len(unet.up) // levels  # our layers of one of their blocks
    placed: Placed = []
    for index, (ours, layer) in enumerate(_layers(unet, "down")):
        level, position = divmod(index, per_level)
        halves = position == per_level - 1
        block = "downsamplers.0" if halves else f"resnets.{position}"
        names = {"block": block, "attention": f"attentions.{position}"}
        placed += _named(f"down_blocks.{level}", names, _modules(ours, layer))
    for index, (ours, layer) in enumerate(_layers(unet, "middle")):
        names = {"block": f"resnets.{index}", "attention": f"attentions.{index}"}
        placed += _named("mid_block", names, _modules(ours, layer))
    for index, (ours, layer) in enumerate(_layers(unet, "up")):
        level, position = divmod(index, per_level)
        names = {
            "block": f"resnets.{position}",
            "attention": f"attentions.{position}",
            "up": "upsamplers.0",
        }
        placed += _named(f"up_blocks.{level}", names, _modules(ours, layer))
    for theirs, ours, module in placed:
        if isinstance(module, AttentionBlock):
            rules += _diffusers_attention(theirs, ours)
        else:
            rules += [
                Rule(f"{theirs}.{name}.{{w}}", f"{ours}.{our}.{{w}}")
                for (_, name), our in BLOCK.items()
            ]
    return rules


def _layers(unet: UNet, way: str) -> Iterable[tuple[str, Layer]]:
    """Our prefix of each layer of ``way``, and the layer."""
    for index, layer in enumerate(getattr(unet, way)):
        yield f"{way}.{index}", layer


def _modules(ours: str, layer: Layer) -> list[tuple[str, nn.Module]]:
    """Block, attention and way up of a layer, those that it has."""
    parts = (("block", layer.block), ("attention", layer.attention), ("up", layer.up))
    return [(f"{ours}.{name}", module) for name, module in parts if module is not None]


def _numbered(theirs: str, parts: list[tuple[str, nn.Module]]) -> Placed:
    return [(f"{theirs}.{k}", ours, module) for k, (ours, module) in enumerate(parts)]


def _named(theirs: str, names: dict[str, str], parts: list[tuple[str, nn.Module]]) -> Placed:
    return [(f"{theirs}.{names[ours.split('.')[-1]]}", ours, module) for ours, module in parts]


def _original_attention(theirs: str, ours: str, module: AttentionBlock) -> list[Rule]:
    channels = module.qkv.in_features // module.heads
    qkv, kv = (by_head(parts, head_channels=channels, convolution=True) for parts in (3, 2))
    return [
        Rule(f"{theirs}.norm.{{w}}", f"{ours}.norm.{{w}}"),
        Rule(f"{theirs}.qkv.{{w}}", f"{ours}.qkv.{{w}}", qkv),
        Rule(f"{theirs}.encoder_kv.{{w}}", f"{ours}.context_kv.{{w}}", kv),
        Rule(f"{theirs}.proj_out.{{w}}", f"{ours}.out.{{w}}", CONVOLUTION),
    ]


def _diffusers_attention(theirs: str, ours: str) -> list[Rule]:
    qkv = tuple(f"{theirs}.to_{part}.{{w}}" for part in "qkv")
    kv = tuple(f"{theirs}.add_{part}_proj.{{w}}" for part in "kv")
    return [
        Rule(f"{theirs}.group_norm.{{w}}", f"{ours}.norm.{{w}}"),
        Rule(qkv, f"{ours}.qkv.{{w}}", concatenate(3)),
        Rule(kv, f"{ours}.context_kv.{{w}}", concatenate(2)),
        Rule(f"{theirs}.to_out.0.{{w}}", f"{ours}.out.{{w}}"),
    ]
