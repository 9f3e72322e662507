"""From noise to a sample and back. Samplers see a network only as a `Denoiser`.

Guidance is the denoiser's own affair: it returns the output that is to be believed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unclip.common.types import Denoiser, Progress
from unclip.diffusion.analytic import optimal_variance
from unclip.diffusion.config import DiffusionConfig, SamplerConfig
from unclip.diffusion.process import (
    Prediction,
    at_least_float32,
    eps_from_x0,
    expand,
    posterior,
    predict,
    renoise,
    training_target,
    x0_from_eps,
)
from unclip.diffusion.schedules import Schedule

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
    error: Tensor | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Draw x_0 ``[B, C, ...]`` from ``x_T`` along ``schedule`` (see `sampling_schedule`).

    ``noise`` is called once a step, except at the last one and where nothing is random. Of
    ``sampler``, its steps and guidance are not read: they are in ``schedule`` and ``denoise``.
    ``error`` is M of each row ``[N]`` (see `unclip.diffusion.analytic`), for the analytic samplers.

    Raises:
        ValueError: an analytic sampler without ``error``, or with one of another length.
    """
    kind = sampler.sampler
    if kind in ANALYTIC and (error is None or len(error) != len(schedule)):
        raise ValueError(f"sampler {kind} needs the error of each of {len(schedule)} steps")
    schedule = schedule.to(x_T.device)
    error = None if error is None else error.to(x_T.device)
    x = at_least_float32(x_T)

    def look(x: Tensor, row: int) -> Prediction:
        index = torch.full((len(x),), row, device=x.device)
        output = denoise(x, schedule.timesteps[index])
        return predict(
            output,
            x,
            index,
            schedule=schedule,
            config=diffusion,
            clip=sampler.clip,
            clip_range=sampler.clip_range,
        )

    earlier: Tensor | None = None
    for row in reversed(range(len(schedule))):
        index = torch.full((len(x),), row, device=x.device)
        now = look(x, row)
        if kind == "dpmpp_2m":
            x0 = now.x0 if earlier is None else _extrapolate(now.x0, earlier, row, schedule)
            x, earlier = exponential_step(x, x0, index, schedule=schedule), now.x0
        elif kind == "heun":
            x = _heun_step(x, now.x0, row, look, schedule)
        else:
            step = random_step(now, x, index, schedule, sampler, error)
            x = step.mean
            if row > 0 and is_random(sampler):
                x = x + step.sigma * noise(x.shape, x.device).to(x)
        if progress is not None:
            progress(len(schedule) - row, len(schedule))
    return x


ANALYTIC = ("analytic", "analytic_ddim")


def is_random(sampler: SamplerConfig) -> bool:
    """Whether the sampler draws noise after x_T."""
    return sampler.sampler in ("ddpm", *ANALYTIC) or (sampler.sampler == "ddim" and sampler.eta > 0)


def random_step(
    prediction: Prediction,
    x_t: Tensor,
    index: Tensor,
    schedule: Schedule,
    sampler: SamplerConfig,
    error: Tensor | None = None,
) -> Step:
    """One step of the samplers that are `is_random`, and of ``ddim``; ``error`` as in `sample`."""
    if sampler.sampler == "ddpm":
        return ancestral_step(prediction, x_t, index, schedule=schedule)
    eta = 1.0 if sampler.sampler == "analytic" else sampler.eta
    step = ddim_step(prediction, index, schedule=schedule, eta=eta)
    if error is None or sampler.sampler == "ddim":
        return step
    variance = optimal_variance(error, index, schedule=schedule, eta=eta)
    return Step(step.mean, expand(variance.sqrt(), step.mean))


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


def exponential_step(x_t: Tensor, x0: Tensor, index: Tensor, *, schedule: Schedule) -> Tensor:
    """x_s = (σ_s/σ_r) x_r + α_s (1 - e^(-h)) x̂_0: the ODE's solution while x̂_0 stays.

    DPM-Solver++ (arXiv 2211.01095), eq. 9, with h the step in λ = log(α/σ), α = √ᾱ, σ = √(1-ᾱ).
    With the network's own x̂_0 it is DDIM's step.
    """
    eps = eps_from_x0(x_t, x0, schedule.alpha_bar[index])
    return renoise(x0, eps, schedule.alpha_bar_prev[index])


def _extrapolate(x0: Tensor, earlier: Tensor, row: int, schedule: Schedule) -> Tensor:
    """x̂_0 in the middle of the step, by the line through the last two (algorithm 2, "2M").

    The last step, to ᾱ = 1, is infinitely long in λ and takes x̂_0 as it is.
    """
    if row == 0:
        return x0
    log_snr = 0.5 * torch.logit(schedule.alpha_bar[row - 1 : row + 2])
    ratio = ((log_snr[0] - log_snr[1]) / (log_snr[1] - log_snr[2])).item()
    return x0 + 0.5 * ratio * (x0 - earlier)


def _heun_step(
    x_t: Tensor,
    x0: Tensor,
    row: int,
    look: Callable[[Tensor, int], Prediction],
    schedule: Schedule,
) -> Tensor:
    """Heun's method, two evaluations, on the ODE in θ = arccos √ᾱ, where dx/dθ = v.

    Source: arXiv 2202.00512, appendix D. Neither in λ nor in σ/α (arXiv 2206.00364), where the
    steps at an end of the chain stay long however many there are. The last step takes x̂_0.
    """
    index = torch.full((len(x_t),), row, device=x_t.device)
    onward = exponential_step(x_t, x0, index, schedule=schedule)
    if row == 0:
        return onward
    here, there = schedule.alpha_bar[index], schedule.alpha_bar[index - 1]
    slopes = _velocity(x_t, x0, here) + _velocity(onward, look(onward, row - 1).x0, there)
    turned = there.sqrt().acos() - here.sqrt().acos()
    return x_t + 0.5 * expand(turned, x_t) * slopes


def _velocity(x_t: Tensor, x0: Tensor, alpha_bar: Tensor) -> Tensor:
    """V = √ᾱ ε̂ - √(1-ᾱ) x̂_0."""
    return training_target("v", x0, eps_from_x0(x_t, x0, alpha_bar), alpha_bar)


INVERSIONS = ("guided_diffusion", "inverse_scheduler", "fixed_point")


@torch.no_grad()
def invert(
    denoise: Denoiser,
    x0: Tensor,
    *,
    schedule: Schedule,
    diffusion: DiffusionConfig,
    convention: str = "guided_diffusion",
    iterations: int = 4,
    clip: str = "none",
    clip_range: float = 1.0,
    progress: Progress | None = None,
) -> Tensor:
    """The x_T ``[B, C, ...]`` from which DDIM with eta 0 (about) reconstructs ``x0``.

    ``guided_diffusion`` (arXiv 2105.05233, appendix F, which unCLIP cites): x stands at level k,
    the clean image at level 0; ε̂ at its own t takes it to level k + 1, in the end to ᾱ = 0.
    ``inverse_scheduler``: x stands at level k - 1, the clean image at ᾱ = 1, and ε̂ at the
    target's t takes it to level k; about twice as accurate. These two never clip.
    ``fixed_point``, beyond the paper: solves DDIM's own step for where it came from (see
    `_undo_step`), with ``clip`` as the sampler has it, in ``iterations`` evaluations each.

    Raises:
        ValueError: another convention.
    """
    if convention not in INVERSIONS:
        raise ValueError(f"convention {convention!r} is none of {', '.join(INVERSIONS)}")
    schedule = schedule.to(x0.device)
    here, there = schedule.alpha_bar_prev, schedule.alpha_bar
    if convention == "guided_diffusion":
        here, there = there, torch.cat([there[1:], there.new_zeros(1)])
    exact = convention == "fixed_point"
    x = at_least_float32(x0)
    for row in range(len(schedule)):
        index = torch.full((len(x),), row, device=x.device)

        def look(x: Tensor, index: Tensor = index) -> Prediction:
            output = denoise(x, schedule.timesteps[index])
            return predict(
                output,
                x,
                index,
                schedule=schedule,
                config=diffusion,
                clip=clip if exact else "none",
                clip_range=clip_range,
            )

        if exact:
            x = _undo_step(x, look, here[index], there[index], iterations)
        else:
            eps = look(x).eps
            x = renoise(x0_from_eps(x, eps, here[index]), eps, there[index])
        if progress is not None:
            progress(row + 1, len(schedule))
    return x


def _undo_step(
    x_s: Tensor,
    look: Callable[[Tensor], Prediction],
    alpha_bar_s: Tensor,
    alpha_bar_r: Tensor,
    iterations: int,
) -> Tensor:
    """The x_r that a DDIM step with eta 0 takes to ``x_s``, by fixed-point iteration.

    With θ = arccos √ᾱ the step turns by δ = θ_r - θ_s: x_s = cos δ x_r - sin δ v(x_r) (arXiv
    2202.00512, appendix D). So x_r = (x_s + sin δ v(x_r)) / cos δ, a contraction while
    tan δ |∂v/∂x| < 1; in ε̂ it would hardly be one near ᾱ = 0.
    """
    turn = alpha_bar_r.sqrt().acos() - alpha_bar_s.sqrt().acos()
    cos, sin = expand(turn.cos(), x_s), expand(turn.sin(), x_s)
    x_r = x_s
    for _ in range(iterations):
        x_r = (x_s + sin * _velocity(x_r, look(x_r).x0, alpha_bar_r)) / cos
    return x_r
