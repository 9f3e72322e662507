"""Every field of a diffusion prior experiment. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from unclip.common.checks import require, require_choices
from unclip.data.config import EmbeddedDataConfig
from unclip.diffusion.config import DiffusionConfig, PriorSamplerName
from unclip.embeddings.config import Embeddings
from unclip.stages._prior.config import CandidatesConfig, fill_from_clip
from unclip.stages.experiment import (
    DiffusionExperiment,
    ParentSizes,
    require_probability,
    require_steps_fit,
    sample_plainly,
)


@dataclass(kw_only=True)
class DiffusionPriorConfig:
    """The causal transformer that predicts the unnoised image embedding."""

    embed_dim: int | None = None  # D; null takes the CLIP's
    embeddings: Embeddings | None = None  # unit (length 1) or raw; null takes the CLIP's
    caption: Literal["bpe", "clip"] = "bpe"  # own token table (the paper) or CLIP's token features
    clip_text_width: int | None = None  # width of CLIP's token features; null takes the CLIP's
    null_text: Literal["padding", "caption"] = "padding"  # a dropped text: nothing, or that of ""
    context: int = 256  # caption tokens; with caption=clip at most the CLIP's own
    vocabulary: int = 49408
    width: int = 2048
    layers: int = 24
    heads: int = 32
    dropout: float = 0.0
    standardise: bool = False  # x0 of unit variance by fitted buffers, instead of a common scale

    def validate(self) -> None:
        """Refuse shapes that no network can have."""
        require_choices(self, "model")
        require(self.width % self.heads == 0, "model.heads", f"does not divide width={self.width}")
        require(0 <= self.dropout < 1, "model.dropout", "must be in [0, 1)")


@dataclass(kw_only=True)
class PriorSamplerConfig(CandidatesConfig):
    """How embeddings are drawn from the diffusion prior."""

    # The analytic ones need what `unclip fit-variance` fits.
    sampler: PriorSamplerName = "ddim"  # type: ignore[assignment]


@dataclass(kw_only=True)
class DiffusionPriorExperiment(DiffusionExperiment):
    """The x0-predicting diffusion prior P(z_i | y)."""

    clip: str = "clip/tiny"  # experiment | artifact folder | open_clip:ARCH/TAG
    model: DiffusionPriorConfig = field(default_factory=DiffusionPriorConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sampler: PriorSamplerConfig = field(default_factory=PriorSamplerConfig)
    data: EmbeddedDataConfig = field(default_factory=EmbeddedDataConfig)
    drop_text: float = 0.1  # share of samples trained without caption and z_t

    def without_noise(self, *, steps: int) -> None:
        """See `Experiment.without_noise`."""
        self.drop_text = self.model.dropout = 0.0
        self.sampler.guidance, self.sampler.candidates = 1.0, 1
        sample_plainly(self.sampler, self.diffusion, steps=steps)

    def check_sampler(self, sampler: PriorSamplerConfig) -> None:
        """See `Experiment.check_sampler`."""
        require_steps_fit(sampler, self.diffusion)

    def validate(self) -> None:
        """Refuse values out of range."""
        super().validate()
        self.check_sampler(self.sampler)
        require_probability(self.drop_text, "drop_text")


EXPERIMENT, SAMPLER = DiffusionPriorExperiment, PriorSamplerConfig


def fill(experiment: DiffusionPriorExperiment, sizes: ParentSizes) -> None:
    """Set what the CLIP decides: D, and with caption=clip the width and length of its text."""
    model = experiment.model
    fill_from_clip(model, sizes)
    if model.caption == "clip" and sizes.context is not None:
        model.context = sizes.context


def filled_fields(experiment: DiffusionPriorExperiment) -> tuple[str, ...]:
    """The keys that `fill` sets."""
    names = ("model.embed_dim", "model.embeddings", "model.clip_text_width")
    return (*names, "model.context") if experiment.model.caption == "clip" else names
