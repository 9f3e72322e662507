"""What CLIP takes an image for, with another shape's name on it or without (figure 6)."""

from __future__ import annotations

import torch

from unclip.common.errors import UserError
from unclip.embeddings.lengths import directions
from unclip.evaluation.probes.prompts import attack, held_out_scenes
from unclip.pipeline.inputs import squares
from unclip.pipeline.typographic import paste
from unclip.reproduction.judges.judge import Inputs, Measured, images_of, sheet_of
from unclip.stages.clip.part import load as load_clip
from unclip.stages.row import CLIP


@torch.no_grad()
def measure(inputs: Inputs) -> Measured:
    """CLIP's probability of the true ``label``, among itself and two other shapes.

    Options: ``word`` (true | false).
    """
    inputs.check("words")
    config = inputs.scenes_config()
    if config.words == 0:
        raise UserError("the arm has never seen a printed word (data.scenes.words=0)")
    model = load_clip(inputs.part(CLIP)).model.to(inputs.device)
    records, images = [], []
    for scene in held_out_scenes(inputs.n, inputs.seed, config):
        moved, others, labels = attack(scene, config.shapes)
        (image,) = images_of([moved])
        if inputs.options.get("word", True):
            image = paste(image, others[0])
        z_i = model.encode_image(squares([image], model.image_size, inputs.device))
        z_t = model.encode_text(model.tokenize(labels).to(inputs.device)).z_t
        z_i, z_t = (directions(z, model.embeddings) for z in (z_i, z_t))
        records.append({"label": float((model.scale() * z_i @ z_t.T).softmax(-1)[0, 0])})
        images.append(image)
    return Measured(records, sheet_of(images, [f"{r['label']:.0%}" for r in records]))
