"""Drawing from each trained network: the conditioning and guidance around the samplers.

Used alike by training (sample pictures, metrics) and by the pipeline. Noise comes from one stream
per sample (`SampleNoise`), so a sample does not depend on the batch it is drawn in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from unclip.diffusion.configs import DiffusionConfig, SamplerConfig
from unclip.diffusion.guidance import guide
from unclip.diffusion.inpainting import inpaint
from unclip.diffusion.process import q_sample
from unclip.diffusion.samplers import sample
from unclip.diffusion.schedules import full_schedule, sampling_schedule
from unclip.models.ar_prior import ArPrior
from unclip.models.clip import token_mask
from unclip.models.configs import PriorSamplerConfig, UpsamplerSamplerConfig
from unclip.models.decoder import Conditioning, Decoder
from unclip.models.diffusion_prior import DiffusionPrior
from unclip.models.upsampler import Upsampler
from unclip.seeding import SampleNoise
from unclip.types import Caption, Denoiser, Progress, TextFeatures, UserError


def prior_caption(net: DiffusionPrior | ArPrior, text: TextFeatures, tokens: Tensor) -> Caption:
    """The caption as ``net`` reads it: its own tokens, or the frozen CLIP's token features."""
    if net.config.caption == "clip":
        return Caption(None, text.tokens, text.mask)
    return Caption(tokens, None, token_mask(tokens))


def repeated(caption: Caption, times: int) -> Caption:
    """Each caption of the batch ``times`` in a row."""
    return _mapped(caption, lambda x: x.repeat_interleave(times, dim=0))


def doubled(caption: Caption, times: int = 2) -> Caption:
    """The batch ``times`` over."""
    return _mapped(caption, lambda x: torch.cat([x] * times))


def _mapped(caption: Caption, change: Callable[[Tensor], Tensor]) -> Caption:
    return Caption(*(None if x is None else change(x) for x in caption))  # type: ignore[arg-type]


def best_of(z_i: Tensor, z_t: Tensor, candidates: int) -> Tensor:
    """Of ``candidates`` successive rows of z_i ``[B·c, D]`` the one nearest to z_t ``[B, D]``.

    The second row of a caption is kept when its z_i · z_t is higher (paper, section 2.2).
    """
    z_i = z_i.unflatten(0, (len(z_t), candidates))
    best = torch.einsum("bcd,bd->bc", z_i, z_t.float()).argmax(dim=1)
    return z_i[torch.arange(len(z_t), device=z_i.device), best]


@torch.no_grad()
def sample_prior(
    net: DiffusionPrior,
    *,
    z_t: Tensor,
    caption: Caption,
    diffusion: DiffusionConfig,
    sampler: PriorSamplerConfig,
    noise: SampleNoise,
    error: Tensor | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """z_i ``[B, D]``, L2-normalised, for captions with text embeddings z_t ``[B, D]``.

    ``sampler.candidates`` are drawn per caption, and `best_of` them kept. ``error`` is for the
    analytic samplers (see `unclip.diffusion.samplers.sample`).
    """
    (batch, dim), many = z_t.shape, sampler.candidates
    captions, texts = repeated(caption, many), z_t.repeat_interleave(many, dim=0)

    def model(x_t: Tensor, t: Tensor, keep: Tensor) -> Tensor:
        twice = len(keep) // len(texts)
        both = doubled(captions, twice)
        return net(x_t, t, z_t=texts.repeat(twice, 1), caption=both, keep=keep)

    def draw(shape: Sequence[int], device: torch.device) -> Tensor:
        # Each caption has one stream; its candidates take successive parts of it.
        return noise((batch, many, *shape[1:]), device).flatten(0, 1)

    found = sample(
        _guided(model, sampler.guidance, dim),
        draw((batch * many, dim), z_t.device),
        schedule=sampling_schedule(diffusion, sampler.steps),
        diffusion=diffusion,
        sampler=sampler,
        noise=draw,
        error=error,
        progress=progress,
    )
    return best_of(net.from_x0(found), z_t, many)


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

    return _guided(model, guidance, 3)


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


@torch.no_grad()
def upsample(
    net: Upsampler,
    low: Tensor,
    *,
    size: int,
    diffusion: DiffusionConfig,
    sampler: UpsamplerSamplerConfig,
    noise: SampleNoise,
    progress: Progress | None = None,
) -> Tensor:
    """Images ``[B, 3, size, size]`` in [-1, 1] from ``low`` ``[B, 3, s, s]``; no guidance.

    Raises:
        UserError: ``sampler.noise_level`` is none of the network's levels.
    """
    start = noise((len(low), 3, size, size), low.device)
    level = None
    if sampler.noise_level >= max(1, net.config.noise_levels):
        raise UserError(
            f"sampler.noise_level={sampler.noise_level}: the network knows levels below "
            f"{net.config.noise_levels} (model.noise_levels)"
        )
    if net.config.noise_levels:
        level = torch.full((len(low),), sampler.noise_level, device=low.device)
        schedule = full_schedule(diffusion).to(low.device)
        low = q_sample(low, noise(low.shape, low.device), level, schedule=schedule)

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        return net(x_t, t, low, level)

    return sample(
        model,
        start,
        schedule=sampling_schedule(diffusion, sampler.steps),
        diffusion=diffusion,
        sampler=sampler,
        noise=noise,
        progress=progress,
    ).clamp(-1, 1)


def _guided(model: object, scale: float, channels: int) -> Denoiser:
    """``model(x_t, t, keep)`` as a denoiser, both branches in one batch when scale is not 1."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        keep = torch.ones(len(x_t), dtype=torch.bool, device=x_t.device)
        if scale == 1:
            return model(x_t, t, keep)  # type: ignore[operator]
        keep = torch.cat([keep, ~keep])
        out = model(torch.cat([x_t, x_t]), torch.cat([t, t]), keep)  # type: ignore[operator]
        cond, uncond = out.chunk(2)
        return guide(cond, uncond, scale, channels=channels)

    return denoise
