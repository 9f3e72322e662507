"""Finds experiments and names stages: explicit tables, no import paths in YAML."""

from __future__ import annotations

from unclip.common.checks import nearest
from unclip.common.errors import UserError
from unclip.stages.row import StageEntry

STAGES = {
    entry.name: entry
    for entry in (
        StageEntry("clip", "clip", "contrastive image and text encoders"),
        StageEntry("pca", "pca", "components and buckets of image embeddings, for the AR prior"),
        StageEntry("ar_prior", "prior", "caption to image embedding, code by code"),
        StageEntry("diffusion_prior", "prior", "caption to image embedding, x0-predicting"),
        StageEntry("decoder", "decoder", "image embedding to picture"),
        StageEntry("upsampler", "upsampler", "small picture to large picture"),
    )
}


def stage(name: str, where: str) -> StageEntry:
    """The stage called ``name``; ``where`` names the file in the error."""
    if name not in STAGES:
        raise UserError(f"{where}: stage: unknown stage {name!r}{nearest(name, STAGES)}")
    return STAGES[name]
