"""A CLIP of our own shape, built as an open_clip model (arXiv 2103.00020)."""

from __future__ import annotations

from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from unclip.common.errors import UserError
from unclip.embeddings.clip import Clip
from unclip.embeddings.tokens import VOCABULARY
from unclip.stages.clip.config import ClipConfig, ClipExperiment
from unclip.stages.experiment import ParentSizes
from unclip.stages.interface import Given, Needs, Share, some_tokens


def build_clip(config: ClipConfig) -> Clip:
    """A freshly initialised CLIP."""
    resnet = config.vision == "resnet"
    vision = {
        "image_size": config.image_size,
        "patch_size": None if resnet else config.patch_size,
        "width": config.vision_width,
        "layers": tuple(config.vision_stages) if resnet else config.vision_layers,
        "head_width": config.vision_head_width,
        "mlp_ratio": _ratio(config),
    }
    text = {
        "context_length": config.context,
        "vocab_size": VOCABULARY,
        "width": config.text_width,
        "layers": config.text_layers,
        "heads": config.text_heads,
    }
    model: nn.Module = open_clip.CLIP(
        config.embed_dim,
        vision_cfg=vision,  # type: ignore[arg-type]
        text_cfg=text,  # type: ignore[arg-type]
        quick_gelu=config.quick_gelu,
        nonscalar_logit_scale=True,  # FSDP2 shards no scalars
    )
    if config.vision == "none":
        model.visual = NoImages(config.image_size)
    model.register_load_state_dict_pre_hook(_vector_scale)
    return Clip(model, context=config.context, embeddings=config.embeddings)


class NoImages(nn.Module):
    """In the place of the image encoder of a CLIP that was imported without one."""

    def __init__(self, image_size: int):
        super().__init__()
        self.image_size = image_size

    def forward(self, image: Tensor) -> Tensor:
        """Refuse."""
        raise UserError(
            "clip: was imported without its image encoder, so it cannot embed images; import again "
            "with --clip SOURCE, which has both"
        )


def _ratio(config: ClipConfig) -> float:
    """Of the MLPs' width to the transformer's, which open_clip multiplies and rounds down."""
    if config.vision_mlp is None:
        return 4.0
    return (config.vision_mlp + 0.5) / config.vision_width


def _vector_scale(model: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """In files the temperature is a scalar, as open_clip's own weights have it."""
    name = f"{prefix}logit_scale"
    if name in state:
        state[name] = state[name].reshape(1)


def build_network(experiment: ClipExperiment, sizes: ParentSizes) -> Clip:
    """See `unclip.stages.row.Row`."""
    return build_clip(experiment.model)


def needs(experiment: ClipExperiment) -> Needs:
    """Nothing: it has no parent."""
    return Needs()


def dry_step(net: Clip, experiment: ClipExperiment, given: Given, share: Share) -> Tensor:
    """Each process compares its rows with those of all (`unclip.stages.clip.stage`)."""
    model = experiment.model
    images = torch.zeros(share.batch, 3, model.image_size, model.image_size)
    z_i, z_t = net(images, some_tokens(share.batch, model.context))[:2]
    by_image, by_text = z_i @ z_t.repeat(share.world, 1).T, z_t @ z_i.repeat(share.world, 1).T
    return torch.cat([by_image, by_text])
