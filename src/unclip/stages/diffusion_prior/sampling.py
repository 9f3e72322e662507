"""Sampling image embeddings from the diffusion prior."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unclip.stages._prior.diffusion_sampling import sample_prior
from unclip.stages.diffusion_prior.config import DiffusionPriorExperiment
from unclip.stages.diffusion_prior.network import DiffusionPrior, some_text
from unclip.stages.interface import Given, Share, some_timesteps

__all__ = ["dry_sampling", "sample_prior"]


def dry_sampling(
    net: DiffusionPrior, experiment: DiffusionPriorExperiment, given: Given, share: Share
) -> Callable[[], Tensor]:
    """See `unclip.stages.row.Row`: the text is read once."""
    assert given.z_i is not None
    x_t, t = torch.zeros_like(given.z_i), some_timesteps(share.batch)
    text = net.condition(**some_text(experiment, given, share))
    return lambda: net.denoise(x_t, t, text)
