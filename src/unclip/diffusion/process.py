"""The forward process, its posterior, and what a network's output says about x_0.

Shapes: samples are ``[B, C, ...]`` (embeddings ``[B, D]``), ``index`` is ``[B]`` int64 rows of the
schedule (for the full chain, the timestep itself), ``alpha_bar`` is ``[B]`` float64. Coefficients
are computed in float64 and applied in float32 or better, whatever the network's precision is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unclip.diffusion.config import Clip, DiffusionConfig, PredictionKind
from unclip.diffusion.schedules import Schedule

DYNAMIC_PERCENTILE = 0.995  # Imagen (arXiv 2205.11487), section 2.3


class Gaussian(NamedTuple):
    """A diagonal normal distribution."""

    mean: Tensor  # [B, C, ...]
    log_variance: Tensor  # [B, C, ...] or [B, 1, ...]


class Prediction(NamedTuple):
    """A network's output, read."""

    x0: Tensor  # [B, C, ...], clipped if that was asked for
    eps: Tensor  # [B, C, ...], the noise consistent with x0
    log_variance: Tensor  # [B, C, ...] if learned, else [B, 1, ...]: of the ancestral step


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 if it is that already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def expand(values: Tensor, like: Tensor) -> Tensor:
    """``values`` ``[B]`` as ``[B, 1, ...]`` with the dimensions and dtype of ``like``."""
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like.dtype)


def q_sample(x0: Tensor, noise: Tensor, index: Tensor, *, schedule: Schedule) -> Tensor:
    """x_t = √ᾱ x_0 + √(1-ᾱ) ε, DDPM (arXiv 2006.11239) eq. 4."""
    return renoise(x0, noise, schedule.alpha_bar[index])


def renoise(x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """The sample at level ``alpha_bar`` that is made of ``x0`` and ``eps``."""
    x0, eps = at_least_float32(x0), at_least_float32(eps)
    return expand(alpha_bar.sqrt(), x0) * x0 + expand((1 - alpha_bar).sqrt(), x0) * eps


def x0_from_eps(x_t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_0 = (x_t - √(1-ᾱ) ε) / √ᾱ."""
    x_t, eps = at_least_float32(x_t), at_least_float32(eps)
    return (x_t - expand((1 - alpha_bar).sqrt(), x_t) * eps) / expand(alpha_bar.sqrt(), x_t)


def eps_from_x0(x_t: Tensor, x0: Tensor, alpha_bar: Tensor) -> Tensor:
    """ε = (x_t - √ᾱ x_0) / √(1-ᾱ)."""
    x_t, x0 = at_least_float32(x_t), at_least_float32(x0)
    return (x_t - expand(alpha_bar.sqrt(), x_t) * x0) / expand((1 - alpha_bar).sqrt(), x_t)


def x0_from_v(x_t: Tensor, v: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_0 = √ᾱ x_t - √(1-ᾱ) v (arXiv 2202.00512, appendix D)."""
    x_t, v = at_least_float32(x_t), at_least_float32(v)
    return expand(alpha_bar.sqrt(), x_t) * x_t - expand((1 - alpha_bar).sqrt(), x_t) * v


def eps_from_v(x_t: Tensor, v: Tensor, alpha_bar: Tensor) -> Tensor:
    """ε = √(1-ᾱ) x_t + √ᾱ v."""
    x_t, v = at_least_float32(x_t), at_least_float32(v)
    return expand((1 - alpha_bar).sqrt(), x_t) * x_t + expand(alpha_bar.sqrt(), x_t) * v


def v_from_x0(x_t: Tensor, x0: Tensor, alpha_bar: Tensor) -> Tensor:
    """The v = √ᾱ ε - √(1-ᾱ) x_0 that is consistent with ``x_t`` and ``x0``."""
    return training_target("v", x0, eps_from_x0(x_t, x0, alpha_bar), alpha_bar)


def training_target(kind: PredictionKind, x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """What a network of ``kind`` x0, eps or v should output; v = √ᾱ ε - √(1-ᾱ) x_0."""
    x0, noise = at_least_float32(x0), at_least_float32(noise)
    if kind == "x0":
        return x0
    if kind == "eps":
        return noise
    if kind == "v":
        return expand(alpha_bar.sqrt(), x0) * noise - expand((1 - alpha_bar).sqrt(), x0) * x0
    raise ValueError(f"prediction {kind!r} is none of x0, eps, v")


def posterior(x0: Tensor, x_t: Tensor, index: Tensor, *, schedule: Schedule) -> Gaussian:
    """q(x_{t-1} | x_t, x_0), DDPM (arXiv 2006.11239) eq. 6 and 7.

    In row 0, where the variance is 0, the log variance is row 1's.
    """
    x0, x_t = at_least_float32(x0), at_least_float32(x_t)
    alpha_bar, alpha_bar_prev = schedule.alpha_bar[index], schedule.alpha_bar_prev[index]
    beta = schedule.betas[index]
    of_x0 = beta * alpha_bar_prev.sqrt() / (1 - alpha_bar)
    of_x_t = (1 - alpha_bar_prev) * (1 - beta).sqrt() / (1 - alpha_bar)
    mean = expand(of_x0, x0) * x0 + expand(of_x_t, x_t) * x_t
    return Gaussian(mean, expand(schedule.log_beta_tilde[index], mean))


def predict(
    output: Tensor,
    x_t: Tensor,
    index: Tensor,
    *,
    schedule: Schedule,
    config: DiffusionConfig,
    clip: Clip = "none",
    clip_range: float = 1.0,
) -> Prediction:
    """Read a network's ``output`` ``[B, C or 2C, ...]`` for ``x_t`` ``[B, C, ...]``.

    ``clip`` and ``clip_range`` are as in `SamplerConfig`; ε̂ is recomputed from a clipped x̂_0.
    Raises ValueError if the number of channels is not what ``config.variance`` implies.
    """
    output, x_t = at_least_float32(output), at_least_float32(x_t)
    channels = x_t.shape[1]
    learned = config.variance == "learned_range"
    if output.shape[1] != channels * (2 if learned else 1):
        raise ValueError(
            f"{output.shape[1]} output channels for {channels} channels and {config.variance}"
        )
    alpha_bar = schedule.alpha_bar[index]
    main = output[:, :channels]
    if config.prediction == "x0":
        x0, eps = main, eps_from_x0(x_t, main, alpha_bar)
    elif config.prediction == "eps":
        x0, eps = x0_from_eps(x_t, main, alpha_bar), main
    else:
        x0, eps = x0_from_v(x_t, main, alpha_bar), eps_from_v(x_t, main, alpha_bar)
    if clip != "none":
        x0 = clip_x0(x0, clip, clip_range)
        eps = eps_from_x0(x_t, x0, alpha_bar)
    large = expand(schedule.log_beta[index], x_t)
    small = expand(schedule.log_beta_tilde[index], x_t)
    if learned:
        log_variance = learned_log_variance(output[:, channels:], small=small, large=large)
    else:
        log_variance = small if config.variance == "fixed_small" else large
    return Prediction(x0, eps, log_variance)


def learned_log_variance(v: Tensor, *, small: Tensor, large: Tensor) -> Tensor:
    """Learned range: log σ² = f log β + (1-f) log β̃, where f = (v+1)/2.

    Improved DDPM (arXiv 2102.09672), eq. 15; ``v`` in [-1, 1] spans the range, more is allowed.
    """
    f = (v + 1) / 2
    return f * large + (1 - f) * small


def clip_x0(x0: Tensor, how: Clip, limit: float = 1.0) -> Tensor:
    """``x0`` brought into its range: ``static`` clamps it to [-limit, limit].

    ``dynamic`` clamps each sample to its own s = max(1, 99.5th percentile of |x0|), over s.
    """
    if how == "static":
        return x0.clamp(-limit, limit)
    if how == "dynamic":
        s = x0.abs().flatten(1).quantile(DYNAMIC_PERCENTILE, dim=1).clamp(min=1)
        s = expand(s, x0)
        return x0.clamp(-s, s) / s
    raise ValueError(f"clip {how!r} is none of static, dynamic")
