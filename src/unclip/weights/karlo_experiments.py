"""The experiments of Karlo's and Kandinsky's stages, which their two layouts share."""

from __future__ import annotations

from typing import Any

from unclip.diffusion.config import GuidedSamplerConfig
from unclip.nn.config import ConvUNetConfig, TextEncoderConfig, UNetConfig
from unclip.stages.decoder.config import DecoderConfig, DecoderExperiment
from unclip.stages.diffusion_prior.config import (
    DiffusionPriorConfig,
    DiffusionPriorExperiment,
    PriorSamplerConfig,
)
from unclip.stages.upsampler.config import (
    UpsamplerConfig,
    UpsamplerExperiment,
    UpsamplerSamplerConfig,
)


def prior_experiment(
    dim: int, context: int, width: int, layers: int, heads: int, dropout: float, chain: Any
) -> DiffusionPriorExperiment:
    """Karlo's kind of prior; its token features are as wide as its embeddings."""
    model = DiffusionPriorConfig(
        embed_dim=dim,
        embeddings="raw",
        caption="clip",
        clip_text_width=dim,
        context=context,
        width=width,
        layers=layers,
        heads=heads,
        dropout=dropout,
        standardise=True,
        null_text="caption",
    )
    sampler = PriorSamplerConfig(
        sampler="ddpm", steps=steps_of(25, chain), guidance=4.0, candidates=1, **chain.sampler
    )
    return DiffusionPriorExperiment(model=model, diffusion=chain.diffusion, sampler=sampler)


def decoder_experiment(
    size: int, dim: int, tokens: int, width: int, unet: UNetConfig, steps: int, chain: Any
) -> DecoderExperiment:
    """Karlo's kind of decoder."""
    model = DecoderConfig(
        image_size=size,
        embed_dim=dim,
        embeddings="raw",
        clip_tokens=tokens,
        caption="clip",
        clip_text_width=dim,
        context_mask=True,
        null_text="caption",
        null_z_i="learned",
        unet=unet,
        text=TextEncoderConfig(width=width),
    )
    sampler = GuidedSamplerConfig(
        sampler="ddpm", steps=steps_of(steps, chain), guidance=8.0, **chain.sampler
    )
    return DecoderExperiment(model=model, diffusion=chain.diffusion, sampler=sampler)


def upsampler_experiment(
    size: int, low: int, last: bool, unet: ConvUNetConfig, chain: Any
) -> UpsamplerExperiment:
    """Karlo's kind of upsampler."""
    model = UpsamplerConfig(image_size=size, low_size=low, last_step=last, unet=unet)
    sampler = UpsamplerSamplerConfig(sampler="ddpm", steps=steps_of(7, chain), **chain.sampler)
    return UpsamplerExperiment(model=model, diffusion=chain.diffusion, sampler=sampler)


def steps_of(published: int, chain: Any) -> int:
    """As many sampling steps as published, or as the chain has timesteps."""
    return min(published, chain.diffusion.steps)
