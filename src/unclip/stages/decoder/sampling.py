"""Sampling images from the decoder, and inverting images to the noise that draws them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from unclip.common.seeding import SampleNoise
from unclip.common.types import Denoiser, Progress
from unclip.diffusion.config import GuidedSamplerConfig, ImageDiffusionConfig
from unclip.diffusion.inpainting import inpaint
from unclip.diffusion.inversion import invert
from unclip.diffusion.predictor import (
    Predictor,
    build_guided_predictor,
    guided_denoiser,
    require_guided_rows,
)
from unclip.diffusion.samplers import sample
from unclip.embeddings.clip import Clip
from unclip.embeddings.gpt2 import Gpt2Tokenizer
from unclip.embeddings.tokens import Tokenizer
from unclip.stages._diffusion.known import Known, known_channels
from unclip.stages._part import Part
from unclip.stages.decoder.config import DecoderExperiment
from unclip.stages.decoder.network import Decoder, some_conditions
from unclip.stages.decoder.words import Words, null_words, read, told
from unclip.stages.experiment import require_steps_fit
from unclip.stages.interface import Given, Share, some_timesteps

Takes = Literal["image", "text", "none"]
"""What a decoder takes besides the caption: z_i, z_t in its place, or nothing (GLIDE)."""


@dataclass(frozen=True)
class DecoderPart(Part):
    """A decoder ready to sample."""

    net: Decoder
    sampler: GuidedSamplerConfig
    diffusion: ImageDiffusionConfig
    tokenize: Tokenizer | Gpt2Tokenizer
    takes: Takes = "image"
    clip: Clip | None = None  # that reads captions for it, on the network's device

    def check_sampler(self, sampler: GuidedSamplerConfig) -> None:
        """See `Part.check_sampler`."""
        require_steps_fit(sampler, self.diffusion)
        require_guided_rows(sampler, self.diffusion)

    @torch.no_grad()
    def draw(
        self,
        z: Tensor | None,
        captions: Sequence[str] | None,
        noise: SampleNoise,
        *,
        sampler: GuidedSamplerConfig | None = None,
        x_T: Tensor | None = None,
        known: Known | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Images ``[B, 3, S, S]`` in [-1, 1].

        A condition that is None is dropped, as in part of the training; one of the two must be
        there. An empty caption is something else, which the decoder has met in training only if
        ``model.null_text`` is "caption".

        Args:
            z: ``[B, D]``, z_i or what `takes` says.
            captions: B texts.
            noise: One stream per image.
            sampler: None for the decoder's own.
            x_T: Start from this noise ``[B, 3, S, S]`` instead of ``noise``.
            known: Fill in the rest of what is known (`unclip.diffusion.inpainting.inpaint`).
            progress: Called after each sampling step.
        """
        sampler = sampler or self.sampler
        predictor = self.predictor(z, captions, sampler, known)
        if x_T is None:
            side = self.net.config.image_size
            x_T = noise((_count(z, captions), 3, side, side), self.device)
        if known is None or known.resample is None:
            found = sample(predictor, x_T, sampler, noise=noise, progress=progress)
        else:
            found = inpaint(
                predictor, x_T, sampler, noise=noise, progress=progress, **known._asdict()
            )
        return found.clamp(-1, 1)

    @torch.no_grad()
    def invert(
        self,
        image: Tensor,
        z: Tensor | None,
        captions: Sequence[str] | None = None,
        *,
        sampler: GuidedSamplerConfig | None = None,
        convention: str = "fixed_point",
        iterations: int = 4,
        progress: Progress | None = None,
    ) -> Tensor:
        """x_T ``[B, 3, S, S]`` from which DDIM draws ``image`` ``[B, 3, S, S]`` again.

        Conditions as in `draw`; ``convention`` and ``iterations`` as in
        `unclip.diffusion.inversion.invert`.
        """
        predictor = self.predictor(z, captions, sampler or self.sampler)
        return invert(
            predictor, image, convention=convention, iterations=iterations, progress=progress
        )

    def predictor(
        self,
        z: Tensor | None,
        captions: Sequence[str] | None,
        sampler: GuidedSamplerConfig,
        known: Known | None = None,
    ) -> Predictor:
        """The network with its conditions, guidance and clipping."""
        count = _count(z, captions)
        nothing = torch.zeros(count, dtype=torch.bool, device=self.device)
        keep_z_i = keep_text = None
        config, tokenize = self.net.config, self.tokenize
        if z is None and self.net.config.use_z_i:
            z, keep_z_i = torch.zeros(count, self.net.embed_dim, device=self.device), nothing
        if captions is None:
            captions, keep_text = [""] * count, nothing
        texts = list(captions)
        denoiser = partial(
            decoder_denoiser,
            self.net,
            z_i=z,
            words=read(config, texts, tokenize, self.clip, self.device),
            null=null_words(config, tokenize, self.clip, self.device),
            keep_z_i=keep_z_i,
            keep_text=keep_text,
            known=known,
        )
        predictor = build_guided_predictor(
            denoiser, diffusion=self.diffusion, sampler=sampler, device=self.device
        )
        if known is None or known.resample is not None:
            return predictor
        return replace(predictor, known=(known.known, known.keep))


def _count(z: Tensor | None, captions: Sequence[str] | None) -> int:
    if z is None and captions is None:
        raise ValueError("a decoder needs embeddings or captions")
    return len(captions if z is None else z)  # type: ignore[arg-type]


def dry_sampling(
    net: Decoder, experiment: DecoderExperiment, given: Given, share: Share
) -> Callable[[], Tensor]:
    """See `unclip.stages.row.Row`: caption and z_i are read once."""
    side = experiment.model.image_size
    x_t, t = torch.zeros(share.batch, 3, side, side), some_timesteps(share.batch)
    conditions = net.project(net.condition(**some_conditions(experiment, given, share)))
    return lambda: net.denoise(x_t, t, conditions)


def decoder_denoiser(
    net: Decoder,
    guidance: float,
    *,
    z_i: Tensor | None,
    words: Words,
    null: Words | None = None,
    keep_z_i: Tensor | None = None,
    keep_text: Tensor | None = None,
    known: Known | None = None,
) -> Denoiser:
    """The decoder given z_i ``[B, D]`` and B captions, guided.

    z_i may be None for a decoder that has no use for it. Guidance compares with both conditions
    dropped; ``null`` as in `told`. Only a network with ``inpaint`` is told what is ``known``.
    """
    given = net.condition(z_i=z_i, keep_z_i=keep_z_i, **told(words, keep_text, null))
    if guidance != 1:
        none = torch.zeros(len(words.tokens), dtype=torch.bool, device=words.tokens.device)
        other = net.condition(z_i=z_i, keep_z_i=none, **told(words, none, null))
        given = given.followed_by(other)
    given = net.project(given)
    if known is not None and net.config.inpaint:
        channels = known_channels(known.known, known.keep)
        given = given._replace(known=torch.cat([channels] * (1 if guidance == 1 else 2)))

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return net.denoise(x_t, t, given)

    return denoise if guidance == 1 else guided_denoiser(denoise, guidance, 3)
