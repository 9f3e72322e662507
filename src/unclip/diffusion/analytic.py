"""Analytic-DPM: the optimal variance of a reverse step, from the error of x̂_0.

Source: arXiv 2201.06503, theorem 1, in terms of x_0: for the step from level r to s,
σ*² = λ² + γ² M_r with M_r = E‖x_0 - x̂_0‖²/d, γ = √ᾱ_s - √((β̄_s - λ²) ᾱ_r / β̄_r) and β̄ = 1 - ᾱ.
It is optimal for the network's own distribution: guidance makes x̂_0 another, for which M is not
known.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unclip.common.types import Denoiser
from unclip.diffusion.config import DiffusionConfig, SamplerConfig
from unclip.diffusion.process import predict, q_sample
from unclip.diffusion.schedules import Schedule


def optimal_variance(
    error: Tensor, index: Tensor, *, schedule: Schedule, eta: float = 1.0
) -> Tensor:
    """σ*² ``[B]`` (float64) of the steps ``index`` ``[B]``.

    Args:
        error: M of every row of ``schedule`` ``[N]``, of samples as the network sees them.
        index: Rows.
        schedule: The sampled chain.
        eta: λ² = η² β̃: 1 is ancestral sampling, 0 DDIM.
    """
    lower = eta**2 * schedule.posterior_variance[index]
    rest = (1 - schedule.alpha_bar_prev[index] - lower).clamp(min=0)
    ratio = schedule.alpha_bar[index] / (1 - schedule.alpha_bar[index])
    gamma = schedule.alpha_bar_prev[index].sqrt() - (rest * ratio).sqrt()
    return lower + gamma**2 * error.to(lower)[index]


@torch.no_grad()
def x0_error(
    denoise: Denoiser,
    x0: Tensor,
    noise: Tensor,
    *,
    schedule: Schedule,
    diffusion: DiffusionConfig,
    sampler: SamplerConfig | None = None,
) -> Tensor:
    """Mean over batch and dimensions of (x_0 - x̂_0)² at every row of ``schedule``: ``[N]`` float64.

    The MSE itself, never by way of E‖ε̂‖², which explodes near t = T.

    Args:
        denoise: The network that samples (its averaged weights), without guidance.
        x0: Clean samples ``[B, C, ...]`` as the network knows them.
        noise: Standard normal, of the same shape; used at every level.
        schedule: The chain that will be sampled.
        diffusion: What the network predicts.
        sampler: How x̂_0 is clipped when it is sampled; None is not at all.
    """
    sampler = sampler or SamplerConfig()
    errors = []
    for row in range(len(schedule)):
        index = torch.full((len(x0),), row, device=x0.device)
        x_t = q_sample(x0, noise, index, schedule=schedule)
        output = denoise(x_t, schedule.timesteps[index])
        found = predict(
            output,
            x_t,
            index,
            schedule=schedule,
            config=diffusion,
            clip=sampler.clip,
            clip_range=sampler.clip_range,
        ).x0
        errors.append((found.double() - x0.double()).square().mean())
    return torch.stack(errors)
