"""What the configs of the two priors share. Imports no torch."""

from __future__ import annotations

from typing import Any

from unclip.stages.experiment import ParentSizes, fill_embeddings, fill_size


def fill_from_clip(model: Any, sizes: ParentSizes) -> None:
    """Set what of a prior's network its CLIP decides."""
    clip = f"the CLIP {sizes.clip}"
    fill_size(model, "embed_dim", sizes.embed_dim, parent=clip)
    fill_embeddings(model, sizes)
    if model.caption == "clip":
        fill_size(model, "clip_text_width", sizes.text_width, parent=clip)
