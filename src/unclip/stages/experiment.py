"""Every field of an experiment file, by stage. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from unclip.common.checks import require
from unclip.diffusion.config import DiffusionConfig, SamplerConfig, section_counts
from unclip.tracking.config import TrackingConfig
from unclip.training.config import OptimConfig, RunConfig, TrainerConfig


def require_steps_fit(sampler: SamplerConfig, diffusion: DiffusionConfig) -> None:
    counts = section_counts(sampler.steps)
    require(
        max(counts) <= diffusion.steps // len(counts),
        "sampler.steps",
        f"{sampler.steps} does not fit into diffusion.steps={diffusion.steps}",
    )


def require_probability(value: float, key: str) -> None:
    require(0 <= value <= 1, key, "must be in [0, 1]")


@dataclass(kw_only=True)
class Experiment:
    """Fields that every stage has."""

    stage: str = ""  # an entry of unclip.registry.STAGES
    about: str = ""  # what the experiment is for, in a line
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    check: str = "none"  # none | overfit: only see whether one small batch can be learned by heart

    def validate(self) -> None:
        """Refuse what the sections cannot see by themselves."""
        require(self.check in ("none", "overfit"), "check", "must be none or overfit")
        require(
            self.optim.name == "adamw" or self.trainer.strategy != "fsdp",
            "optim.name",
            "must be adamw with trainer.strategy=fsdp: Muon needs whole matrices",
        )
        require(
            self.optim.sam_rho == 0 or self.stage == "clip",
            "optim.sam_rho",
            "must be 0, only the stage clip is trained with SAM",
        )
