"""Draws captions of held-out images; a network compares the two, where no oracle can."""

from __future__ import annotations

from random import Random

import numpy as np
import torch
from torch import Tensor

from unclip.common import artifacts
from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.images import Array
from unclip.common.seeding import derive_seed
from unclip.data.sources import open_source
from unclip.evaluation.features.images import EvaluatedImage, of_source
from unclip.evaluation.features.network import FeatureNetwork, open_network
from unclip.evaluation.metrics.gaussians import vendi_of_few
from unclip.evaluation.metrics.kernels import kid_of_pairs
from unclip.reproduction.judges.drawing import drawn
from unclip.reproduction.judges.judge import Inputs, Measured, sheet_of
from unclip.stages.decoder.config import DecoderExperiment
from unclip.stages.row import DECODER

FEATURES = "efficientnet_lite0"
BATCH = 64


def measure(inputs: Inputs) -> Measured:
    """One record per caption: ``kid`` of its first image and the real one, ``vendi`` of all.

    Options: ``images`` of each caption; ``given``, ``settings``, ``one_z_i`` as of `drawing`.
    """
    inputs.allow("images", "given", "settings", "one_z_i")
    each = int(inputs.options.get("images", 1))
    network = open_network(FEATURES, device=torch.device(inputs.device))
    real = _held_out(inputs)
    captions = [str(image.caption) for image in real for _ in range(each)]
    images = drawn(inputs, captions, each)
    seen = _features(network, images)
    kid = kid_of_pairs(seen[::each], _features(network, [one.image for one in real])).tolist()
    records = [{"kid": k, "vendi": vendi_of_few(z)} for k, z in zip(kid, seen.split(each))]
    return Measured(records, sheet_of(images, captions))


def _held_out(inputs: Inputs) -> list[EvaluatedImage]:
    """Held-out images of the decoder's data with a caption each, as large as it draws."""
    path = inputs.parts[DECODER]
    decoder = artifacts.describe(path).stored(DecoderExperiment)
    data, size = decoder.data, decoder.model.image_size
    source = open_source(data.source, data, image_size=size, split="held_out")
    if len(source) < 3:
        raise UserError(f"{path}: its data has {counted(len(source), 'held-out image')}, not 3")
    rng = Random(derive_seed("photographs", inputs.seed))
    numbers = rng.sample(range(len(source)), min(inputs.n, len(source)))
    images = of_source(source, data.source, "data.source", size).only(numbers)
    found = [images(k) for k in range(len(images))]
    for image in found:
        if not image.caption:
            raise UserError(f"data.source {data.source}: {image.key} has no caption")
    return found


@torch.no_grad()
def _features(network: FeatureNetwork, images: list[Array]) -> Tensor:
    """``[B, D]`` of uint8 images ``[S, S, 3]``."""
    every = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    parts = [network.encode(some.to(network.device)).features.cpu() for some in every.split(BATCH)]
    return torch.cat(parts)
