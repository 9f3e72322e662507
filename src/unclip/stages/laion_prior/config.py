"""Every field of an experiment of LAION's diffusion prior. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from unclip.common.checks import require, require_choices
from unclip.data.config import EmbeddedDataConfig
from unclip.diffusion.config import DiffusionConfig
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
class LaionPriorConfig:
    """The causal transformer, as wide as the embedding; defaults are those of LAION's weights."""

    caption: ClassVar[str] = "clip"  # it reads CLIP's token features
    null_text: ClassVar[str] = "padding"  # learned vectors stand for a dropped text

    embed_dim: int | None = None  # D, and the network's width; null takes the CLIP's
    embeddings: Embeddings | None = None  # unit (length 1) or raw; null takes the CLIP's
    clip_text_width: int | None = None  # width of CLIP's token features; null takes the CLIP's
    context: int = 256  # words in the sequence; CLIP's are filled up by learned vectors, or cut
    layers: int = 24
    heads: int = 32
    head_channels: int = 64
    mlp_ratio: int = 4  # hidden units of an MLP, in widths
    dropout: float = 0.0  # of the hidden units
    norm_in: bool = False  # a norm before the first block
    norm_out: bool = True  # a norm after the last block
    project_out: bool = True  # a linear layer after that
    normformer: bool = True  # a norm of the hidden units
    rotary: bool = True  # rotary positions beside the bias by distance

    def validate(self) -> None:
        """Refuse shapes that no network can have."""
        require_choices(self, "model")
        require(self.head_channels % 2 == 0, "model.head_channels", "must be even")
        require(0 <= self.dropout < 1, "model.dropout", "must be in [0, 1)")


@dataclass(kw_only=True)
class LaionPriorExperiment(DiffusionExperiment):
    """P(z_i | y) by LAION's network."""

    clip: str = "clip/tiny"  # experiment | artifact folder | open_clip:ARCH/TAG
    model: LaionPriorConfig = field(default_factory=LaionPriorConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sampler: CandidatesConfig = field(default_factory=CandidatesConfig)
    data: EmbeddedDataConfig = field(default_factory=EmbeddedDataConfig)
    drop_text: float = 0.1  # share of samples trained without caption and z_t
    drop_x_t: float = 0.1  # share of samples trained without the noised embedding

    def without_noise(self, *, steps: int) -> None:
        """See `Experiment.without_noise`."""
        self.drop_text = self.drop_x_t = self.model.dropout = 0.0
        self.sampler.guidance, self.sampler.candidates = 1.0, 1
        sample_plainly(self.sampler, self.diffusion, steps=steps)

    def check_sampler(self, sampler: CandidatesConfig) -> None:
        """See `Experiment.check_sampler`."""
        require_steps_fit(sampler, self.diffusion)

    def validate(self) -> None:
        """Refuse values out of range."""
        super().validate()
        self.check_sampler(self.sampler)
        require_probability(self.drop_text, "drop_text")
        require_probability(self.drop_x_t, "drop_x_t")


EXPERIMENT, SAMPLER = LaionPriorExperiment, CandidatesConfig


def fill(experiment: LaionPriorExperiment, sizes: ParentSizes) -> None:
    """Set what the CLIP decides: D and the width of its text."""
    fill_from_clip(experiment.model, sizes)


def filled_fields(experiment: LaionPriorExperiment) -> tuple[str, ...]:
    """The keys that `fill` sets."""
    return ("model.embed_dim", "model.embeddings", "model.clip_text_width")
