"""What samplers see of a network: a `Predictor`, built once for sampling, inversion and inpainting.

Guidance happens inside the denoiser (`guided_denoiser`); samplers take its output as final.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from unclip.common.types import Denoiser, Progress
from unclip.diffusion.config import Clip, DiffusionConfig, SamplerConfig
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

    def __call__(self, x: Tensor, row: int) -> Prediction:
        """x̂_0, ε̂ and the reverse variance for ``x`` ``[B, C, ...]`` at ``row`` of the schedule."""
        index = self.index(x, row)
        found = predict(
            self.denoise(x, self.schedule.timesteps[index]),
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


class Conditional(Protocol):
    """A network whose conditions can be dropped sample by sample."""

    def __call__(self, x_t: Tensor, t: Tensor, keep: Tensor) -> Tensor:
        """As a `Denoiser`; where ``keep`` ``[B]`` is False the conditions are dropped."""
        ...


def guided_denoiser(model: Conditional, scale: float, channels: int) -> Denoiser:
    """``model(x_t, t, keep)`` as a denoiser, both branches in one batch when scale is not 1."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        keep = torch.ones(len(x_t), dtype=torch.bool, device=x_t.device)
        if scale == 1:
            return model(x_t, t, keep)
        keep = torch.cat([keep, ~keep])
        out = model(torch.cat([x_t, x_t]), torch.cat([t, t]), keep)
        cond, uncond = out.chunk(2)
        return guide(cond, uncond, scale, channels=channels)

    return denoise


def with_progress(rows: range, progress: Progress | None) -> Iterator[int]:
    """``rows``, each reported to ``progress`` once its step is done."""
    for done, row in enumerate(rows, start=1):
        yield row
        if progress is not None:
            progress(done, len(rows))
