"""Draws captions with a cascade; the oracle reads the images."""

from __future__ import annotations

from typing import Any

import torch

from unclip.common.errors import UserError
from unclip.common.images import Array, to_uint8
from unclip.pipeline.sampling import Generated, Sampling
from unclip.reproduction.judges.judge import Inputs, Measured, sheet_of
from unclip.reproduction.judges.reading import described, note


def measure(inputs: Inputs) -> Measured:
    """One record per caption.

    Options: ``prompts`` (single | pairs | binding), ``images`` of each caption, ``given`` (prior |
    z_t in place of z_i | caption alone), ``settings`` of the samplers, ``one_z_i`` for all images
    of a caption (figure 9).
    """
    inputs.check("drawing")
    prompts, each = inputs.prompts(), int(inputs.options.get("images", 1))
    captions = [prompt.caption for prompt in prompts for _ in range(each)]
    images = drawn(inputs, captions, each)
    records: list[dict[str, Any]] = []
    for number, prompt in enumerate(prompts):
        own = images[number * each : (number + 1) * each]
        records.append(
            {
                "said": sorted(prompt.stated),
                "scene": described(prompt.scene),
                "images": [note(image, prompt) for image in own],
            }
        )
    notes = [image for record in records for image in record["images"]]
    labels = [f"{'right' if s['right'] else 'wrong'}: {c}" for s, c in zip(notes, captions)]
    return Measured(records, sheet_of(images, labels))


def drawn(inputs: Inputs, captions: list[str], each: int) -> list[Array]:
    """uint8 images ``[S, S, 3]`` of captions, ``each`` of one stand side by side.

    Options: ``given``, ``settings``, ``one_z_i`` (see `measure`).
    """
    first = 1000 * inputs.seed
    seeds = [first + k for k in range(len(captions))]
    one = bool(inputs.options.get("one_z_i", False))
    of_prior = [first + k // each * each for k in range(len(captions))] if one else seeds
    return list(to_uint8(_draw(inputs, captions, seeds, of_prior).image))


@torch.no_grad()
def _draw(inputs: Inputs, captions: list[str], seeds: list[int], of_prior: list[int]) -> Generated:
    given = inputs.options.get("given", "prior")
    cascade = inputs.cascade()
    sampling: Sampling = inputs.sampling(cascade)
    if cascade.decoder.takes != "image":
        return sampling.generate(captions, seeds)
    if given == "prior":
        z_i = sampling.draw(captions, of_prior)
    elif given == "z_t":
        z_i = cascade.embed_captions(captions)
    elif cascade.decoder.net.config.use_caption:
        z_i = None
    else:
        raise UserError("the decoder reads no captions, so it cannot be given a caption alone")
    return sampling.decode(z_i, seeds, captions=captions)
