"""Error against steps for every sampler, on a mixture whose optimal denoiser is known.

    .venv/bin/python benchmarks/samplers.py [sampler ...] [--steps 8 16 32]

The network is exact (float64), so all error is the sampler's: the 1-Wasserstein distance between
samples and the true quantiles. All samplers start from the same noise and draw from the same
stream; M of the analytic ones is estimated, as it would be for a network. heun asks the network
2N - 1 times, the others N times.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from torch import Tensor

from unclip.diffusion.analytic import x0_error
from unclip.diffusion.config import SAMPLERS, DiffusionConfig, ImageDiffusionConfig, SamplerConfig
from unclip.diffusion.predictor import build_predictor
from unclip.diffusion.samplers import ANALYTIC, sample
from unclip.diffusion.schedules import full_schedule

WEIGHT, MEAN, STD = (
    torch.tensor(values, dtype=torch.float64) for values in ([0.35, 0.65], [-0.6, 0.5], [0.1, 0.2])
)
SAMPLES, FOR_X0_ERRORS = 1_000_000, 200_000
ALPHA_BAR = full_schedule(DiffusionConfig()).alpha_bar
ROWS = [  # label, sampler, variance of ddpm
    ("ddpm, fixed small", "ddpm", "fixed_small"),
    ("ddpm, fixed large", "ddpm", "fixed_large"),
    ("ddim", "ddim", "fixed_small"),
    ("analytic", "analytic", "fixed_small"),
    ("analytic_ddim", "analytic_ddim", "fixed_small"),
    ("dpmpp_2m", "dpmpp_2m", "fixed_small"),
    ("heun (2N - 1 evaluations)", "heun", "fixed_small"),
    ("ab2", "ab2", "fixed_small"),
]


class Draws:
    """Standard normal numbers of a seed, in float64."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, shape, device) -> Tensor:
        return torch.randn(tuple(shape), generator=self.generator, dtype=torch.float64)


def exact_samples(n: int, seed: int) -> Tensor:
    """Draws ``[n, 1]`` of the mixture itself."""
    which = torch.multinomial(
        WEIGHT, n, replacement=True, generator=torch.Generator().manual_seed(seed)
    )
    return (MEAN[which] + STD[which] * Draws(seed + 1)((n,), None))[:, None]


def denoise(x_t: Tensor, t: Tensor) -> Tensor:
    """E[x_0 | x_t]: each component's, weighted by how likely it is."""
    alpha_bar = ALPHA_BAR[t[0]]
    variance = alpha_bar * STD**2 + 1 - alpha_bar
    away = x_t - alpha_bar.sqrt() * MEAN  # [B, 2]
    likely = (WEIGHT.log() - 0.5 * variance.log() - away**2 / (2 * variance)).softmax(1)
    x0 = MEAN + alpha_bar.sqrt() * STD**2 / variance * away
    return (likely * x0).sum(1, keepdim=True)


def quantiles(n: int) -> np.ndarray:
    """The mixture's, at (k + 1/2) / n."""
    grid = torch.linspace(-3, 3, 600_001, dtype=torch.float64)
    cdf = (WEIGHT * torch.special.ndtr((grid[:, None] - MEAN) / STD)).sum(1)
    return np.interp((np.arange(n) + 0.5) / n, cdf.numpy(), grid.numpy())


def distance(samples: Tensor, truth: np.ndarray) -> float:
    """1-Wasserstein."""
    return float(np.abs(np.sort(samples.flatten().numpy()) - truth).mean())


def samples_of(kind: str, variance: str, steps: int) -> Tensor:
    diffusion = ImageDiffusionConfig(prediction="x0", variance=variance)
    sampler, noise = SamplerConfig(sampler=kind, steps=steps), Draws(0)
    predictor = build_predictor(denoise, diffusion=diffusion, sampler=sampler, device="cpu")
    x0_errors = None
    if kind in ANALYTIC:
        clean = exact_samples(FOR_X0_ERRORS, seed=100)
        x0_errors = x0_error(predictor, clean, Draws(102)(clean.shape, None))
    return sample(predictor, noise((SAMPLES, 1), None), sampler, noise=noise, x0_errors=x0_errors)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("samplers", nargs="*", choices=[*SAMPLERS, []])
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 16, 32, 64, 250])
    args = parser.parse_args()
    began = time.perf_counter()
    truth = quantiles(SAMPLES)
    print(f"| 1-Wasserstein distance x 1000 | {' | '.join(map(str, args.steps))} |")
    print("|---" * (len(args.steps) + 1) + "|")
    for label, kind, variance in ROWS:
        if kind not in (args.samplers or SAMPLERS):
            continue
        found = [1e3 * distance(samples_of(kind, variance, steps), truth) for steps in args.steps]
        print(f"| {label} | {' | '.join(f'{value:.2f}' for value in found)} |", flush=True)
    floor = f"{1e3 * distance(exact_samples(SAMPLES, seed=200), truth):.2f}"
    print(f"| as many exact samples | {' | '.join([floor] * len(args.steps))} |")
    print(f"\n{SAMPLES:,} samples, {time.perf_counter() - began:.0f} s")
