"""What the configs of the two priors share. Imports no torch."""

from __future__ import annotations

from typing import Any

from unclip.stages.experiment import ParentSizes, fill_size


def fill_from_clip(model: Any, sizes: ParentSizes) -> None:
    """Set the sizes of a prior's network that its CLIP decides."""
    clip = f"the CLIP {sizes.clip}"
    fill_size(model, "embed_dim", sizes.embed_dim, parent=clip)
    if model.caption == "clip":
        fill_size(model, "clip_text_width", sizes.text_width, parent=clip)
