"""Whether a trained stage and a CLIP go together."""

from __future__ import annotations

from unclip.common.artifacts import Artifact
from unclip.common.errors import UserError
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.words import learn_from


def check_embedding(artifact: Artifact, clip: FrozenClip | None, *, key: str) -> None:
    """Refuse a stage without its CLIP, of another CLIP's embeddings, or of the other kind.

    A stage whose run taught the CLIP a word teaches it again.
    """
    if clip is None:
        raise UserError(
            f"{key}={artifact.path}: depends on a CLIP, and clip is missing; add the one that it "
            "was trained with"
        )
    if artifact.embed_dim is not None and artifact.embed_dim != clip.model.embed_dim:
        raise UserError(
            f"{key}={artifact.path}: embedding size {artifact.embed_dim}, but the CLIP "
            f"{clip.source} has {clip.model.embed_dim}; use the CLIP it was trained with"
        )
    if artifact.clip_fingerprint not in (None, clip.fingerprint):
        raise UserError(
            f"{key}={artifact.path}: trained on the embeddings of another CLIP "
            f"({str(artifact.clip_fingerprint)[:12]}) than {clip.source} "
            f"({clip.fingerprint[:12]}); use the CLIP it was trained with"
        )
    clip.agree(artifact.embeddings, where=f"{key}={artifact.path}")
    learn_from(artifact, clip.model)
