"""The held-out images that a decoder's data has for judges of photographs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.data.sources import open_source
from unclip.evaluation.features.images import ImageSet, of_source
from unclip.evaluation.features.network import open_network
from unclip.reproduction.judges.table import PHOTOGRAPHS
from unclip.reproduction.preset import Claim, Preset
from unclip.reproduction.results import LEAST
from unclip.stages.decoder.config import DecoderExperiment
from unclip.stages.row import DECODER

FEATURES = "efficientnet_lite0"
OPTION = "data.source"


def held_out(decoder: DecoderExperiment, least: int) -> ImageSet:
    """Every one, as large as the decoder draws; all have a caption.

    Raises:
        UserError: the source cannot be read, fewer than ``least`` are held out, or one has none.
    """
    data, size = decoder.data, decoder.model.image_size
    source = open_source(data.source, data, image_size=size, split="held_out")
    if len(source) < least:
        raise UserError(
            f"{OPTION} {data.source}: {counted(len(source), 'image')} held out; the claims need "
            f"{least}, so give more images, or data.held_out above {data.held_out:g}"
        )
    images = of_source(source, data.source, OPTION, size)
    for number in range(len(images)):
        if not images.caption(number):
            raise UserError(f"{OPTION} {data.source}: {source.key(number)} has no caption")
    return images


def of_what_is_held_out(
    claims: Mapping[str, Claim], preset: Preset, decoder: Callable[[str], DecoderExperiment]
) -> dict[str, Claim]:
    """The claims, those on photographs with at most as many captions as images are held out.

    Args:
        claims: What will be tested.
        preset: Whose trainings they name.
        decoder: The experiment of a training.

    Raises:
        UserError: there are too few, or the network that compares them is not there.
    """
    counts: dict[str, int] = {}
    found = dict(claims)
    for key, claim in claims.items():
        if claim.judge != PHOTOGRAPHS:
            continue
        parts = {part for part in claim.parts if preset.trainings[part].kind == DECODER}
        for part in sorted(parts - counts.keys()):
            open_network(FEATURES, device=torch.device("cpu"))
            counts[part] = len(held_out(decoder(part), LEAST))
        found[key] = replace(claim, n=min([claim.n, *(counts[part] for part in parts)]))
    return found
