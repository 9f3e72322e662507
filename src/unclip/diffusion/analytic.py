"""Analytic-DPM: the optimal variance of a reverse step, from the mean squared error of x̂_0.

Source: arXiv 2201.06503, theorem 1, in terms of x_0: for the step from level r to s,
σ*² = λ² + γ² M_r with M_r = E‖x_0 - x̂_0‖²/d, γ = √ᾱ_s - √((β̄_s - λ²) ᾱ_r / β̄_r) and β̄ = 1 - ᾱ.
M, in code ``x0_errors``, belongs to the network's own x̂_0; guidance changes x̂_0, and M is then not
known.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unclip.common.devices import widened
from unclip.diffusion.predictor import Predictor
from unclip.diffusion.process import q_sample
from unclip.diffusion.schedules import Schedule


def optimal_variance(
    x0_errors: Tensor, index: Tensor, *, schedule: Schedule, eta: float = 1.0
) -> Tensor:
    """σ*² ``[B]`` (float64) of the steps ``index`` ``[B]``.

    Args:
        x0_errors: M of every row of ``schedule`` ``[N]``, in the network's own scale of x_0.
        index: Rows of ``schedule`` ``[B]``.
        schedule: The sampled chain.
        eta: λ² = η² β̃: 1 is ancestral sampling, 0 DDIM.
    """
    lower = eta**2 * schedule.posterior_variance[index]
    rest = (1 - schedule.alpha_bar_prev[index] - lower).clamp(min=0)
    ratio = schedule.alpha_bar[index] / (1 - schedule.alpha_bar[index])
    gamma = schedule.alpha_bar_prev[index].sqrt() - (rest * ratio).sqrt()
    return lower + gamma**2 * x0_errors.to(lower)[index]


@torch.no_grad()
def x0_error(predictor: Predictor, x0: Tensor, noise: Tensor) -> Tensor:
    """M of every row of the schedule, ``[N]`` float64: the mean of (x_0 - x̂_0)².

    The mean is over batch and dimensions. It is the MSE itself, never computed from E‖ε̂‖², which
    explodes near t = T.

    Args:
        predictor: The one that samples (averaged weights, its clipping), but without guidance.
        x0: Clean samples ``[B, C, ...]`` in the network's own scale.
        noise: Standard normal, of the same shape; used at every level.
    """
    mean_squares = []
    for row in range(len(predictor.schedule)):
        x_t = q_sample(x0, noise, predictor.index(x0, row), schedule=predictor.schedule)
        residual = widened(predictor(x_t, row).x0) - widened(x0)
        mean_squares.append(residual.square().mean())
    return torch.stack(mean_squares)
