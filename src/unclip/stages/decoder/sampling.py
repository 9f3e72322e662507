"""Sampling images from the decoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from unclip.common.seeding import SampleNoise
from unclip.common.types import Denoiser, Progress
from unclip.diffusion.config import DiffusionConfig, SamplerConfig
from unclip.diffusion.guidance import guided
from unclip.diffusion.inpainting import inpaint
from unclip.diffusion.samplers import sample
from unclip.diffusion.schedules import sampling_schedule
from unclip.embeddings.tokens import token_mask
from unclip.stages.decoder.network import Conditioning, Decoder


def decoder_denoiser(
    net: Decoder,
    *,
    z_i: Tensor | None,
    tokens: Tensor,
    guidance: float,
    keep_z_i: Tensor | None = None,
    keep_text: Tensor | None = None,
) -> Denoiser:
    """The decoder given z_i ``[B, D]`` and caption tokens ``[B, L]``, guided.

    z_i may be None for a decoder that has no use for it. Guidance compares with both conditions
    dropped.
    """
    mask = token_mask(tokens)
    given = net.condition(z_i=z_i, tokens=tokens, mask=mask, keep_z_i=keep_z_i, keep_text=keep_text)
    if guidance != 1:
        none = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        null = net.condition(z_i=z_i, tokens=tokens, mask=mask, keep_z_i=none, keep_text=none)
        given = Conditioning(*(torch.cat(pair) for pair in zip(given, null)))

    def model(x_t: Tensor, t: Tensor, keep: Tensor) -> Tensor:
        return net.denoise(x_t, t, given)

    return guided(model, guidance, 3)


class Known(NamedTuple):
    """What an image to be drawn must show."""

    known: Tensor  # [B, 3, S, S] in [-1, 1]
    keep: Tensor  # [B, 1, S, S] boolean, True = known
    resample: int  # times that each noise level is gone through


@torch.no_grad()
def sample_decoder(
    net: Decoder,
    *,
    z_i: Tensor | None,
    tokens: Tensor,
    diffusion: DiffusionConfig,
    sampler: SamplerConfig,
    noise: SampleNoise,
    keep_z_i: Tensor | None = None,
    keep_text: Tensor | None = None,
    x_T: Tensor | None = None,
    known: Known | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Images ``[B, 3, S, S]`` in [-1, 1], conditioned as in `decoder_denoiser`.

    They start from ``x_T`` ``[B, 3, S, S]``, or where it is not given from ``noise``. What is
    ``known`` of them is filled up by `unclip.diffusion.inpainting.inpaint`.
    """
    side = net.config.image_size
    denoise = decoder_denoiser(
        net,
        z_i=z_i,
        tokens=tokens,
        guidance=sampler.guidance,
        keep_z_i=keep_z_i,
        keep_text=keep_text,
    )
    if x_T is None:
        x_T = noise((len(tokens), 3, side, side), tokens.device)
    draw: Callable[..., Tensor] = sample
    if known is not None:
        draw = partial(inpaint, **known._asdict())
    return draw(
        denoise,
        x_T,
        schedule=sampling_schedule(diffusion, sampler.steps),
        diffusion=diffusion,
        sampler=sampler,
        noise=noise,
        progress=progress,
    ).clamp(-1, 1)
