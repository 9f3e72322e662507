"""The U-Net of diffusers' unCLIP pipeline as ours: the same network under other names.

Both are the U-Net of guided diffusion (arXiv 2105.05233) with GLIDE's extra keys and values
(arXiv 2112.10741). diffusers keeps queries, keys and values apart, where ours are one layer each
for pixels and context; nothing else differs. This holds for ``UNet2DConditionModel`` of
``SimpleCrossAttn*Block2D`` and for ``UNet2DModel`` without attention, both of
``Resnet*sampleBlock2D`` with ``resnet_time_scale_shift="scale_shift"`` and ``norm_eps=1e-5``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

OUTSIDE = {
    "conv_in": "input",
    "time_embedding.linear_1": "time.hidden",
    "time_embedding.linear_2": "time.out",
    "conv_norm_out": "out_norm",
    "conv_out": "out",
}
INSIDE = {  # of a residual block or attention: our name, and which part of our layer it is
    "norm1": ("in_norm", 0),
    "conv1": ("in_conv", 0),
    "time_emb_proj": ("time", 0),
    "norm2": ("out_norm", 0),
    "conv2": ("out_conv", 0),
    "conv_shortcut": ("skip", 0),
    "group_norm": ("norm", 0),
    "to_q": ("qkv", 0),
    "to_k": ("qkv", 1),
    "to_v": ("qkv", 2),
    "add_k_proj": ("context_kv", 0),
    "add_v_proj": ("context_kv", 1),
    "to_out.0": ("out", 0),
}
NAME = re.compile(
    r"(?:(down|up)_blocks\.(\d+)|mid_block)"
    r"\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
)


def unet_from_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of diffusers' U-Net under the names of `unclip.nn.unet.UNet`.

    What is linear in the parameters, such as their gradients, may be given as well.

    Raises:
        ValueError: a name that our network has no place for.
    """
    per_level = 1 + len({n.split(".")[3] for n in state if n.startswith("down_blocks.0.resnets.")})
    parts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in state.items():
        path, kind = name.rsplit(".", 1)
        ours, part = (OUTSIDE[path], 0) if path in OUTSIDE else _placed(path, per_level)
        parts.setdefault(f"{ours}.{kind}", {})[part] = tensor
    return {
        name: torch.cat([found[k] for k in sorted(found)]) if len(found) > 1 else found[0]
        for name, found in parts.items()
    }


def _placed(path: str, per_level: int) -> tuple[str, int]:
    """Our name of a layer inside a block, and which part of ours it is.

    ``per_level`` of our layers make one of diffusers' blocks: going down, the last one halves the
    image; going up, the last one ends in the residual block that doubles it.
    """
    found = NAME.fullmatch(path)
    if found is None or found[5] not in INSIDE:
        raise ValueError(f"{path}: not a part of the U-Net of unCLIP")
    way, block, kind, index, inside = found.groups()
    layer = int(index)
    if kind in ("downsamplers", "upsamplers"):
        layer = per_level - 1
    if way is not None:
        layer += int(block) * per_level
    inner = {"attentions": "attention", "upsamplers": "up"}.get(kind, "block")
    name, part = INSIDE[inside]
    return f"{way or 'middle'}.{layer}.{inner}.{name}", part
