"""Filling in the unknown part of a sample, with a network that was never trained to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from unclip.common.types import Progress
from unclip.diffusion.config import SamplerConfig
from unclip.diffusion.predictor import Predictor, with_progress
from unclip.diffusion.process import Prediction, at_least_float32, q_sample, renoise
from unclip.diffusion.samplers import Noise, Step, ancestral_step, ddim_step, is_random

SAMPLERS = ("ddpm", "ddim")
"""Samplers whose step depends on its own level alone, so that it can be repeated."""


@torch.no_grad()
def inpaint(
    predictor: Predictor,
    x_T: Tensor,
    sampler: SamplerConfig,
    *,
    known: Tensor,
    keep: Tensor,
    resample: int,
    noise: Noise,
    progress: Progress | None = None,
) -> Tensor:
    """x_0 ``[B, C, ...]`` that equals ``known`` where ``keep``, with the rest sampled to match.

    RePaint (arXiv 2201.09865), algorithm 1: before each step the known part is inserted at that
    step's noise level. Each level is visited ``resample`` times, a step down and then noise that
    leads back up, so that the new part can adapt to the known one.

    Args:
        predictor: As in `unclip.diffusion.samplers.sample`.
        x_T: ``[B, C, ...]`` standard normal noise.
        sampler: Its name is one of `SAMPLERS`.
        known: ``[B, C, ...]`` clean; arbitrary where ``keep`` is False.
        keep: Boolean, broadcasts with ``known``; True = known.
        resample: Visits of each level, 1 or more; 1 never goes back up.
        noise: As in `sample`, but called two or three times per visit.
        progress: Called after each level.

    Raises:
        ValueError: another sampler, which cannot repeat a single level.
    """
    chain = predictor.schedule
    steps: dict[str, Callable[[Prediction, Tensor, Tensor], Step]] = {
        "ddpm": partial(ancestral_step, schedule=chain),
        "ddim": lambda now, x, index: ddim_step(now, index, schedule=chain, eta=sampler.eta),
    }
    if sampler.sampler not in steps:
        raise ValueError(f"sampler {sampler.sampler} cannot inpaint; ddpm and ddim can")
    step_down, adds_noise = steps[sampler.sampler], is_random(sampler)
    x = at_least_float32(x_T)
    known = known.to(x)

    def fresh_noise() -> Tensor:
        return noise(x_T.shape, x_T.device).to(x)

    for row in with_progress(range(len(chain))[::-1], progress):
        index = predictor.index(x, row)
        for visit in range(resample if row > 0 else 1):
            if visit > 0:  # back up: q(x_r | x_s)
                x = renoise(x, fresh_noise(), 1 - chain.betas[index])
            x = torch.where(keep, q_sample(known, fresh_noise(), index, schedule=chain), x)
            step = step_down(predictor(x, row), x, index)
            x = step.mean
            if row > 0 and adds_noise:
                x = x + step.sigma * fresh_noise()
    return torch.where(keep, known, x)
