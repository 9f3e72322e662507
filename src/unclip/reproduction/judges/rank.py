"""z_i of held-out scenes, of which the rank is taken."""

from __future__ import annotations

import torch

from unclip.embeddings.lengths import directions
from unclip.evaluation.probes.prompts import held_out_scenes
from unclip.pipeline.inputs import squares
from unclip.reproduction.judges.judge import Inputs, Measured, images_of
from unclip.stages.clip.part import load as load_clip
from unclip.stages.row import CLIP

BATCH = 256


@torch.no_grad()
def measure(inputs: Inputs) -> Measured:
    """``z_i`` of each scene, of length 1, in five digits."""
    inputs.check("rank")
    model = load_clip(inputs.part(CLIP)).model.to(inputs.device)
    scenes = held_out_scenes(inputs.n, inputs.seed, inputs.scenes_config())
    records = []
    for first in range(0, len(scenes), BATCH):
        images = images_of(scenes[first : first + BATCH])
        z_i = model.encode_image(squares(images, model.image_size, inputs.device))
        unit = directions(z_i, model.embeddings).cpu()
        records += [{"z_i": [round(v, 5) for v in row]} for row in unit.tolist()]
    return Measured(records)
