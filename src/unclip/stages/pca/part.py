"""The fitted PCA, from its artifact."""

from __future__ import annotations

from pathlib import Path

from unclip.common.artifacts import describe, expect
from unclip.common.errors import UserError
from unclip.embeddings.agreement import check_embedding
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.codec import Codec


def load(path: Path | str, clip: FrozenClip, *, key: str = "pca") -> Codec:
    """The codec; one fitted to another CLIP's embeddings is refused."""
    artifact = expect(describe(path, key=key), ("pca",), key=key)
    check_embedding(artifact, clip, key=key)
    try:
        return Codec.from_tensors(artifact.weights(), clip.model.embeddings)
    except ValueError as error:
        raise UserError(f"{key}={path}: damaged artifact: {error}") from None
