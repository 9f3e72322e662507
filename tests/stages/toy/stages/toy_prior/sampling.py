"""Sampling from the linear map."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.common.seeding import SampleNoise
from unclip.stages.toy_prior.config import ToySamplerConfig
from unclip.stages.toy_prior.network import ToyPrior, dry_step


@torch.no_grad()
def sample_toy(net: ToyPrior, z_t: Tensor, sampler: ToySamplerConfig, noise: SampleNoise) -> Tensor:
    """z_i ``[B, D]``, unit norm."""
    return F.normalize(net(z_t) + sampler.noise * noise(z_t.shape, z_t.device), dim=-1)


def dry_sampling(net, experiment, given, share):
    """The whole map is one step."""
    return partial(dry_step, net, experiment, given, share)
