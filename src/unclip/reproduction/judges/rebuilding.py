"""Rebuilds held-out scenes from (z_i, x_T), enlarges them, and compares them with the originals."""

from __future__ import annotations

import torch

from unclip.common.images import to_uint8
from unclip.evaluation.metrics.upsamplers import decibels
from unclip.evaluation.probes.prompts import held_out_scenes
from unclip.pipeline.inputs import squares
from unclip.pipeline.manipulations import Latents
from unclip.pipeline.sampling import noise_of
from unclip.reproduction.judges.judge import Inputs, Measured, images_of, sheet_of


def measure(inputs: Inputs) -> Measured:
    """``psnr`` of each scene, rebuilt by DDIM from its z_i and x_T.

    Options: ``x_T`` (inverted: from the scene by DDIM backwards | new), ``settings``.
    """
    inputs.check("rebuilding")
    x_T = inputs.options.get("x_T", "inverted")
    pipeline, settings = inputs.pipeline(), inputs.settings()
    scenes = held_out_scenes(inputs.n, inputs.seed, inputs.scenes_config())
    images = images_of(scenes)
    latents = pipeline.encode(images, settings=settings)
    if x_T == "new":
        noise = noise_of([1000 * inputs.seed + k for k in range(inputs.n)], "decoder")
        latents = Latents(latents.z_i, noise(latents.x_T.shape, latents.x_T.device))
    found = pipeline.reconstruct(latents, seed=inputs.seed, settings=settings).image
    true = squares(images, found.shape[-1], inputs.device)
    with torch.no_grad():
        each = decibels((found.float() - true).square().flatten(1).mean(1)).tolist()
    shown = list(to_uint8(found))
    return Measured([{"psnr": v} for v in each], sheet_of(shown, [f"{v:.1f} dB" for v in each]))
