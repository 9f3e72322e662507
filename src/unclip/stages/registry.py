"""The table of stages: the one place that names them all."""

from __future__ import annotations

from unclip.common.checks import nearest
from unclip.common.errors import UserError
from unclip.stages.row import CLIP, DECODER, PCA, PRIOR, UPSAMPLER, Row

STAGES = {
    row.name: row
    for row in (
        Row(
            name="clip",
            kind=CLIP,
            about="contrastive image and text encoders",
            use="Gives images and captions a shared space, for the other stages of unCLIP.",
        ),
        Row(
            name="pca",
            kind=PCA,
            about="components and buckets of image embeddings, for the AR prior",
            use="Turns image embeddings of its CLIP into codes, for an autoregressive prior.",
            parents=(CLIP,),
            verb="fit-pca",
        ),
        Row(
            name="ar_prior",
            kind=PRIOR,
            about="caption to image embedding, code by code",
            use="Samples image embeddings of its CLIP from captions, for an unCLIP decoder.",
            parents=(CLIP, PCA),
        ),
        Row(
            name="diffusion_prior",
            kind=PRIOR,
            about="caption to image embedding, x0-predicting",
            use="Samples image embeddings of its CLIP from captions, for an unCLIP decoder.",
            parents=(CLIP,),
        ),
        Row(
            name="laion_prior",
            kind=PRIOR,
            about="caption to image embedding, by the network of LAION's weights",
            use="Samples image embeddings of its CLIP from captions, for an unCLIP decoder.",
            parents=(CLIP,),
        ),
        Row(
            name="decoder",
            kind=DECODER,
            about="image embedding to image",
            use="Samples small images from image embeddings of its CLIP and captions.",
            parents=(CLIP,),
        ),
        Row(
            name="upsampler",
            kind=UPSAMPLER,
            about="small image to large image",
            use="Enlarges images of the kind that it was trained on.",
        ),
    )
}


def stage(name: str, where: str) -> Row:
    """The stage called ``name``; ``where`` names the file in the error."""
    if name not in STAGES:
        raise UserError(f"{where}: stage: unknown stage {name!r}{nearest(name, STAGES)}")
    return STAGES[name]


def of_kind(kind: str) -> tuple[str, ...]:
    """The names of the stages of a kind."""
    return tuple(row.name for row in STAGES.values() if row.kind == kind)
