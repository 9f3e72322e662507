"""DINOv2 with patches of 14 (arXiv 2304.07193) from its authors' weights, in a local file, by timm.

As in FD-DINOv2 (arXiv 2306.04675): 224 px, antialiased bicubic, the class token after the last
norm. The position embedding is interpolated as its authors' code does it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.common.errors import UserError
from unclip.evaluation.features.efficientnet import resized
from unclip.evaluation.features.network import (
    Encoded,
    FeatureNetwork,
    Weights,
    load_into,
    read_weights,
)

SIDE, PATCH = 224, 14  # pixels
ARCHITECTURES = {384: "small", 768: "base", 1024: "large", 1536: "giant"}
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, of 255
KEY = "--features dinov2"


def open_dinov2(weights: Weights) -> FeatureNetwork:
    """The network whose width the weights have.

    Raises:
        UserError: no file, timm is missing, or the weights are of another network.
    """
    file = weights.file
    if file is None:
        raise UserError(f"{KEY}: name the file of its weights: dinov2@FILE")
    try:
        import timm
        from timm.models.vision_transformer import checkpoint_filter_fn
    except ImportError:
        raise UserError(f"{KEY}: needs `pip install 'unclip[evaluation]'`") from None
    state, sha256 = read_weights(file, KEY)
    position = state.get("pos_embed", torch.empty(0))
    size = ARCHITECTURES.get(position.shape[-1]) if position.ndim == 3 else None
    if size is None or "register_tokens" in state or "cls_token" not in state:
        raise UserError(f"{KEY} {file}: not the weights of a DINOv2 without registers")
    state["pos_embed"] = _at_side(position)
    module: Any = timm.create_model(f"vit_{size}_patch14_dinov2", img_size=SIDE, pretrained=False)
    load_into(module, checkpoint_filter_fn(state, module), file)
    network = weights.ready(module)
    mean, std = (
        torch.tensor(v, device=weights.device, dtype=weights.dtype).view(1, 3, 1, 1)
        for v in (_MEAN, _STD)
    )

    def encode(image: Tensor) -> Encoded:
        return Encoded(network((resized(image.to(weights.dtype), SIDE) - mean) / std))

    return FeatureNetwork(
        name="dinov2",
        title=f"DINOv2-{size}",
        sha256=sha256,
        dim=position.shape[-1],
        classes=0,
        resize=f"antialiased bicubic to {SIDE}",
        precision=weights.precision,
        device=weights.device,
        encode=encode,
    )


def _at_side(position: Tensor) -> Tensor:
    """The position embedding ``[1, 1 + M², D]`` for 224 px; the authors' scale adds 0.1 patches."""
    first, grid = position[:, :1], position[:, 1:]
    m, after = round(grid.shape[1] ** 0.5), SIDE // PATCH
    if m**2 != grid.shape[1]:
        raise UserError(f"{KEY}: the position embedding is not that of a square")
    if m == after:
        return position
    grid = grid.reshape(1, m, m, -1).permute(0, 3, 1, 2)
    scale = (after + 0.1) / m
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([first, grid.flatten(2).transpose(1, 2)], 1)
