"""From noise to a sample: one function per sampler, each with its whole loop.

All start from standard normal noise x_T ``[B, C, ...]`` on the device of the predictor's schedule
and return x_0 of the same shape, in float32 or better. A row of the schedule is a noise level; a
step goes from level r, the row, to level s, the row before it (after row 0: the clean sample).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from unclip.common.types import Progress
from unclip.diffusion.analytic import optimal_variance
from unclip.diffusion.config import SamplerConfig
from unclip.diffusion.predictor import Predictor, with_progress
from unclip.diffusion.process import (
    Prediction,
    at_least_float32,
    eps_from_x0,
    expand,
    posterior,
    renoise,
    v_from_x0,
)
from unclip.diffusion.schedules import Schedule

Noise = Callable[[Sequence[int], torch.device], Tensor]
"""Standard normal noise of a shape on a device, such as `unclip.common.seeding.SampleNoise`."""

ANALYTIC = ("analytic", "analytic_ddim")
"""Samplers that need ``x0_errors``."""


def sample(
    predictor: Predictor,
    x_T: Tensor,
    sampler: SamplerConfig,
    *,
    noise: Noise,
    x0_errors: Tensor | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Sample x_0 ``[B, C, ...]`` from ``x_T`` with the sampler that ``sampler`` names.

    Args:
        predictor: From `build_predictor`, which has already read ``sampler.steps`` and ``clip``.
        x_T: Standard normal noise ``[B, C, ...]``.
        sampler: Only its name and eta are read here.
        noise: Called once per step except the last; never by a sampler that is not `is_random`.
        x0_errors: Required by the `ANALYTIC` samplers: M of each row ``[N]``, see `x0_error`.
        progress: Called after each step.

    Raises:
        ValueError: an analytic sampler without one x0 error for each step.
    """
    samplers: dict[str, Callable[..., Tensor]] = {
        "ddpm": partial(ddpm, noise=noise),
        "ddim": partial(ddim, eta=sampler.eta, noise=noise),
        "analytic": partial(analytic, x0_errors=x0_errors, eta=1.0, noise=noise),
        "analytic_ddim": partial(analytic, x0_errors=x0_errors, eta=sampler.eta, noise=noise),
        "dpmpp_2m": dpmpp_2m,
        "heun": heun,
        "ab2": ab2,
    }
    return samplers[sampler.sampler](predictor, x_T, progress=progress)


def is_random(sampler: SamplerConfig) -> bool:
    """Whether the sampler adds noise after x_T."""
    return sampler.sampler in ("ddpm", *ANALYTIC) or (sampler.sampler == "ddim" and sampler.eta > 0)


@torch.no_grad()
def ddpm(
    predictor: Predictor, x_T: Tensor, *, noise: Noise, progress: Progress | None = None
) -> Tensor:
    """Ancestral sampling, DDPM (arXiv 2006.11239) algorithm 2."""
    chain = predictor.schedule
    x = at_least_float32(x_T)
    for row in with_progress(range(len(chain))[::-1], progress):
        step = ancestral_step(predictor(x, row), x, predictor.index(x, row), schedule=chain)
        x = step.mean
        if row > 0:
            x = x + step.sigma * noise(x.shape, x.device).to(x)
    return x


@torch.no_grad()
def ddim(
    predictor: Predictor,
    x_T: Tensor,
    *,
    eta: float,
    noise: Noise,
    progress: Progress | None = None,
) -> Tensor:
    """DDIM (arXiv 2010.02502), eq. 12; ``eta`` 0 is deterministic, 1 is ancestral with β̃."""
    chain = predictor.schedule
    x = at_least_float32(x_T)
    for row in with_progress(range(len(chain))[::-1], progress):
        step = ddim_step(predictor(x, row), predictor.index(x, row), schedule=chain, eta=eta)
        x = step.mean
        if row > 0 and eta > 0:
            x = x + step.sigma * noise(x.shape, x.device).to(x)
    return x


@torch.no_grad()
def analytic(
    predictor: Predictor,
    x_T: Tensor,
    *,
    x0_errors: Tensor | None,
    eta: float,
    noise: Noise,
    progress: Progress | None = None,
) -> Tensor:
    """Analytic-DPM (arXiv 2201.06503): DDIM's mean for ``eta`` with the optimal variance σ*².

    ``eta`` 1 is its DDPM, 0 its DDIM; both add noise. ``x0_errors`` is M of each row ``[N]``.

    Raises:
        ValueError: ``x0_errors`` is missing, or is not one number per row.
    """
    chain = predictor.schedule
    if x0_errors is None or len(x0_errors) != len(chain):
        raise ValueError(f"an analytic sampler needs the x0 error of each of {len(chain)} steps")
    x0_errors = x0_errors.to(x_T.device)
    x = at_least_float32(x_T)
    for row in with_progress(range(len(chain))[::-1], progress):
        index = predictor.index(x, row)
        x = ddim_step(predictor(x, row), index, schedule=chain, eta=eta).mean
        if row > 0:
            variance = optimal_variance(x0_errors, index, schedule=chain, eta=eta)
            x = x + expand(variance.sqrt(), x) * noise(x.shape, x.device).to(x)
    return x


@torch.no_grad()
def dpmpp_2m(predictor: Predictor, x_T: Tensor, *, progress: Progress | None = None) -> Tensor:
    """DPM-Solver++(2M) (arXiv 2211.01095), algorithm 2, with λ = log(α/σ).

    Each step takes x̂_0 at its middle, on the line through the last two. The first step has no
    earlier x̂_0, and the last, to ᾱ = 1, is infinitely long in λ: these take x̂_0 as it is.
    """
    chain = predictor.schedule
    x = at_least_float32(x_T)
    earlier: Tensor | None = None
    for row in with_progress(range(len(chain))[::-1], progress):
        x0 = midpoint = predictor(x, row).x0
        if earlier is not None and row > 0:
            lambdas = 0.5 * torch.logit(chain.alpha_bar[row - 1 : row + 2])  # of s, r, before r
            ratio = (lambdas[0] - lambdas[1]) / (lambdas[1] - lambdas[2])
            midpoint = x0 + (0.5 * ratio).to(x0) * (x0 - earlier)
        x = exponential_step(x, midpoint, predictor.index(x, row), schedule=chain)
        earlier = x0
    return x


@torch.no_grad()
def heun(predictor: Predictor, x_T: Tensor, *, progress: Progress | None = None) -> Tensor:
    """Heun's method on the ODE dx/dθ = v, θ = arccos √ᾱ (arXiv 2202.00512, appendix D).

    Two evaluations a step, one in the last, which takes x̂_0. In λ, or in σ/α (arXiv 2206.00364),
    the steps at one end of the chain would stay long however many there are.
    """
    chain = predictor.schedule
    x = at_least_float32(x_T)
    for row in with_progress(range(len(chain))[::-1], progress):
        index = predictor.index(x, row)
        x0 = predictor(x, row).x0
        x_s = exponential_step(x, x0, index, schedule=chain)
        if row > 0:
            x0_s = predictor(x_s, row - 1).x0
            alpha_bar_r, alpha_bar_s = chain.alpha_bar[index], chain.alpha_bar[index - 1]
            slopes = v_from_x0(x, x0, alpha_bar_r) + v_from_x0(x_s, x0_s, alpha_bar_s)
            turn = alpha_bar_s.sqrt().acos() - alpha_bar_r.sqrt().acos()  # θ_s - θ_r
            x_s = x + 0.5 * expand(turn, x) * slopes
        x = x_s
    return x


@torch.no_grad()
def ab2(predictor: Predictor, x_T: Tensor, *, progress: Progress | None = None) -> Tensor:
    """The ODE of `heun` by Adams and Bashforth's method of order 2: one evaluation a step.

    A step takes v on the line through its last two values over θ. The first step has no earlier v,
    and the last, to ᾱ = 1, ends at x̂_0: these are `exponential_step`.
    """
    chain = predictor.schedule
    x = at_least_float32(x_T)
    theta = chain.alpha_bar.sqrt().acos()
    earlier: Tensor | None = None
    for row in with_progress(range(len(chain))[::-1], progress):
        index = predictor.index(x, row)
        x0 = predictor(x, row).x0
        v = v_from_x0(x, x0, chain.alpha_bar[index])
        if earlier is None or row == 0:
            x = exponential_step(x, x0, index, schedule=chain)
        else:
            turn, before = theta[row - 1] - theta[row], theta[row] - theta[row + 1]
            x = x + turn.to(x) * (v + (0.5 * turn / before).to(x) * (v - earlier))
        earlier = v
    return x


class Step(NamedTuple):
    """The distribution of the next, less noisy sample: N(mean, sigma²)."""

    mean: Tensor  # [B, C, ...]
    sigma: Tensor  # broadcasts to mean


def ancestral_step(
    prediction: Prediction, x_t: Tensor, index: Tensor, *, schedule: Schedule
) -> Step:
    """The posterior given x̂_0, with the model's variance, DDPM (arXiv 2006.11239) algorithm 2."""
    mean = posterior(prediction.x0, x_t, index, schedule=schedule).mean
    return Step(mean, torch.exp(0.5 * prediction.log_variance))


def ddim_step(prediction: Prediction, index: Tensor, *, schedule: Schedule, eta: float) -> Step:
    """DDIM (arXiv 2010.02502), eq. 12 and 16: from level r to s with noise of scale η.

    σ = η √((1-ᾱ_s)/(1-ᾱ_r)) √(1-ᾱ_r/ᾱ_s) = η √β̃.
    """
    alpha_bar_prev = schedule.alpha_bar_prev[index]
    variance = eta**2 * schedule.posterior_variance[index]
    of_eps = (1 - alpha_bar_prev - variance).clamp(min=0).sqrt()
    x0, eps = prediction.x0, prediction.eps
    mean = expand(alpha_bar_prev.sqrt(), x0) * x0 + expand(of_eps, eps) * eps
    return Step(mean, expand(variance.sqrt(), x0))


def exponential_step(x_t: Tensor, x0: Tensor, index: Tensor, *, schedule: Schedule) -> Tensor:
    """x_s = (σ_s/σ_r) x_r + α_s (1 - e^(-h)) x̂_0: solves the ODE exactly for a constant x̂_0.

    DPM-Solver++ (arXiv 2211.01095), eq. 9, with h the step in λ = log(α/σ), α = √ᾱ, σ = √(1-ᾱ).
    With the network's own x̂_0 it is DDIM's step.
    """
    eps = eps_from_x0(x_t, x0, schedule.alpha_bar[index])
    return renoise(x0, eps, schedule.alpha_bar_prev[index])
