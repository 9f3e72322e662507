"""The optimal denoiser of N(0, v) data, for which everything is known in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from unclip.diffusion.config import DiffusionConfig
from unclip.diffusion.schedules import Schedule, full_schedule

V = 0.28890625  # the variance of ImageNet pixels in [-1, 1]


def optimal_x0(x: Tensor, alpha_bar: Tensor, v: float = V) -> Tensor:
    return alpha_bar.sqrt() * v * x / (alpha_bar * v + 1 - alpha_bar)


def optimal_mse(alpha_bar: Tensor, v: float = V) -> Tensor:
    """M = E(x0 - x0_hat)^2."""
    return v * (1 - alpha_bar) / (alpha_bar * v + 1 - alpha_bar)


def exact_reverse_variance(schedule: Schedule, v: float = V) -> Tensor:
    """The variance of q(x_s | x_r): beta_tilde plus what is unknown of x0 [N]."""
    gain = schedule.betas * schedule.alpha_bar_prev.sqrt() / (1 - schedule.alpha_bar)
    return schedule.posterior_variance + gain**2 * optimal_mse(schedule.alpha_bar, v)


def as_output(kind: str, x0: Tensor, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
    """What a network of this kind outputs if it means x0; float64, alpha_bar broadcasts."""
    eps = (x_t - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()
    v = alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x0
    return {"x0": x0, "eps": eps, "v": v}[kind]


def optimal_denoiser(
    config: DiffusionConfig, chain: Schedule | None = None, v: float = V
) -> Callable[[Tensor, Tensor], Tensor]:
    """The optimal network; with learned_range its variance is the exact one of ``chain``."""
    table = full_schedule(config).alpha_bar

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha_bar = table[t].reshape(-1, *[1] * (x.ndim - 1))
        output = as_output(config.prediction, optimal_x0(x, alpha_bar, v), x, alpha_bar)
        if chain is None or config.variance != "learned_range":
            return output
        row = torch.searchsorted(chain.timesteps, t)
        fraction = exact_fraction(chain, v)[row].reshape(alpha_bar.shape).expand_as(output)
        return torch.cat([output, fraction], dim=1)

    return denoise


def exact_fraction(chain: Schedule, v: float = V) -> Tensor:
    """The network's variance output, in [-1, 1], that gives the exact reverse variance [N]."""
    small, large = chain.log_beta_tilde, chain.log_beta
    return 2 * (exact_reverse_variance(chain, v).log() - small) / (large - small) - 1


class UnitNoise:
    """Sample 0 never gets noise; sample k gets 1 at call k - 1 and 0 at the others.

    Started from x_T = (1, 0, 0, ...), a linear sampler then returns its coefficients, of which the
    squares add up to the variance of what it samples: exact, where drawing would be noisy.
    """

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, shape: Sequence[int], device: torch.device) -> Tensor:
        self.calls += 1
        noise = torch.zeros(tuple(shape), dtype=torch.float64)
        noise[self.calls] = 1
        return noise.to(device)
