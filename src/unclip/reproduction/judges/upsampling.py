"""Enlarges the decoder's rebuilt images of held-out scenes and compares them with the originals."""

from __future__ import annotations

import torch

from unclip.common.images import to_uint8
from unclip.evaluation.metrics.upsamplers import decibels
from unclip.evaluation.probes.prompts import held_out_scenes
from unclip.pipeline.inputs import squares
from unclip.reproduction.judges.judge import Inputs, Measured, images_of, sheet_of


def measure(inputs: Inputs) -> Measured:
    """``psnr`` of each scene, encoded by the decoder (DDIM), rebuilt, and enlarged.

    Options: ``settings``.
    """
    inputs.allow("settings")
    pipeline, settings = inputs.pipeline(), inputs.settings()
    scenes = held_out_scenes(inputs.n, inputs.seed, inputs.scenes_config())
    images = images_of(scenes)
    latents = pipeline.encode(images, settings=settings)
    found = pipeline.reconstruct(latents, seed=inputs.seed, settings=settings).image
    true = squares(images, found.shape[-1], inputs.device)
    with torch.no_grad():
        each = decibels((found.float() - true).square().flatten(1).mean(1)).tolist()
    shown = list(to_uint8(found))
    return Measured([{"psnr": v} for v in each], sheet_of(shown, [f"{v:.1f} dB" for v in each]))
