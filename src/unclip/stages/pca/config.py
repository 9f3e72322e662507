"""Every field of a PCA experiment. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from unclip.common.checks import require, require_choices
from unclip.common.errors import UserError
from unclip.data.config import PassDataConfig
from unclip.embeddings.config import Embeddings
from unclip.stages.experiment import BaseExperiment, ParentSizes, fill_embeddings
from unclip.training.config import FitConfig


@dataclass(kw_only=True)
class PcaConfig:
    """The principal components of image embeddings and the buckets of their codes."""

    embeddings: Embeddings | None = None  # unit (length 1) or raw; null takes the CLIP's
    components: int | None = 319  # K (the paper); null chooses it by max_error
    max_error: float | None = None  # share of variance that may be lost, for example 0.01
    buckets: int = 1024  # N per component
    edges: Literal["quantile", "uniform"] = "quantile"  # equally filled or wide; paper is silent
    samples: int | None = None  # training samples that are used; null = all
    reservoir: int = 65_536  # embeddings kept in memory for the buckets' edges
    precision: Literal["32", "tf32", "bf16", "fp16"] = "32"  # of the CLIP; statistics are not in it

    def validate(self) -> None:
        """Refuse values out of range."""
        both = (self.components is None) != (self.max_error is None)
        require(both, "pca.components", "give either this or pca.max_error, the other null")
        require(
            self.components is None or self.components >= 1, "pca.components", "must be at least 1"
        )
        require(
            self.max_error is None or 0 < self.max_error < 1, "pca.max_error", "must be in (0, 1)"
        )
        require(self.buckets >= 2, "pca.buckets", "must be at least 2")
        require_choices(self, "pca")
        require(self.samples is None or self.samples > 0, "pca.samples", "must be positive")
        require(self.reservoir >= 2, "pca.reservoir", "must be at least 2")


@dataclass(kw_only=True)
class PcaExperiment(BaseExperiment):
    """Principal components of a CLIP's image embeddings, and their buckets; nothing is trained."""

    GONE: ClassVar[dict[str, str]] = {**BaseExperiment.GONE, "optim": "nothing is trained here"}

    clip: str = "clip/tiny"  # experiment | artifact folder | open_clip:ARCH/TAG
    pca: PcaConfig = field(default_factory=PcaConfig)
    data: PassDataConfig = field(default_factory=PassDataConfig)
    trainer: FitConfig = field(default_factory=FitConfig)

    def validate(self) -> None:
        """Refuse values out of range."""
        super().validate()
        require(
            self.pca.precision == "32" or self.data.embeddings is None,
            "pca.precision",
            "data.embeddings are made already; give their precision to `unclip embed`",
        )


EXPERIMENT, SAMPLER = PcaExperiment, None


def fill(experiment: PcaExperiment, sizes: ParentSizes) -> None:
    """Set the kind of embeddings; its components are chosen when it is fitted.

    Raises:
        UserError: more components than the embedding has.
    """
    fill_embeddings(experiment.pca, sizes, section="pca")
    components, dim = experiment.pca.components, sizes.embed_dim
    if components is not None and dim is not None and components > dim:
        raise UserError(
            f"pca.components={components}: the CLIP {sizes.clip} has embeddings of {dim} numbers; "
            f"give at most {dim}"
        )


def filled_fields(experiment: PcaExperiment) -> tuple[str, ...]:
    """The keys that `fill` sets."""
    return ("pca.embeddings",)
