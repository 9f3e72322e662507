"""Every field of an experiment file, by stage. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_modules.configs import DataConfig, EmbeddedDataConfig, UpsamplerDataConfig
from unclip.degradations.configs import CorruptionConfig
from unclip.diffusion.configs import DiffusionConfig, SamplerConfig, section_counts
from unclip.models.configs import (
    ArPriorConfig,
    ArSamplerConfig,
    ClipConfig,
    DecoderConfig,
    DiffusionPriorConfig,
    PcaConfig,
    PriorSamplerConfig,
    UpsamplerConfig,
    UpsamplerSamplerConfig,
    require,
)
from unclip.training.configs import (
    EmaConfig,
    OptimConfig,
    RunConfig,
    TrackingConfig,
    TrainerConfig,
)


def _fits(sampler: SamplerConfig, diffusion: DiffusionConfig) -> None:
    counts = section_counts(sampler.steps)
    require(
        max(counts) <= diffusion.steps // len(counts),
        "sampler.steps",
        f"{sampler.steps} does not fit into diffusion.steps={diffusion.steps}",
    )


def _probability(value: float, key: str) -> None:
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


@dataclass(kw_only=True)
class ClipExperiment(Experiment):
    """Contrastive training of a CLIP."""

    model: ClipConfig = field(default_factory=ClipConfig)
    data: DataConfig = field(default_factory=DataConfig)


@dataclass(kw_only=True)
class DiffusionPriorExperiment(Experiment):
    """The x0-predicting diffusion prior P(z_i | y)."""

    clip: str = "clip/tiny"  # experiment | artifact folder | open_clip:ARCH/TAG
    model: DiffusionPriorConfig = field(default_factory=DiffusionPriorConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sampler: PriorSamplerConfig = field(default_factory=PriorSamplerConfig)
    data: EmbeddedDataConfig = field(default_factory=EmbeddedDataConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    drop_text: float = 0.1  # share of samples trained without caption and z_t

    def validate(self) -> None:
        """Refuse values out of range."""
        super().validate()
        _fits(self.sampler, self.diffusion)
        _probability(self.drop_text, "drop_text")
        require(
            self.diffusion.variance != "learned_range",
            "diffusion.variance",
            "learned_range needs a network that outputs it; the prior's does not",
        )


@dataclass(kw_only=True)
class PcaExperiment(Experiment):
    """Principal components of a CLIP's image embeddings, and their buckets; nothing is trained."""

    clip: str = "clip/tiny"  # experiment | artifact folder | open_clip:ARCH/TAG
    pca: PcaConfig = field(default_factory=PcaConfig)
    data: EmbeddedDataConfig = field(default_factory=EmbeddedDataConfig)

    def validate(self) -> None:
        """Refuse a check of training."""
        super().validate()
        require(self.check == "none", "check", "must be none, nothing is trained here")


@dataclass(kw_only=True)
class ArPriorExperiment(Experiment):
    """The autoregressive prior P(z_i | y) over PCA codes."""

    clip: str = "clip/tiny"  # experiment | artifact folder | open_clip:ARCH/TAG
    pca: str = "pca/tiny"  # experiment | artifact folder
    model: ArPriorConfig = field(default_factory=ArPriorConfig)
    sampler: ArSamplerConfig = field(default_factory=ArSamplerConfig)
    data: EmbeddedDataConfig = field(default_factory=EmbeddedDataConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    drop_text: float = 0.1  # share of samples trained without caption and z_t

    def validate(self) -> None:
        """Refuse values out of range."""
        super().validate()
        _probability(self.drop_text, "drop_text")


@dataclass(kw_only=True)
class DecoderExperiment(Experiment):
    """The diffusion decoder P(x | z_i, y)."""

    clip: str = "clip/tiny"  # experiment | artifact folder | open_clip:ARCH/TAG
    model: DecoderConfig = field(default_factory=DecoderConfig)
    diffusion: DiffusionConfig = field(
        default_factory=lambda: DiffusionConfig(prediction="eps", variance="learned_range")
    )
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    data: EmbeddedDataConfig = field(default_factory=EmbeddedDataConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    embedding: str = "image"  # image (z_i) | text (z_t of the caption in the place of z_i)
    drop_z_i: float = 0.1  # share of samples whose z_i is dropped
    drop_caption: float = 0.5  # share of samples whose caption is dropped, independently
    noise_z_i: float = 0.0  # length of the noise added to z_i in training, 0 is the paper's

    def validate(self) -> None:
        """Refuse values out of range."""
        super().validate()
        _fits(self.sampler, self.diffusion)
        _probability(self.drop_z_i, "drop_z_i")
        _probability(self.drop_caption, "drop_caption")
        require(self.noise_z_i >= 0, "noise_z_i", "must not be negative")
        require(self.embedding in ("image", "text"), "embedding", "must be image or text")
        require(
            self.embedding == "image" or self.model.use_z_i,
            "embedding",
            "text needs model.use_z_i, the paths by which an embedding enters",
        )
        require(
            self.diffusion.variance == "learned_range",
            "diffusion.variance",
            "must be learned_range: the decoder outputs its variance",
        )


@dataclass(kw_only=True)
class UpsamplerExperiment(Experiment):
    """A diffusion upsampler P(x_high | x_low)."""

    model: UpsamplerConfig = field(default_factory=UpsamplerConfig)
    diffusion: DiffusionConfig = field(
        default_factory=lambda: DiffusionConfig(prediction="eps", variance="learned_range")
    )
    sampler: UpsamplerSamplerConfig = field(default_factory=UpsamplerSamplerConfig)
    data: UpsamplerDataConfig = field(default_factory=UpsamplerDataConfig)
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)

    def validate(self) -> None:
        """Refuse values out of range."""
        super().validate()
        _fits(self.sampler, self.diffusion)
        require(
            self.model.noise_levels <= self.diffusion.steps,
            "model.noise_levels",
            f"there are only diffusion.steps={self.diffusion.steps}",
        )
        require(
            self.sampler.noise_level < max(1, self.model.noise_levels),
            "sampler.noise_level",
            f"must be below model.noise_levels={self.model.noise_levels}",
        )
        crop = round(self.model.image_size * self.data.crop_fraction)
        factor = max(
            2 ** (len(self.model.unet.multiples) - 1), self.model.image_size // self.model.low_size
        )
        require(
            crop % factor == 0 and crop > 0,
            "data.crop_fraction",
            f"the training crop of {crop} px must be a multiple of {factor} "
            "(model.unet.multiples, model.image_size / model.low_size)",
        )
