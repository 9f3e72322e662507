"""Sampling image embeddings from a prior that diffuses them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unclip.common.seeding import SampleNoise
from unclip.common.types import Caption, Denoiser, Progress
from unclip.diffusion.config import DiffusionConfig
from unclip.diffusion.predictor import build_guided_predictor, guided_denoiser
from unclip.diffusion.samplers import sample
from unclip.nn.transformer import Read
from unclip.stages._prior.config import CandidatesConfig
from unclip.stages._prior.null_text import NullText, told
from unclip.stages._prior.sampling import best_of, repeat_batch, repeat_each


@torch.no_grad()
def sample_prior(
    net: Any,
    *,
    z_t: Tensor,
    caption: Caption,
    diffusion: DiffusionConfig,
    sampler: CandidatesConfig,
    noise: SampleNoise,
    null: NullText | None = None,
    x0_errors: Tensor | None = None,
    read_once: bool = False,
    progress: Progress | None = None,
) -> Tensor:
    """z_i ``[B, D]`` for captions with text embeddings z_t ``[B, D]``.

    ``net`` predicts x_0 from x_t, t and what `told` gives, and has `from_x0`. With ``read_once``
    its ``condition`` reads the text for all steps, and ``denoise`` does the rest: the same to
    rounding.
    ``sampler.candidates`` are drawn per caption, and `best_of` them kept. Guidance goes away from
    ``null`` (`unclip.stages._prior.null_text`). ``x0_errors`` is for the analytic samplers (see
    `unclip.diffusion.samplers.sample`).
    """
    (batch, dim), many = z_t.shape, sampler.candidates
    captions, texts = repeat_each(caption, many), z_t.repeat_interleave(many, dim=0)

    read: list[Read] = []  # both branches, of which the guided one is the first half

    def conditioned(z_t: Tensor, caption: Caption, keep: Tensor) -> Denoiser:
        given = told(z_t, caption, keep, null)
        if not read_once:
            return partial(net, **given)
        read.append(net.condition(**given))
        return partial(net.denoise, conditioning=read[-1])

    def denoiser(scale: float) -> Denoiser:
        if scale == 1 and read:
            return partial(net.denoise, conditioning=read[0].first(len(texts)))
        keep = torch.ones(len(texts), dtype=torch.bool, device=texts.device)
        if scale == 1:
            return conditioned(texts, captions, keep)
        both = repeat_batch(captions)
        denoise = conditioned(texts.repeat(2, 1), both, torch.cat([keep, ~keep]))
        return guided_denoiser(denoise, scale, dim)

    def draw(shape: Sequence[int], device: torch.device) -> Tensor:
        # Each caption has one stream; its candidates take successive parts of it.
        return noise((batch, many, *shape[1:]), device).flatten(0, 1)

    predictor = build_guided_predictor(
        denoiser, diffusion=diffusion, sampler=sampler, device=z_t.device
    )
    x_T = draw((batch * many, dim), z_t.device)
    found = sample(predictor, x_T, sampler, noise=draw, x0_errors=x0_errors, progress=progress)
    return best_of(net.from_x0(found), z_t, many)
