"""The judges by name."""

from __future__ import annotations

from collections.abc import Callable

from unclip.reproduction.judges import (
    drawing,
    embeddings,
    images,
    photographs,
    rank,
    rebuilding,
    words,
)
from unclip.reproduction.judges.judge import Inputs, Measured

JUDGES: dict[str, Callable[[Inputs], Measured]] = {
    "drawing": drawing.measure,
    "embeddings": embeddings.measure,
    "rank": rank.measure,
    "variations": images.variations,
    "edits": images.edits,
    "components": images.components,
    "interpolations": images.interpolations,
    "words": words.measure,
    "rebuilding": rebuilding.measure,
    "photographs": photographs.measure,
}
