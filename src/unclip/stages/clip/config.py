"""Every field of a CLIP experiment. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from unclip.common.checks import require, require_choices
from unclip.common.counted import counted
from unclip.data.config import DataConfig
from unclip.embeddings.config import Embeddings
from unclip.stages.experiment import Experiment, ParentSizes
from unclip.training.config import SamOptimConfig


@dataclass(kw_only=True)
class ClipConfig:
    """A CLIP of our own, built as an open_clip model."""

    GONE: ClassVar[dict[str, str]] = {"vocabulary": "it is the tokenizer's"}

    embed_dim: int = 1024  # D
    embeddings: Embeddings = "unit"  # raw: the stages after it get projections with their lengths
    image_size: int = 256  # pixels a side
    vision: Literal["vit", "resnet", "none"] = "vit"  # resnet: CLIP's; none: imported, text alone
    patch_size: int = 16  # pixels a side (vit)
    vision_stages: list[int] = field(default_factory=lambda: [3, 4, 6, 3])  # blocks (resnet)
    vision_width: int = 1280
    vision_layers: int = 32
    vision_head_width: int = 80  # channels per attention head
    vision_mlp: int | None = None  # width of the MLPs (vit); null is four times vision_width
    context: int = 77  # tokens, start and end included
    text_width: int = 1024
    text_layers: int = 24
    text_heads: int = 16
    quick_gelu: bool = False  # x sigmoid(1.702 x) for GELU, as in OpenAI's weights

    def validate(self) -> None:
        """Refuse shapes that no network can have."""
        resnet = self.vision == "resnet"
        require_choices(self, "model")
        require(len(self.vision_stages) == 4, "model.vision_stages", "must be four counts")
        require(
            not resnet or self.image_size % 32 == 0,
            "model.image_size",
            f"{self.image_size} is not a multiple of 32, by which a resnet reduces it",
        )
        require(
            self.vision != "vit" or self.image_size % self.patch_size == 0,
            "model.image_size",
            f"{self.image_size} is not a multiple of model.patch_size={self.patch_size}",
        )
        require(
            self.vision_width * (32 if resnet else 1) % self.vision_head_width == 0,
            "model.vision_head_width",
            f"does not divide the width of the attention, {self.vision_width}"
            + (" * 32" if resnet else ""),
        )
        require(
            self.text_width % self.text_heads == 0,
            "model.text_heads",
            f"does not divide model.text_width={self.text_width}",
        )


@dataclass(kw_only=True)
class ClipExperiment(Experiment):
    """Contrastive training of a CLIP."""

    model: ClipConfig = field(default_factory=ClipConfig)
    optim: SamOptimConfig = field(default_factory=SamOptimConfig)  # type: ignore[assignment]
    data: DataConfig = field(default_factory=DataConfig)

    def validate(self) -> None:
        """Refuse what the sections cannot see by themselves."""
        super().validate()
        require(self.model.vision != "none", "model.vision", "none is for imported weights alone")
        require(
            self.data.batch_size >= 2, "data.batch_size", "must be at least 2: samples contrast"
        )
        trainer = self.trainer
        require(
            self.optim.sam_rho == 0 or trainer.precision in ("32", "bf16-mixed"),
            "optim.sam_rho",
            f"needs trainer.precision=bf16-mixed or 32: the climb's gradients would be lost in "
            f"{trainer.precision}",
        )
        split = f"{counted(trainer.processes, 'process')} x trainer.accumulate={trainer.accumulate}"
        require(
            self.model.vision != "resnet"
            or self.data.batch_size >= 2 * trainer.processes * trainer.accumulate,
            "data.batch_size",
            f"leaves one sample at a time ({split}), but the batch normalisation of "
            "model.vision=resnet needs two",
        )


EXPERIMENT, SAMPLER = ClipExperiment, None


def fill(experiment: ClipExperiment, sizes: ParentSizes) -> None:
    """It has no parents."""


def filled_fields(experiment: ClipExperiment) -> tuple[str, ...]:
    """None."""
    return ()
