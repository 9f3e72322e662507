"""Draws captions of held-out images; a network compares the two, where no oracle can."""

from __future__ import annotations

from random import Random

import numpy as np
import torch
from torch import Tensor

from unclip.common import artifacts
from unclip.common.images import Array
from unclip.common.seeding import derive_seed
from unclip.evaluation.features.images import EvaluatedImage
from unclip.evaluation.features.network import FeatureNetwork, open_network
from unclip.evaluation.metrics.gaussians import vendi_of_few
from unclip.evaluation.metrics.kernels import kid_of_pairs
from unclip.reproduction.held_out import FEATURES, held_out
from unclip.reproduction.judges.drawing import drawn
from unclip.reproduction.judges.judge import Inputs, Measured, sheet_of
from unclip.stages.decoder.config import DecoderExperiment
from unclip.stages.row import DECODER

BATCH = 64
LEAST = 3
"""Pairs of which there is a KID."""


def measure(inputs: Inputs) -> Measured:
    """One record per held-out image: ``kid`` of the first drawn and the real one, ``vendi`` of all.

    Options: ``images`` of each caption; ``given``, ``settings``, ``one_z_i`` as of `drawing`.
    """
    inputs.check("photographs")
    each = int(inputs.options.get("images", 1))
    network = open_network(FEATURES, device=torch.device(inputs.device))
    real = _held_out(inputs)
    captions = [str(image.caption) for image in real for _ in range(each)]
    images = drawn(inputs, captions, each)
    seen = _features(network, images)
    kid = kid_of_pairs(seen[::each], _features(network, [one.image for one in real])).tolist()
    records = [
        {"caption": caption, "kid": k, "vendi": vendi_of_few(z)}
        for caption, k, z in zip(captions[::each], kid, seen.split(each))
    ]
    return Measured(records, sheet_of(images, captions))


def _held_out(inputs: Inputs) -> list[EvaluatedImage]:
    """Some of the held-out images of the decoder's data."""
    images = held_out(artifacts.describe(inputs.part(DECODER)).stored(DecoderExperiment), LEAST)
    rng = Random(derive_seed("photographs", inputs.seed))
    numbers = rng.sample(range(len(images)), min(inputs.n, len(images)))
    return [images(number) for number in numbers]


@torch.no_grad()
def _features(network: FeatureNetwork, images: list[Array]) -> Tensor:
    """``[B, D]`` of uint8 images ``[S, S, 3]``."""
    every = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    parts = [network.encode(some.to(network.device)).features.cpu() for some in every.split(BATCH)]
    return torch.cat(parts)
