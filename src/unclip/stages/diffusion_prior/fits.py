"""What is fitted to a diffusion prior: standardisation and the x0 errors of Analytic-DPM."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from data_modules.prior import PriorData
from unclip.common.devices import widest
from unclip.common.seeding import generator
from unclip.diffusion.analytic import x0_error
from unclip.diffusion.config import DiffusionConfig, SamplerConfig
from unclip.diffusion.predictor import build_predictor
from unclip.diffusion.schedules import sampling_schedule
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.moments import Moments
from unclip.stages._prior.sampling import prior_caption
from unclip.stages.diffusion_prior.network import DiffusionPrior
from unclip.training.one_pass import embedded_batches

STANDARDISING_SAMPLES = 10_000


def fit_standardisation(
    nets: list[Any], clip: FrozenClip, data: PriorData, device: torch.device
) -> None:
    """Set ``mean`` and ``std`` of diffusion priors to those of the first training embeddings."""
    moments = Moments(clip.model.embed_dim)
    few = embedded_batches(
        clip.model, data, device=device, limit=STANDARDISING_SAMPLES, title="standardising"
    )
    for part in few:
        moments.update(part.z_i.cpu())
    moments.all_reduce()
    for net in nets:
        net.mean.copy_(moments.mean)
        net.std.copy_(moments.covariance.diagonal().clamp(min=1e-12).sqrt())
    if device.type == "cuda":
        torch.cuda.empty_cache()


def fit_x0_errors(
    net: DiffusionPrior,
    clip: FrozenClip,
    data: PriorData,
    device: torch.device,
    *,
    diffusion: DiffusionConfig,
    sampler: SamplerConfig,
    steps: int | str,
    samples: int,
) -> list[float]:
    """M of every sampled step: the error of x̂_0, with captions and without guidance.

    Clipped to [0, tr Cov(x_0) / D], which no denoiser worth its name exceeds (reference:
    arXiv 2201.06503, corollary 1).
    """
    sampler = replace(sampler, steps=steps)
    net = net.to(device)
    count = len(sampling_schedule(diffusion, steps))
    total = torch.zeros(count, dtype=widest(device), device=device)
    moments = Moments(clip.model.embed_dim)
    for k, part in enumerate(
        embedded_batches(clip.model, data, device=device, limit=samples, title="fitting errors")
    ):
        x0 = net.to_x0(part.z_i)
        assert part.batch.clip_tokens is not None
        assert part.batch.tokens is not None
        text = clip.model.encode_text(part.batch.clip_tokens)
        caption = prior_caption(net, text, part.batch.tokens)

        def denoise(x_t: Tensor, t: Tensor, z_t: Any = part.z_t, caption: Any = caption) -> Tensor:
            return net(x_t, t, z_t=z_t, caption=caption)

        noise = torch.randn(x0.shape, generator=generator("fit errors", k)).to(device)
        predictor = build_predictor(denoise, diffusion=diffusion, sampler=sampler, device=device)
        total += len(x0) * x0_error(predictor, x0, noise)
        moments.update(x0.cpu())
    most = float(moments.covariance.trace()) / clip.model.embed_dim
    return (total / moments.count).clamp(0, most).tolist()
