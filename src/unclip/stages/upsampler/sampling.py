"""Sampling large images from an upsampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unclip.common.seeding import SampleNoise
from unclip.common.types import Progress
from unclip.diffusion.config import ImageDiffusionConfig
from unclip.diffusion.predictor import build_predictor
from unclip.diffusion.process import q_sample
from unclip.diffusion.samplers import sample
from unclip.diffusion.schedules import full_schedule
from unclip.embeddings.gpt2 import Gpt2Tokenizer, mask_of
from unclip.embeddings.tokens import Tokenizer
from unclip.stages._diffusion.known import Known, known_channels
from unclip.stages._part import Part
from unclip.stages.interface import Given, Share, some_timesteps
from unclip.stages.upsampler.config import (
    UpsamplerExperiment,
    UpsamplerSamplerConfig,
    check_sampler,
)
from unclip.stages.upsampler.network import Upsampler, as_8_bit, some_words


@dataclass(frozen=True)
class UpsamplerPart(Part):
    """An upsampler ready to sample."""

    net: Upsampler
    sampler: UpsamplerSamplerConfig
    diffusion: ImageDiffusionConfig
    tokenize: Tokenizer | Gpt2Tokenizer | None = None  # of an upsampler that reads captions

    def check_sampler(self, sampler: UpsamplerSamplerConfig) -> None:
        """See `Part.check_sampler`."""
        check_sampler(sampler, self.diffusion, self.net.config)

    def size_from(self, side: int) -> int:
        """Pixels a side of the result for a small image of ``side``.

        An upsampler given twice enlarges twice: its network knows no size.
        """
        config = self.net.config
        return max(config.image_size, side * config.image_size // config.low_size)

    @torch.no_grad()
    def draw(
        self,
        low: Tensor,
        noise: SampleNoise,
        *,
        size: int | None = None,
        captions: Sequence[str] | None = None,
        known: Known | None = None,
        sampler: UpsamplerSamplerConfig | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Images ``[B, 3, size, size]`` in [-1, 1] from ``low`` ``[B, 3, s, s]``; no guidance.

        ``size`` is `size_from` ``s`` if None, ``sampler`` the upsampler's own. An upsampler that
        reads captions takes none for dropped ones. What is ``known`` of the result is told to a
        network with ``inpaint``.

        Raises:
            UserError: ``sampler.noise_level`` is not one of the network's levels.
        """
        net, sampler = self.net, sampler or self.sampler
        size = size or self.size_from(low.shape[-1])
        x_T = sampler.start_scale * noise((len(low), 3, size, size), low.device)
        level = None
        self.check_sampler(sampler)
        words, channels = self._words(captions, len(low)), None
        if known is not None and net.config.inpaint:
            channels = known_channels(known.known, known.keep)
        if net.config.low_8_bit:
            low = as_8_bit(low)
        if net.config.noise_levels:
            level = torch.full((len(low),), sampler.noise_level, device=low.device)
            schedule = full_schedule(self.diffusion).to(low.device)
            low = q_sample(low, noise(low.shape, low.device), level, schedule=schedule)
        low = net.enlarged(low, (size, size))

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return net(x_t, t, low, level, words, channels)

        predictor = build_predictor(
            denoise, diffusion=self.diffusion, sampler=sampler, device=low.device
        )
        if channels is not None and known is not None:
            predictor = replace(predictor, known=(known.known, known.keep))
        return sample(predictor, x_T, sampler, noise=noise, progress=progress).clamp(-1, 1)

    def _words(self, captions: Sequence[str] | None, count: int) -> Tensor | None:
        """B captions as the network reads them; None for one that does not."""
        if not self.net.config.use_caption:
            return None
        assert self.tokenize is not None
        tokens = self.tokenize(list(captions or [""] * count)).to(self.device)
        keep = torch.full((count,), captions is not None, device=self.device)
        return self.net.read(tokens, mask_of(self.net.config, tokens), keep)


def dry_sampling(
    net: Upsampler, experiment: UpsamplerExperiment, given: Given, share: Share
) -> Callable[[], Tensor]:
    """See `unclip.stages.row.Row`: captions are read and the small image is enlarged once."""
    side, small = net.config.image_size, net.config.low_size
    x_t, t = torch.zeros(share.batch, 3, side, side), some_timesteps(share.batch)
    level = some_timesteps(share.batch) if net.config.noise_levels else None
    words = some_words(net, share)
    low = net.enlarged(torch.zeros(share.batch, 3, small, small), (side, side))
    return lambda: net(x_t, t, low, level, words)
