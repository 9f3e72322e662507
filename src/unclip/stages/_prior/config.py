"""What the configs of the priors share. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unclip.common.checks import require
from unclip.diffusion.config import GuidedSamplerConfig
from unclip.stages.experiment import ParentSizes, fill_embeddings, fill_size


@dataclass(kw_only=True)
class CandidatesConfig(GuidedSamplerConfig):
    """How embeddings are drawn from a prior that diffuses them."""

    candidates: int = 2  # drawn per caption; the one with the highest z_i . z_t is kept

    def validate(self) -> None:
        """Refuse values out of range."""
        super().validate()
        require(1 <= self.candidates <= 1000, "sampler.candidates", "must be in [1, 1000]")


def fill_from_clip(model: Any, sizes: ParentSizes) -> None:
    """Set what of a prior's network its CLIP decides."""
    clip = f"the CLIP {sizes.clip}"
    fill_size(model, "embed_dim", sizes.embed_dim, parent=clip)
    fill_embeddings(model, sizes)
    if model.caption == "clip":
        fill_size(model, "clip_text_width", sizes.text_width, parent=clip)
