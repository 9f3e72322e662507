"""CLIP's byte-pair tokens and the mask of the real ones."""

from __future__ import annotations

import functools

import open_clip
from torch import Tensor

VOCABULARY = 49408  # of open_clip's byte pairs
END_OF_TEXT = 49407


class Tokenizer:
    """open_clip's byte-pair tokenizer at a fixed length; picklable, for loader workers."""

    def __init__(self, context: int):
        self.context = context
        self._bpe = _byte_pairs()

    def __call__(self, captions: list[str]) -> Tensor:
        """Tokens ``[B, context]`` int64: start, caption, end, then zeros; long captions are cut."""
        return self._bpe(captions, context_length=self.context)

    def count(self, caption: str) -> int:
        """Tokens of the whole caption, start and end included: more than ``context`` are cut."""
        return len(self._bpe.encode(caption)) + 2


@functools.cache
def _byte_pairs() -> open_clip.SimpleTokenizer:
    """One for all lengths, because reading its vocabulary takes a while."""
    return open_clip.SimpleTokenizer()


def token_mask(tokens: Tensor) -> Tensor:
    """Mask ``[B, L]``, True up to and including the end-of-text token (0 is also a real token)."""
    ended = (tokens == END_OF_TEXT).long().cumsum(dim=1)
    return (ended == 0) | ((tokens == END_OF_TEXT) & (ended == 1))
