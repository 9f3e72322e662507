"""Every field of a toy prior experiment. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from unclip.common.checks import require
from unclip.data.config import EmbeddedDataConfig
from unclip.stages._prior.config import fill_from_clip
from unclip.stages.experiment import Experiment, ParentSizes


@dataclass(kw_only=True)
class ToyPriorConfig:
    """A linear map."""

    # What a prior's network reads of the caption: its own tokens (bpe), or the frozen CLIP's token
    # features (clip). `_prior` asks every prior; this one has no choice, so it is no field.
    caption: ClassVar[str] = "bpe"

    embed_dim: int | None = None  # D, filled in from the CLIP
    bias: bool = True  # of the map

    def validate(self) -> None:
        """Everything goes."""


@dataclass(kw_only=True)
class ToySamplerConfig:
    """Noise on the result."""

    noise: float = 0.1

    def validate(self) -> None:
        """Refuse values out of range."""
        require(self.noise >= 0, "sampler.noise", "must not be negative")


@dataclass(kw_only=True)
class ToyPriorExperiment(Experiment):
    """A linear prior."""

    clip: str = "clip/tiny"
    model: ToyPriorConfig = field(default_factory=ToyPriorConfig)
    sampler: ToySamplerConfig = field(default_factory=ToySamplerConfig)
    data: EmbeddedDataConfig = field(default_factory=EmbeddedDataConfig)

    def without_noise(self, *, steps: int) -> None:
        """See `Experiment.without_noise`."""
        self.sampler.noise = 0.0


EXPERIMENT, SAMPLER = ToyPriorExperiment, ToySamplerConfig


def fill(experiment: ToyPriorExperiment, sizes: ParentSizes) -> None:
    """Set D."""
    fill_from_clip(experiment.model, sizes)


def filled_fields(experiment: ToyPriorExperiment) -> tuple[str, ...]:
    """D."""
    return ("model.embed_dim",)
