"""Trained stages as the pipeline and the evaluations use them, loaded from their artifacts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unclip import artifacts
from unclip.diffusion.configs import DiffusionConfig, SamplerConfig
from unclip.diffusion.samplers import ANALYTIC
from unclip.diffusion.schedules import sampling_timesteps
from unclip.embeddings.codec import Codec
from unclip.models.ar_prior import ArPrior
from unclip.models.ar_sampling import sample_ar_prior
from unclip.models.clip import Clip, FrozenClip, Tokenizer
from unclip.models.configs import (
    ArPriorConfig,
    ArSamplerConfig,
    DecoderConfig,
    DiffusionPriorConfig,
    PriorSamplerConfig,
    UpsamplerConfig,
    UpsamplerSamplerConfig,
)
from unclip.models.decoder import Decoder
from unclip.models.diffusion_prior import DiffusionPrior
from unclip.models.sampling import prior_caption, sample_prior
from unclip.models.upsampler import Upsampler
from unclip.seeding import SampleNoise
from unclip.types import Progress, UserError

PRIORS = ("ar_prior", "diffusion_prior")
EMBEDDINGS = ("image", "text", "none")
"""What a decoder takes besides the caption: z_i, z_t in its place, or nothing (GLIDE)."""


@dataclass(frozen=True)
class Part:
    """A stage ready to sample."""

    net: Any
    sampler: Any  # the stage's own kind of sampler config
    diffusion: DiffusionConfig | None = None  # None: an autoregressive prior
    tokenize: Tokenizer | None = None
    errors: dict[str, list[float]] = field(default_factory=dict)  # M by sampler.steps
    embedding: str = "none"  # of a decoder, one of EMBEDDINGS

    @property
    def chain(self) -> DiffusionConfig:
        """``diffusion`` of a part that has one."""
        assert self.diffusion is not None
        return self.diffusion

    def with_steps(self, steps: int | str) -> Part:
        """The same, sampled in other steps."""
        sampler = replace(self.sampler, steps=steps)
        sampler.validate()
        return replace(self, sampler=sampler)

    def tokens(self, captions: list[str], device: torch.device) -> Tensor:
        """The captions for the stage's own encoder ``[B, L]``."""
        assert self.tokenize is not None
        return self.tokenize(captions).to(device)

    def draw(
        self,
        clip: Clip,
        captions: list[str],
        noise: SampleNoise,
        *,
        sampler: Any = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Image embeddings ``[B, D]``, unit norm, of a prior for ``captions``.

        Raises:
            UserError: an analytic sampler, whose errors have not been fitted for its steps.
        """
        sampler = sampler or self.sampler
        device = next(self.net.parameters()).device
        text = clip.encode_text(clip.tokenize(captions).to(device))
        caption = prior_caption(self.net, text, self.tokens(captions, device))
        draw: Callable[..., Tensor] = sample_ar_prior
        more: dict[str, Any] = {}
        if self.diffusion is not None:
            draw = sample_prior
            more = {"diffusion": self.diffusion, "error": _error(self, sampler)}
        return draw(
            self.net,
            z_t=text.z_t,
            caption=caption,
            sampler=sampler,
            noise=noise,
            progress=progress,
            **more,
        )


def _error(part: Part, sampler: SamplerConfig) -> Tensor | None:
    if sampler.sampler not in ANALYTIC:
        return None
    found = part.errors.get(str(sampler.steps))
    assert part.diffusion is not None
    if found is None or len(found) != len(sampling_timesteps(sampler.steps, part.diffusion.steps)):
        known = ", ".join(part.errors) or "none"
        raise UserError(
            f"prior sampler={sampler.sampler}: no errors are fitted for steps={sampler.steps} "
            f"(fitted: {known}); run `unclip fit-variance` on the prior's artifact"
        )
    return torch.tensor(found, dtype=torch.float64)


def load_prior(path: Path | str, clip: FrozenClip) -> Part:
    """A prior of either kind; one that was trained with another CLIP is refused."""
    artifact = artifacts.expect(artifacts.describe(path, key="prior"), PRIORS, key="prior")
    artifacts.check_embedding(artifact, clip, key="prior")
    if artifact.stage == "ar_prior":
        config = artifact.section("model", ArPriorConfig)
        if config.codes is None or config.buckets is None:
            raise UserError(f"{artifact.path / 'config.yaml'}: model.codes and model.buckets unset")
        empty = Codec.empty(clip.model.embed_dim, config.codes, config.buckets)
        ar = ArPrior(config, empty, clip.model.text_width)
        artifact.load_into(ar)
        sampler = artifact.section("sampler", ArSamplerConfig)
        return Part(ar, sampler, tokenize=Tokenizer(config.text.context))
    model = artifact.section("model", DiffusionPriorConfig)
    net = DiffusionPrior(model, clip.model.embed_dim, clip.model.text_width)
    artifact.load_into(net)
    return Part(
        net,
        artifact.section("sampler", PriorSamplerConfig),
        artifact.section("diffusion", DiffusionConfig),
        Tokenizer(model.context),
        artifact.errors(),
    )


def decoder_embedding(artifact: artifacts.Artifact) -> str:
    """Which of `EMBEDDINGS` a decoder takes: only one that takes z_i needs a prior."""
    if not artifact.section("model", DecoderConfig).use_z_i:
        return "none"
    found = artifact.config.get("embedding", "image")  # older ones do not say
    if found not in EMBEDDINGS:
        raise UserError(f"{artifact.path / 'config.yaml'}: embedding={found}: unknown")
    return found


def describe_decoder(path: Path | str) -> artifacts.Artifact:
    """A decoder's artifact, without its weights."""
    return artifacts.expect(artifacts.describe(path, key="decoder"), ("decoder",), key="decoder")


def load_decoder(path: Path | str, clip: FrozenClip) -> Part:
    """A decoder; one that was trained with another CLIP is refused."""
    artifact = describe_decoder(path)
    artifacts.check_embedding(artifact, clip, key="decoder")
    model = artifact.section("model", DecoderConfig)
    net = Decoder(model, clip.model.embed_dim)
    artifact.load_into(net)
    return Part(
        net,
        artifact.section("sampler", SamplerConfig),
        artifact.section("diffusion", DiffusionConfig),
        Tokenizer(model.text.context),
        embedding=decoder_embedding(artifact),
    )


def load_upsampler(path: Path | str) -> Part:
    """An upsampler; it knows no CLIP."""
    artifact = artifacts.expect(
        artifacts.describe(path, key="upsampler"), ("upsampler",), key="upsampler"
    )
    net = Upsampler(artifact.section("model", UpsamplerConfig))
    artifact.load_into(net)
    return Part(
        net,
        artifact.section("sampler", UpsamplerSamplerConfig),
        artifact.section("diffusion", DiffusionConfig),
    )
