"""The training loss: a simple MSE, plus the variational bound where the variance is learned."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from unclip.diffusion.config import DiffusionConfig
from unclip.diffusion.process import Gaussian, at_least_float32, posterior, predict, training_target
from unclip.diffusion.schedules import Schedule


class LossTerms(NamedTuple):
    """Per-sample losses, float32; ``loss.mean()`` is what trains."""

    loss: Tensor  # [B], mse + vb_weight * T/1000 * vb
    mse: Tensor  # [B], mean over dimensions, in the target of the network's prediction
    vb: Tensor | None  # [B], this timestep's term of the bound, bits per dimension; learned only


def diffusion_loss(
    output: Tensor,
    *,
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    noise: Tensor,
    schedule: Schedule,
    config: DiffusionConfig,
) -> LossTerms:
    """The loss of a network's ``output`` ``[B, C or 2C, ...]`` for ``x_t`` made of x0 and noise.

    ``t`` is ``[B]``; ``schedule`` is the full chain, on the device of ``t`` (move it once, with
    `Schedule.to`). Improved DDPM (arXiv 2102.09672), eq. 16:
    L_simple + λ L_vlb, where L_vlb is a sum over T steps of which one is seen here, hence the
    factor T; the paper's λ = 0.001 is the vb_weight 1.
    """
    if len(schedule) != schedule.total:
        raise ValueError("training needs the full schedule, not a respaced one")
    target = training_target(config.prediction, x0, noise, schedule.alpha_bar[t])
    main = at_least_float32(output[:, : x_t.shape[1]])
    mse = ((main - target) ** 2).flatten(1).mean(1)
    if config.variance != "learned_range":
        return LossTerms(loss=mse, mse=mse, vb=None)
    vb = variational_bound(output, x0=x0, x_t=x_t, t=t, schedule=schedule, config=config)
    loss = mse + config.vb_weight * schedule.total / 1000 * vb
    return LossTerms(loss=loss, mse=mse, vb=vb)


def variational_bound(
    output: Tensor,
    *,
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    schedule: Schedule,
    config: DiffusionConfig,
) -> Tensor:
    """One timestep's term of the bound, ``[B]`` bits per dimension; trains the variance only.

    KL(q(x_{t-1}|x_t, x_0) ‖ p(x_{t-1}|x_t)), and at t = 0 the likelihood of 8-bit pixels, so the
    data are taken to be images in [-1, 1]. The mean is read from the output as what
    ``config.prediction`` says it is, and detached.
    """
    read = predict(output, x_t, t, schedule=schedule, config=config)
    x0 = at_least_float32(x0)
    truth = posterior(x0, x_t, t, schedule=schedule)
    mean = posterior(read.x0.detach(), x_t, t, schedule=schedule).mean
    model = Gaussian(mean, read.log_variance.expand_as(mean))
    kl = normal_kl(truth, model).flatten(1).mean(1)
    # The likelihood is worked out for every sample and chosen after: no data-dependent shapes.
    nll = -pixel_log_likelihood(x0, model).flatten(1).mean(1)
    return torch.where(t == 0, nll, kl) / math.log(2)


def normal_kl(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q ‖ p) of two diagonal normals, per element, in nats."""
    ratio = q.log_variance - p.log_variance
    distance = (q.mean - p.mean) ** 2 * torch.exp(-p.log_variance)
    return 0.5 * (torch.expm1(ratio) - ratio + distance)


def pixel_log_likelihood(x: Tensor, model: Gaussian) -> Tensor:
    """Log-probability, per element in nats, of the 8-bit pixel that ``x`` in [-1, 1] stands for.

    DDPM (arXiv 2006.11239), eq. 13: the normal's mass in a bin of width 2/255 around x; the end
    bins reach to infinity.
    """
    inverse_sigma = torch.exp(-0.5 * model.log_variance)
    centered, half = x - model.mean, 1 / 255
    # A bin's mass is even in its centre; taken in the lower tail, the difference keeps its digits.
    lower = -centered.abs()
    mass = torch.special.ndtr((lower + half) * inverse_sigma) - torch.special.ndtr(
        (lower - half) * inverse_sigma
    )
    inside = mass.clamp(min=1e-12).log()
    black = torch.special.log_ndtr((centered + half) * inverse_sigma)
    white = torch.special.log_ndtr((half - centered) * inverse_sigma)
    # Neighbouring pixel values are 0.0078 apart, so 0.999 tells the end bins from the others.
    return torch.where(x < -0.999, black, torch.where(x > 0.999, white, inside))
