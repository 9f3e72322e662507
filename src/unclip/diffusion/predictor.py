"""What samplers see of a network: a `Predictor`, built once for sampling, inversion and inpainting.

Guidance happens inside the denoiser; samplers take its output as final.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unclip.common.types import Denoiser, Progress
from unclip.diffusion.config import Clip, DiffusionConfig, SamplerConfig
from unclip.diffusion.process import Prediction, predict
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

    def __call__(self, x: Tensor, row: int) -> Prediction:
        """x̂_0, ε̂ and the reverse variance for ``x`` ``[B, C, ...]`` at ``row`` of the schedule."""
        index = self.index(x, row)
        return predict(
            self.denoise(x, self.schedule.timesteps[index]),
            x,
            index,
            schedule=self.schedule,
            config=self.diffusion,
            clip=self.clip,
            clip_range=self.clip_range,
        )

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


def with_progress(rows: range, progress: Progress | None) -> Iterator[int]:
    """``rows``, each reported to ``progress`` once its step is done."""
    for done, row in enumerate(rows, start=1):
        yield row
        if progress is not None:
            progress(done, len(rows))
