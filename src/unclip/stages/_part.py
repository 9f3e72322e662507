"""Trained stages as the pipeline and the evaluations use them, loaded from their artifacts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.common.seeding import SampleNoise
from unclip.common.types import Progress
from unclip.diffusion.config import DiffusionConfig, SamplerConfig
from unclip.diffusion.samplers import ANALYTIC
from unclip.diffusion.schedules import sampling_timesteps
from unclip.embeddings.clip import Clip, FrozenClip, check_embedding
from unclip.embeddings.codec import Codec
from unclip.embeddings.tokens import Tokenizer
from unclip.stages._prior.sampling import prior_caption
from unclip.stages.ar_prior.config import ArPriorConfig, ArSamplerConfig
from unclip.stages.ar_prior.network import ArPrior
from unclip.stages.ar_prior.sampling import sample_ar_prior
from unclip.stages.diffusion_prior.config import DiffusionPriorConfig, PriorSamplerConfig
from unclip.stages.diffusion_prior.network import DiffusionPrior
from unclip.stages.diffusion_prior.sampling import sample_prior

PRIORS = ("ar_prior", "diffusion_prior")


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
    check_embedding(artifact, clip, key="prior")
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
