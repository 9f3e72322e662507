"""Filling in what is not known of a sample, with a network that was never trained to."""

from __future__ import annotations

import torch
from torch import Tensor

from unclip.common.types import Denoiser, Progress
from unclip.diffusion.config import DiffusionConfig, SamplerConfig
from unclip.diffusion.process import at_least_float32, predict, q_sample, renoise
from unclip.diffusion.samplers import Noise, is_random, random_step
from unclip.diffusion.schedules import Schedule

SAMPLERS = ("ddpm", "ddim")
"""Those that go from level to level by what they see there."""


@torch.no_grad()
def inpaint(
    denoise: Denoiser,
    x_T: Tensor,
    *,
    known: Tensor,
    keep: Tensor,
    resample: int,
    schedule: Schedule,
    diffusion: DiffusionConfig,
    sampler: SamplerConfig,
    noise: Noise,
    progress: Progress | None = None,
) -> Tensor:
    """x_0 ``[B, C, ...]`` that is ``known`` where ``keep``, and elsewhere goes with it.

    RePaint (arXiv 2201.09865), algorithm 1: before each step the known part is put in at the
    step's own noise level. Each level is gone through ``resample`` times: a step down, then as
    much noise as leads back up, so that the new part can adapt to the known one.

    Args:
        denoise: As in `unclip.diffusion.samplers.sample`.
        x_T: ``[B, C, ...]`` standard normal noise.
        known: ``[B, C, ...]`` clean; arbitrary where it is not kept.
        keep: Boolean, broadcasts with ``known``; True = known.
        resample: 1 never goes back up.
        schedule: As in `sample`.
        diffusion: As in `sample`.
        sampler: One of `SAMPLERS`.
        noise: As in `sample`, but called far more often.
        progress: Called once a level.

    Raises:
        ValueError: another sampler: it takes longer steps than one level.
    """
    if sampler.sampler not in SAMPLERS:
        raise ValueError(f"sampler {sampler.sampler} cannot inpaint; ddpm and ddim can")
    schedule = schedule.to(x_T.device)
    x = at_least_float32(x_T)
    known = known.to(x)

    def drawn() -> Tensor:
        return noise(x_T.shape, x_T.device).to(x)

    for row in reversed(range(len(schedule))):
        index = torch.full((len(x),), row, device=x.device)
        for turn in range(resample if row > 0 else 1):
            if turn > 0:  # back up: q(x_r | x_s)
                x = renoise(x, drawn(), 1 - schedule.betas[index])
            x = torch.where(keep, q_sample(known, drawn(), index, schedule=schedule), x)
            now = predict(
                denoise(x, schedule.timesteps[index]),
                x,
                index,
                schedule=schedule,
                config=diffusion,
                clip=sampler.clip,
                clip_range=sampler.clip_range,
            )
            step = random_step(now, x, index, schedule, sampler)
            x = step.mean
            if row > 0 and is_random(sampler):
                x = x + step.sigma * drawn()
        if progress is not None:
            progress(len(schedule) - row, len(schedule))
    return torch.where(keep, known, x)
