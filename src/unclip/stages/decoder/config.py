"""Every field of a decoder experiment. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from unclip.common.checks import require, require_choices
from unclip.data.config import EmbeddedDataConfig
from unclip.diffusion.config import GuidedSamplerConfig, ImageDiffusionConfig
from unclip.embeddings.config import Embeddings
from unclip.nn.config import TextEncoderConfig, UNetConfig
from unclip.stages.experiment import (
    DiffusionExperiment,
    ParentSizes,
    fill_embeddings,
    fill_size,
    require_probability,
    require_steps_fit,
    sample_plainly,
)
from unclip.training.config import EvaluationConfig


@dataclass(kw_only=True)
class DecoderConfig:
    """The 64 px diffusion decoder: GLIDE's U-Net with both CLIP paths."""

    image_size: int = 64  # pixels a side
    embed_dim: int | None = None  # D; null takes the CLIP's
    embeddings: Embeddings | None = None  # unit (length 1) or raw; null takes the CLIP's
    clip_tokens: int = 4  # extra context tokens made from z_i
    use_z_i: bool = True  # false: GLIDE, caption only
    use_caption: bool = True  # false: no caption
    caption: Literal["bpe", "clip"] = "bpe"  # own transformer (the paper) or CLIP's token features
    clip_text_width: int | None = None  # width of CLIP's token features; null takes the CLIP's
    context_mask: bool = False  # hide the caption's padding from the U-Net's attention
    null_text: Literal["padding", "caption"] = "padding"  # a dropped caption: nothing, or ""
    null_z_i: Literal["zeros", "learned"] = "zeros"  # what stands for a dropped z_i
    inpaint: bool = False  # four more input channels: what of the image is known (GLIDE)
    tokenizer: Literal["clip", "gpt2"] = "clip"  # of its own caption transformer; GLIDE: gpt2
    merges: str | None = None  # path of GPT-2's merges.txt (vocab.bpe), for gpt2
    unet: UNetConfig = field(default_factory=UNetConfig)
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)

    def validate(self) -> None:
        """Refuse shapes that no network can have."""
        self.unet.validate_for(self.image_size)
        if self.use_caption and self.caption == "bpe":
            self.text.validate()
        require_choices(self, "model")
        require(self.use_z_i or self.use_caption, "model.use_caption", "one condition must remain")
        if not self.use_caption:
            for name in ("caption", "context_mask", "null_text"):
                plain = getattr(self, name) == getattr(DecoderConfig, name)
                require(plain, f"model.{name}", "has no effect with model.use_caption=false")
        require(
            self.caption == "bpe" or self.context_mask,
            "model.context_mask",
            "must be true with model.caption=clip: CLIP's features of padding know the caption",
        )
        factor = 2 ** (len(self.unet.multiples) - 1)
        require(
            self.image_size % factor == 0,
            "model.image_size",
            f"{self.image_size} is not a multiple of {factor}, which model.unet.multiples needs",
        )


@dataclass(kw_only=True)
class DecoderExperiment(DiffusionExperiment):
    """The diffusion decoder P(x | z_i, y)."""

    clip: str = "clip/tiny"  # experiment | artifact folder | open_clip:ARCH/TAG
    model: DecoderConfig = field(default_factory=DecoderConfig)
    diffusion: ImageDiffusionConfig = field(default_factory=ImageDiffusionConfig)
    sampler: GuidedSamplerConfig = field(default_factory=GuidedSamplerConfig)
    data: EmbeddedDataConfig = field(default_factory=EmbeddedDataConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    embedding: Literal["image", "text"] = "image"  # text: z_t of the caption in place of z_i
    drop_z_i: float = 0.1  # share of samples whose z_i is dropped
    drop_caption: float = 0.5  # share of samples whose caption is dropped, independently
    noise_z_i: float = 0.0  # length of the noise added to z_i in training, 0 is the paper's

    def without_noise(self, *, steps: int) -> None:
        """See `Experiment.without_noise`."""
        self.drop_z_i = self.drop_caption = self.model.unet.dropout = 0.0
        self.sampler.guidance = 1.0
        sample_plainly(self.sampler, self.diffusion, steps=steps)

    @property
    def evaluated(self) -> EvaluationConfig | None:
        """See `Experiment.evaluated`."""
        return self.evaluation if self.evaluation.every else None

    def check_sampler(self, sampler: GuidedSamplerConfig) -> None:
        """See `Experiment.check_sampler`."""
        require_steps_fit(sampler, self.diffusion)

    def validate(self) -> None:
        """Refuse values out of range."""
        super().validate()
        self.check_sampler(self.sampler)
        require_probability(self.drop_z_i, "drop_z_i")
        require_probability(self.drop_caption, "drop_caption")
        require(self.noise_z_i >= 0, "noise_z_i", "must not be negative")
        require(
            self.embedding == "image" or self.model.use_z_i,
            "embedding",
            "text needs model.use_z_i, the paths by which an embedding enters",
        )


EXPERIMENT, SAMPLER = DecoderExperiment, GuidedSamplerConfig


def fill(experiment: DecoderExperiment, sizes: ParentSizes) -> None:
    """Set what the CLIP decides: D, the kind of embeddings and, if it reads captions, its width."""
    model, clip = experiment.model, f"the CLIP {sizes.clip}"
    fill_size(model, "embed_dim", sizes.embed_dim, parent=clip)
    fill_embeddings(model, sizes)
    if model.caption == "clip":
        fill_size(model, "clip_text_width", sizes.text_width, parent=clip)


def filled_fields(experiment: DecoderExperiment) -> tuple[str, ...]:
    """The keys that `fill` sets."""
    return ("model.embed_dim", "model.embeddings", "model.clip_text_width")
