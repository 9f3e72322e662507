"""Every field of an autoregressive prior experiment. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from unclip.common.checks import require, require_choices
from unclip.data.config import EmbeddedDataConfig
from unclip.embeddings.config import Embeddings
from unclip.nn.config import TextEncoderConfig
from unclip.stages._prior.config import fill_from_clip
from unclip.stages.experiment import AveragedExperiment, ParentSizes, fill_size, require_probability


@dataclass(kw_only=True)
class ArPriorConfig:
    """The causal transformer over the PCA codes of the image embedding."""

    embed_dim: int | None = None  # D; null takes the PCA's
    embeddings: Embeddings | None = None  # unit (length 1) or raw; null takes the CLIP's
    caption: Literal["bpe", "clip"] = "bpe"  # own encoder (the paper) or CLIP's token features
    clip_text_width: int | None = None  # width of CLIP's token features; null takes the CLIP's
    null_text: Literal["padding", "caption"] = "padding"  # a dropped text: nothing, or that of ""
    codes: int | None = None  # K, components that are kept; null takes the PCA's
    buckets: int | None = None  # N per component; null takes the PCA's
    context: int = 384  # positions: z_t, the dot product and the codes
    width: int = 1664
    layers: int = 24
    heads: int = 26
    dropout: float = 0.0
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)  # of caption=bpe

    def validate(self) -> None:
        """Refuse shapes that no network can have."""
        self.text.validate()
        require_choices(self, "model")
        require(self.width % self.heads == 0, "model.heads", f"does not divide width={self.width}")
        require(0 <= self.dropout < 1, "model.dropout", "must be in [0, 1)")
        require(
            self.codes is None or self.codes + 2 <= self.context,
            "model.context",
            f"{self.context} cannot hold {self.codes} codes of the PCA, z_t and the dot product: "
            f"take a PCA of fewer components (pca/paper), or model.context={2 + (self.codes or 0)}",
        )


@dataclass(kw_only=True)
class ArSamplerConfig:
    """How embeddings are drawn from an autoregressive prior."""

    temperature: float = 1.0  # of the logits; 0 takes the likeliest code
    top_k: int = 0  # only among so many likeliest codes; 0 = all
    top_p: float = 1.0  # only among the fewest codes that hold this probability
    guidance: float = 1.0  # classifier-free guidance scale s on the logits; 1 is none
    dot_percentile: float = 50.0  # z_i . z_t is drawn from above it (the paper's best of 50 to 95)
    candidates: int = 1  # drawn per caption; the one with the highest z_i . z_t is kept

    def validate(self) -> None:
        """Refuse values out of range."""
        for name in ("temperature", "guidance"):
            require(0 <= getattr(self, name) <= 1000, f"sampler.{name}", "must be in [0, 1000]")
        require(self.top_k >= 0, "sampler.top_k", "must not be negative")
        require(0 < self.top_p <= 1, "sampler.top_p", "must be in (0, 1]")
        require(0 <= self.dot_percentile < 100, "sampler.dot_percentile", "must be in [0, 100)")
        require(1 <= self.candidates <= 1000, "sampler.candidates", "must be in [1, 1000]")


@dataclass(kw_only=True)
class ArPriorExperiment(AveragedExperiment):
    """The autoregressive prior P(z_i | y) over PCA codes."""

    clip: str = "clip/tiny"  # experiment | artifact folder | open_clip:ARCH/TAG
    pca: str = "pca/tiny"  # experiment | artifact folder
    model: ArPriorConfig = field(default_factory=ArPriorConfig)
    sampler: ArSamplerConfig = field(default_factory=ArSamplerConfig)
    data: EmbeddedDataConfig = field(default_factory=EmbeddedDataConfig)
    drop_text: float = 0.1  # share of samples trained without caption and z_t

    def without_noise(self, *, steps: int) -> None:
        """See `Experiment.without_noise`."""
        self.drop_text = self.model.dropout = 0.0
        self.sampler.temperature, self.sampler.guidance, self.sampler.candidates = 0.0, 1.0, 1

    def validate(self) -> None:
        """Refuse values out of range."""
        super().validate()
        require_probability(self.drop_text, "drop_text")


EXPERIMENT, SAMPLER = ArPriorExperiment, ArSamplerConfig


def fill(experiment: ArPriorExperiment, sizes: ParentSizes) -> None:
    """Set what the CLIP and the PCA decide."""
    model = experiment.model
    fill_from_clip(model, sizes)
    if sizes.codes is not None:
        fill_size(model, "codes", sizes.codes, parent=sizes.pca)
        fill_size(model, "buckets", sizes.buckets, parent=sizes.pca)
    model.validate()


def filled_fields(experiment: ArPriorExperiment) -> tuple[str, ...]:
    """The keys that `fill` sets."""
    names = ("embed_dim", "embeddings", "clip_text_width", "codes", "buckets")
    return tuple(f"model.{name}" for name in names)
