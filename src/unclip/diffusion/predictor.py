"""What samplers see of a network: a `Predictor`, built once for sampling, inversion and inpainting.

Guidance happens inside the denoiser (`guided_denoiser`); samplers take its output as final.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unclip.common.errors import UserError
from unclip.common.types import Denoiser, Progress
from unclip.diffusion.config import Clip, DiffusionConfig, GuidedSamplerConfig, SamplerConfig
from unclip.diffusion.guidance import guide
from unclip.diffusion.process import Prediction, at_least_float32, eps_from_x0, predict
from unclip.diffusion.schedules import Schedule, sampling_schedule


@dataclass(frozen=True)
class Predictor:
    """A denoiser together with all that is needed to read x̂_0 and ε̂ from its output.

    ``schedule`` lies on the device of the samples.
    """

    denoise: Denoiser  # guided; its output is final
    schedule: Schedule  # the sampled chain
    diffusion: DiffusionConfig  # what the network predicts
    clip: Clip = "none"  # of x̂_0, as in `SamplerConfig`
    clip_range: float = 1.0
    known: tuple[Tensor, Tensor] | None = None  # x_0 [B, C, ...] and where it is sure, boolean
    elsewhere: Denoiser | None = None  # in place of ``denoise`` at the rows not in ``rows``
    rows: frozenset[int] = frozenset()

    def __call__(self, x: Tensor, row: int) -> Prediction:
        """x̂_0, ε̂ and the reverse variance for ``x`` ``[B, C, ...]`` at ``row`` of the schedule."""
        index = self.index(x, row)
        denoise = self.denoise
        if self.elsewhere is not None and row not in self.rows:
            denoise = self.elsewhere
        found = predict(
            denoise(x, self.schedule.timesteps[index]),
            x,
            index,
            schedule=self.schedule,
            config=self.diffusion,
            clip=self.clip,
            clip_range=self.clip_range,
        )
        if self.known is None:
            return found
        known, keep = self.known
        x0 = torch.where(keep, known.to(found.x0), found.x0)
        eps = eps_from_x0(at_least_float32(x), x0, self.schedule.alpha_bar[index])
        return found._replace(x0=x0, eps=eps)

    def index(self, x: Tensor, row: int) -> Tensor:
        """``row`` for every sample of ``x``: ``[B]`` int64."""
        return torch.full((len(x),), row, device=x.device)


def build_predictor(
    denoise: Denoiser,
    *,
    diffusion: DiffusionConfig,
    sampler: SamplerConfig,
    device: torch.device | str,
) -> Predictor:
    """A predictor on the chain of ``sampler.steps``, clipped as ``sampler`` says."""
    return Predictor(
        denoise,
        sampling_schedule(diffusion, sampler.steps).to(device),
        diffusion,
        clip=sampler.clip,
        clip_range=sampler.clip_range,
    )


def build_guided_predictor(
    denoiser: Callable[[float], Denoiser],
    *,
    diffusion: DiffusionConfig,
    sampler: GuidedSamplerConfig,
    device: torch.device | str,
) -> Predictor:
    """The same of the denoiser with a guidance scale; 1 is that without guidance.

    Outside ``sampler.guidance_interval`` there is no guidance (arXiv 2404.07724), at half the cost.
    """
    rows = guided_rows(diffusion, sampler)
    predictor = build_predictor(
        denoiser(sampler.guidance), diffusion=diffusion, sampler=sampler, device=device
    )
    return predictor if rows is None else replace(predictor, elsewhere=denoiser(1), rows=rows)


def guided_rows(diffusion: DiffusionConfig, sampler: GuidedSamplerConfig) -> frozenset[int] | None:
    """Rows of the chain inside ``sampler.guidance_interval``; None if all are treated alike."""
    interval = sampler.guidance_interval
    if sampler.guidance == 1 or interval is None:
        return None
    levels = enumerate(_noise_levels(diffusion, sampler))
    return frozenset(row for row, level in levels if interval[0] < level <= interval[1])


def require_guided_rows(sampler: GuidedSamplerConfig, diffusion: DiffusionConfig) -> None:
    """Refuse a guidance interval in which nothing is sampled."""
    if guided_rows(diffusion, sampler) != frozenset():
        return
    levels = _noise_levels(diffusion, sampler)
    raise UserError(
        f"sampler.guidance_interval: {sampler.guidance_interval} holds none of the noise levels "
        f"that are sampled, {len(levels)} from {min(levels):.3g} to {max(levels):.3g}; widen it, "
        "as [0.3, 3]"
    )


def _noise_levels(diffusion: DiffusionConfig, sampler: SamplerConfig) -> list[float]:
    """√((1-ᾱ)/ᾱ) of the sampled chain."""
    alpha_bar = sampling_schedule(diffusion, sampler.steps).alpha_bar
    return ((1 - alpha_bar) / alpha_bar).sqrt().tolist()


def guided_denoiser(both: Denoiser, scale: float, channels: int) -> Denoiser:
    """A denoiser of B samples from one of 2B: with the conditions, then with them dropped."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        cond, uncond = both(torch.cat([x_t, x_t]), torch.cat([t, t])).chunk(2)
        return guide(cond, uncond, scale, channels=channels)

    return denoise


def with_progress(rows: range, progress: Progress | None) -> Iterator[int]:
    """``rows``, each reported to ``progress`` once its step is done."""
    for done, row in enumerate(rows, start=1):
        yield row
        if progress is not None:
            progress(done, len(rows))
