"""The fitted PCA as the autoregressive prior uses it."""

from __future__ import annotations

from pathlib import Path

from unclip.common.artifacts import describe, expect
from unclip.common.errors import UserError
from unclip.embeddings.clip import FrozenClip, check_embedding
from unclip.embeddings.codec import Codec


def load_codec(path: Path | str, clip: FrozenClip) -> Codec:
    """The PCA codec of an artifact; one fitted to another CLIP's embeddings is refused."""
    artifact = expect(describe(path, key="pca"), ("pca",), key="pca")
    check_embedding(artifact, clip, key="pca")
    try:
        return Codec.from_tensors(artifact.weights())
    except ValueError as error:
        raise UserError(f"pca={path}: damaged artifact: {error}") from None
