"""Whether embeddings keep CLIP's lengths, as configs say it. Imports no torch."""

from __future__ import annotations

from typing import Literal

Embeddings = Literal["unit", "raw"]
"""``unit`` embeddings are CLIP's projections divided by their lengths: this project's convention.

``raw`` ones are the projections as they are, which Karlo and Kandinsky were trained on. What
follows from it is in `unclip.embeddings.lengths`.
"""
UNIT: Embeddings = "unit"
RAW: Embeddings = "raw"
