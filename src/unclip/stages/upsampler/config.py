"""Every field of an upsampler experiment. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from unclip.common.checks import require, require_choices
from unclip.data.config import UpsamplerDataConfig
from unclip.degradations.config import CorruptionConfig
from unclip.diffusion.config import ImageDiffusionConfig, SamplerConfig
from unclip.nn.config import ConvUNetConfig, TextEncoderConfig
from unclip.stages.experiment import (
    DiffusionExperiment,
    ParentSizes,
    require_probability,
    require_steps_fit,
    sample_plainly,
)
from unclip.training.config import EvaluationConfig


@dataclass(kw_only=True)
class UpsamplerConfig:
    """An ADM U-Net conditioned on a low-resolution image, and on a caption if asked (GLIDE)."""

    image_size: int = 256  # pixels a side of the result
    low_size: int = 64  # pixels a side of the condition
    noise_levels: int = 0  # noise the condition to a timestep below this and tell it; 0 = never
    last_step: bool = False  # a second network for t = 0 alone, as Karlo has
    enlarge: Literal["bicubic", "bilinear"] = "bicubic"  # the condition; GLIDE: bilinear
    low_8_bit: bool = False  # round the condition to 8 bits, as GLIDE
    use_caption: bool = False  # a caption transformer, as GLIDE; needs unet.attention
    inpaint: bool = False  # four more input channels: what of the image is known (GLIDE)
    tokenizer: Literal["clip", "gpt2"] = "clip"  # of its own caption transformer; GLIDE: gpt2
    merges: str | None = None  # path of GPT-2's merges.txt (vocab.bpe), for gpt2
    unet: ConvUNetConfig = field(default_factory=ConvUNetConfig)
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)

    def validate(self) -> None:
        """Refuse shapes that no network can have."""
        require_choices(self, "model")
        self.unet.validate_for(self.image_size)
        if self.use_caption:
            self.text.validate()
            require(
                len(self.unet.attention) > 0,
                "model.unet.attention",
                "must not be empty with model.use_caption=true: captions are attended to",
            )
        require(self.noise_levels >= 0, "model.noise_levels", "must not be negative")
        require(
            self.image_size % self.low_size == 0 and self.image_size > self.low_size,
            "model.low_size",
            f"{self.low_size} must divide model.image_size={self.image_size}",
        )


@dataclass(kw_only=True)
class UpsamplerSamplerConfig(SamplerConfig):
    """How images are sampled from an upsampler: without guidance."""

    GONE: ClassVar[dict[str, str]] = {"guidance": "an upsampler has none"}

    noise_level: int = 0  # timestep to which the condition is noised (model.noise_levels)
    start_scale: float = 1.0  # x_T is multiplied by it; GLIDE: 0.997

    def validate(self) -> None:
        """Refuse values out of range."""
        super().validate()
        require(self.noise_level >= 0, "sampler.noise_level", "must not be negative")
        require(0 < self.start_scale <= 2, "sampler.start_scale", "must be in (0, 2]")


def check_sampler(
    sampler: UpsamplerSamplerConfig, diffusion: ImageDiffusionConfig, model: UpsamplerConfig
) -> None:
    """Refuse more steps than the chain has, and a level of noise that the network lacks."""
    require_steps_fit(sampler, diffusion)
    levels = model.noise_levels
    require(
        sampler.noise_level < max(1, levels),
        "sampler.noise_level",
        f"{sampler.noise_level} must be below model.noise_levels={levels}"
        if levels
        else f"{sampler.noise_level} must be 0: this upsampler has no model.noise_levels",
    )


@dataclass(kw_only=True)
class UpsamplerExperiment(DiffusionExperiment):
    """A diffusion upsampler P(x_high | x_low)."""

    model: UpsamplerConfig = field(default_factory=UpsamplerConfig)
    diffusion: ImageDiffusionConfig = field(default_factory=ImageDiffusionConfig)
    sampler: UpsamplerSamplerConfig = field(default_factory=UpsamplerSamplerConfig)
    data: UpsamplerDataConfig = field(default_factory=UpsamplerDataConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)
    drop_caption: float = 0.0  # share of samples whose caption is dropped

    def without_noise(self, *, steps: int) -> None:
        """See `Experiment.without_noise`."""
        self.model.unet.dropout = self.drop_caption = 0.0
        self.corruption.kind = "none"
        sample_plainly(self.sampler, self.diffusion, steps=steps)

    @property
    def evaluated(self) -> EvaluationConfig | None:
        """See `Experiment.evaluated`."""
        return self.evaluation if self.evaluation.every else None

    def check_sampler(self, sampler: UpsamplerSamplerConfig) -> None:
        """See `Experiment.check_sampler`."""
        check_sampler(sampler, self.diffusion, self.model)

    def validate(self) -> None:
        """Refuse values out of range."""
        super().validate()
        self.check_sampler(self.sampler)
        require(
            self.model.noise_levels <= self.diffusion.steps,
            "model.noise_levels",
            f"there are only diffusion.steps={self.diffusion.steps}",
        )
        require_probability(self.drop_caption, "drop_caption")
        require(
            self.drop_caption == 0 or self.model.use_caption,
            "drop_caption",
            "has no effect with model.use_caption=false",
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


EXPERIMENT, SAMPLER = UpsamplerExperiment, UpsamplerSamplerConfig


def fill(experiment: UpsamplerExperiment, sizes: ParentSizes) -> None:
    """It has no parents."""


def filled_fields(experiment: UpsamplerExperiment) -> tuple[str, ...]:
    """None."""
    return ()
