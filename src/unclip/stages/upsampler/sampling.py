"""Sampling large images from an upsampler."""

from __future__ import annotations

import torch
from torch import Tensor

from unclip.common.errors import UserError
from unclip.common.seeding import SampleNoise
from unclip.common.types import Progress
from unclip.diffusion.config import DiffusionConfig
from unclip.diffusion.process import q_sample
from unclip.diffusion.samplers import sample
from unclip.diffusion.schedules import full_schedule, sampling_schedule
from unclip.stages.upsampler.config import UpsamplerSamplerConfig
from unclip.stages.upsampler.network import Upsampler


@torch.no_grad()
def upsample(
    net: Upsampler,
    low: Tensor,
    *,
    size: int,
    diffusion: DiffusionConfig,
    sampler: UpsamplerSamplerConfig,
    noise: SampleNoise,
    progress: Progress | None = None,
) -> Tensor:
    """Images ``[B, 3, size, size]`` in [-1, 1] from ``low`` ``[B, 3, s, s]``; no guidance.

    Raises:
        UserError: ``sampler.noise_level`` is none of the network's levels.
    """
    start = noise((len(low), 3, size, size), low.device)
    level = None
    if sampler.noise_level >= max(1, net.config.noise_levels):
        raise UserError(
            f"sampler.noise_level={sampler.noise_level}: the network knows levels below "
            f"{net.config.noise_levels} (model.noise_levels)"
        )
    if net.config.noise_levels:
        level = torch.full((len(low),), sampler.noise_level, device=low.device)
        schedule = full_schedule(diffusion).to(low.device)
        low = q_sample(low, noise(low.shape, low.device), level, schedule=schedule)

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        return net(x_t, t, low, level)

    return sample(
        model,
        start,
        schedule=sampling_schedule(diffusion, sampler.steps),
        diffusion=diffusion,
        sampler=sampler,
        noise=noise,
        progress=progress,
    ).clamp(-1, 1)
