"""From a sample back to the noise that DDIM would make it from.

Every convention takes clean x_0 ``[B, C, ...]`` and climbs the predictor's schedule from row 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from unclip.common.types import Progress
from unclip.diffusion.predictor import Predictor, with_progress
from unclip.diffusion.process import at_least_float32, expand, renoise, v_from_x0, x0_from_eps


def invert(
    predictor: Predictor,
    x0: Tensor,
    *,
    convention: str = "guided_diffusion",
    iterations: int = 4,
    progress: Progress | None = None,
) -> Tensor:
    """The x_T ``[B, C, ...]`` from which DDIM with eta 0 reconstructs ``x0``, at least roughly.

    Args:
        predictor: The one that samples. Only ``fixed_point`` clips.
        x0: Clean samples ``[B, C, ...]``.
        convention: One of `unclip.diffusion.config.INVERSIONS`; each is a function of this module.
        iterations: Evaluations per step of ``fixed_point``.
        progress: Called after each step.

    Raises:
        ValueError: unknown convention.
    """
    conventions: dict[str, Callable[..., Tensor]] = {
        "guided_diffusion": guided_diffusion,
        "inverse_scheduler": inverse_scheduler,
        "fixed_point": partial(fixed_point, iterations=iterations),
    }
    if convention not in conventions:
        raise ValueError(f"convention {convention!r} is none of {', '.join(conventions)}")
    return conventions[convention](predictor, x0, progress=progress)


@torch.no_grad()
def guided_diffusion(
    predictor: Predictor, x0: Tensor, *, progress: Progress | None = None
) -> Tensor:
    """DDIM run backwards (arXiv 2105.05233, appendix F, which unCLIP cites).

    The clean sample counts as level 0. At level k, ε̂ at level k's own t takes x to level k + 1, and
    at the end to ᾱ = 0. Never clips.
    """
    predictor = replace(predictor, clip="none")
    here = predictor.schedule.alpha_bar
    there = torch.cat([here[1:], here.new_zeros(1)])
    x = at_least_float32(x0)
    for row in with_progress(range(len(here)), progress):
        index = predictor.index(x, row)
        eps = predictor(x, row).eps
        x = renoise(x0_from_eps(x, eps, here[index]), eps, there[index])
    return x


@torch.no_grad()
def inverse_scheduler(
    predictor: Predictor, x0: Tensor, *, progress: Progress | None = None
) -> Tensor:
    """As diffusers' DDIMInverseScheduler; about twice as accurate as `guided_diffusion`.

    The clean sample is at ᾱ = 1. At level k - 1, ε̂ at the target's t takes x to level k. Never
    clips.
    """
    predictor = replace(predictor, clip="none")
    here, there = predictor.schedule.alpha_bar_prev, predictor.schedule.alpha_bar
    x = at_least_float32(x0)
    for row in with_progress(range(len(here)), progress):
        index = predictor.index(x, row)
        eps = predictor(x, row).eps
        x = renoise(x0_from_eps(x, eps, here[index]), eps, there[index])
    return x


@torch.no_grad()
def fixed_point(
    predictor: Predictor, x0: Tensor, *, iterations: int = 4, progress: Progress | None = None
) -> Tensor:
    """Undo each DDIM step by fixed-point iteration, clipping as the sampler does; not in the paper.

    With θ = arccos √ᾱ, DDIM's step from level r to s turns by δ = θ_r - θ_s (arXiv 2202.00512,
    appendix D): x_s = cos δ x_r - sin δ v(x_r). So x_r = (x_s + sin δ v(x_r)) / cos δ, which is a
    contraction while tan δ |∂v/∂x| < 1. In terms of ε̂ it would hardly be one near ᾱ = 0.
    """
    chain = predictor.schedule
    x = at_least_float32(x0)
    for row in with_progress(range(len(chain)), progress):
        index = predictor.index(x, row)
        alpha_bar_s, alpha_bar_r = chain.alpha_bar_prev[index], chain.alpha_bar[index]
        delta = alpha_bar_r.sqrt().acos() - alpha_bar_s.sqrt().acos()
        cos, sin = expand(delta.cos(), x), expand(delta.sin(), x)
        x_r = x
        for _ in range(iterations):
            x_r = (x + sin * v_from_x0(x_r, predictor(x_r, row).x0, alpha_bar_r)) / cos
        x = x_r
    return x
