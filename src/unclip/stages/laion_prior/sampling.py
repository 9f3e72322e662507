"""Sampling image embeddings from LAION's diffusion prior."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from unclip.stages._prior.diffusion_sampling import sample_prior
from unclip.stages.interface import Given, Share
from unclip.stages.laion_prior.config import LaionPriorExperiment
from unclip.stages.laion_prior.network import LaionPrior, dry_step

__all__ = ["dry_sampling", "sample_prior"]


def dry_sampling(
    net: LaionPrior, experiment: LaionPriorExperiment, given: Given, share: Share
) -> Callable[[], Tensor]:
    """See `unclip.stages.row.Row`: every step reads the text again."""
    return partial(dry_step, net, experiment, given, share)
