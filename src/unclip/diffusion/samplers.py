"""From noise to a sample and back. Samplers see a network only as a `Denoiser`.

Guidance is the denoiser's own affair: it returns the output that is to be believed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unclip.diffusion.configs import DiffusionConfig, SamplerConfig
from unclip.diffusion.process import (
    Prediction,
    at_least_float32,
    expand,
    posterior,
    predict,
    renoise,
    x0_from_eps,
)
from unclip.diffusion.schedules import Schedule
from unclip.types import Denoiser, Progress

Noise = Callable[[Sequence[int], torch.device], Tensor]
"""Standard normal noise of a shape on a device, such as `unclip.seeding.SampleNoise`."""


class Step(NamedTuple):
    """The distribution of the next, less noisy sample: N(mean, sigma²)."""

    mean: Tensor  # [B, C, ...]
    sigma: Tensor  # broadcasts to mean


@torch.no_grad()
def sample(
    denoise: Denoiser,
    x_T: Tensor,
    *,
    schedule: Schedule,
    diffusion: DiffusionConfig,
    sampler: SamplerConfig,
    noise: Noise,
    progress: Progress | None = None,
) -> Tensor:
    """Draw x_0 ``[B, C, ...]`` from ``x_T`` along ``schedule`` (see `sampling_schedule`).

    ``noise`` is called once a step, except at the last one and where nothing is random (ddim with
    eta 0). Of ``sampler``, its steps and guidance are not read: they are in ``schedule`` and
    ``denoise``.
    """
    schedule = schedule.to(x_T.device)
    random = sampler.sampler == "ddpm" or sampler.eta > 0
    x = at_least_float32(x_T)
    for row in reversed(range(len(schedule))):
        index = torch.full((len(x),), row, device=x.device)
        output = denoise(x, schedule.timesteps[index])
        prediction = predict(
            output, x, index, schedule=schedule, config=diffusion, clip=sampler.clip
        )
        if sampler.sampler == "ddpm":
            step = ancestral_step(prediction, x, index, schedule=schedule)
        else:
            step = ddim_step(prediction, index, schedule=schedule, eta=sampler.eta)
        x = step.mean
        if random and row > 0:
            x = x + step.sigma * noise(x.shape, x.device).to(x)
        if progress is not None:
            progress(len(schedule) - row, len(schedule))
    return x


def ancestral_step(
    prediction: Prediction, x_t: Tensor, index: Tensor, *, schedule: Schedule
) -> Step:
    """The posterior given x̂_0, with the model's variance, DDPM (arXiv 2006.11239) algorithm 2."""
    mean = posterior(prediction.x0, x_t, index, schedule=schedule).mean
    return Step(mean, torch.exp(0.5 * prediction.log_variance))


def ddim_step(prediction: Prediction, index: Tensor, *, schedule: Schedule, eta: float) -> Step:
    """DDIM (arXiv 2010.02502), eq. 12 and 16: from level r to s with σ of the part η.

    σ = η √((1-ᾱ_s)/(1-ᾱ_r)) √(1-ᾱ_r/ᾱ_s) = η √β̃.
    """
    alpha_bar_prev = schedule.alpha_bar_prev[index]
    variance = eta**2 * schedule.posterior_variance[index]
    of_eps = (1 - alpha_bar_prev - variance).clamp(min=0).sqrt()
    x0, eps = prediction.x0, prediction.eps
    mean = expand(alpha_bar_prev.sqrt(), x0) * x0 + expand(of_eps, eps) * eps
    return Step(mean, expand(variance.sqrt(), x0))


@torch.no_grad()
def invert(
    denoise: Denoiser,
    x0: Tensor,
    *,
    schedule: Schedule,
    diffusion: DiffusionConfig,
    convention: str = "guided_diffusion",
    progress: Progress | None = None,
) -> Tensor:
    """The x_T ``[B, C, ...]`` from which DDIM with eta 0 (about) reconstructs ``x0``. Never clips.

    ``guided_diffusion`` (arXiv 2105.05233, appendix F, which unCLIP cites): x stands at level k,
    the clean image at level 0; ε̂ at its own t takes it to level k + 1, in the end to ᾱ = 0.
    ``inverse_scheduler``: x stands at level k - 1, the clean image at ᾱ = 1, and ε̂ at the
    target's t takes it to level k; about twice as accurate. Raises ValueError for another one.
    """
    schedule = schedule.to(x0.device)
    alpha_bar = schedule.alpha_bar
    if convention == "guided_diffusion":
        here, there = alpha_bar, torch.cat([alpha_bar[1:], alpha_bar.new_zeros(1)])
    elif convention == "inverse_scheduler":
        here, there = schedule.alpha_bar_prev, alpha_bar
    else:
        raise ValueError(f"convention {convention!r}: guided_diffusion or inverse_scheduler")
    x = at_least_float32(x0)
    for row in range(len(schedule)):
        index = torch.full((len(x),), row, device=x.device)
        output = denoise(x, schedule.timesteps[index])
        eps = predict(output, x, index, schedule=schedule, config=diffusion).eps
        x = renoise(x0_from_eps(x, eps, here[index]), eps, there[index])
        if progress is not None:
            progress(row + 1, len(schedule))
    return x
