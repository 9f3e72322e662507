"""Draws z_i of held-out captions from a prior and compares it with z_i of their scenes."""

from __future__ import annotations

import torch

from unclip.embeddings.lengths import directions
from unclip.pipeline.cascade import load_part
from unclip.pipeline.inputs import squares
from unclip.pipeline.sampling import noise_of
from unclip.pipeline.settings import Settings
from unclip.reproduction.judges.judge import Inputs, Measured, images_of
from unclip.stages.clip.part import load as load_clip
from unclip.stages.row import CLIP, PRIOR

BATCH = 64


@torch.no_grad()
def measure(inputs: Inputs) -> Measured:
    """``cosine`` to the true z_i and ``dot``, the cosine to z_t, of each caption.

    Options: ``prompts``, ``settings`` of the prior.
    """
    inputs.check("embeddings")
    clip = load_clip(inputs.part(CLIP))
    part = load_part(PRIOR, inputs.part(PRIOR), clip)
    model = clip.model.to(inputs.device)
    part.net.to(inputs.device)
    sampler = Settings(changes=dict(inputs.options.get("settings", {}))).apply(PRIOR, part)
    prompts, records = inputs.prompts(), []
    for first in range(0, len(prompts), BATCH):
        some = prompts[first : first + BATCH]
        captions = [prompt.caption for prompt in some]
        noise = noise_of([1000 * inputs.seed + first + k for k in range(len(some))], "prior")
        drawn = part.draw(model, captions, noise, sampler=sampler)
        images = squares(images_of([p.scene for p in some]), model.image_size, inputs.device)
        true = model.encode_image(images)
        z_t = model.encode_text(model.tokenize(captions).to(inputs.device)).z_t
        found, true, text = (directions(z, model.embeddings) for z in (drawn, true, z_t))
        cosines, dots = (found * true).sum(-1), (found * text).sum(-1)
        records += [{"cosine": float(c), "dot": float(d)} for c, d in zip(cosines, dots)]
    return Measured(records)
