"""The caption of a prior's simulated step."""

from __future__ import annotations

from unclip.common.types import Caption
from unclip.stages.interface import Given, Share, all_kept, some_tokens


def some_caption(kind: str, length: int, given: Given, share: Share) -> Caption:
    """Own tokens of ``length``, or what the CLIP made of its own, as ``model.caption`` says."""
    if kind == "bpe":
        return Caption(some_tokens(share.batch, length), None, all_kept(share.batch, length))
    assert given.text is not None
    return Caption(None, given.text.tokens, given.text.mask)
