"""CLIP's byte-pair tokens and the mask of the real ones."""

from __future__ import annotations

import functools
import re

import open_clip
import torch
from torch import Tensor

VOCABULARY = 49408  # of open_clip's byte pairs
END_OF_TEXT = 49407


class Tokenizer:
    """open_clip's byte-pair tokenizer at a fixed length; picklable, for loader workers.

    ``words`` are those that a CLIP learned later (`unclip.embeddings.words`), with their tokens,
    which are below zero.
    """

    def __init__(self, context: int):
        self.context = context
        self.words: dict[str, list[int]] = {}
        self._bpe = _byte_pairs()

    def __call__(self, captions: list[str]) -> Tensor:
        """Tokens ``[B, context]`` int64: start, caption, end, then zeros; long captions are cut."""
        tokens = self._bpe(captions, context_length=self.context)
        for row, caption in zip(tokens, captions) if self.words else ():
            found = [self._bpe.sot_token_id, *self.pieces(caption), END_OF_TEXT]
            if min(found) < 0:
                found[self.context :] = []
                found[-1] = END_OF_TEXT
                row[:] = torch.tensor(found + [0] * (self.context - len(found)))
        return tokens

    def count(self, caption: str) -> int:
        """Tokens of the whole caption, start and end included: more than ``context`` are cut."""
        return len(self.pieces(caption)) + 2

    def pieces(self, caption: str) -> list[int]:
        """Tokens of the whole caption, without start and end."""
        if not self.words:
            return self._bpe.encode(caption)
        found: list[int] = []
        longest_first = sorted(self.words, key=len, reverse=True)
        for part in re.split(f"({'|'.join(map(_alone, longest_first))})", self.clean(caption)):
            found += self.words.get(part) or self._bpe.encode(part)
        return found

    def clean(self, text: str) -> str:
        """As it is read: in small letters, with single spaces."""
        return str(self._bpe.clean_fn(text))


def _alone(word: str) -> str:
    """A pattern for ``word`` where it is not a part of a longer one."""
    first, last = (r"\b" if re.match(r"\w", word[end]) else "" for end in (0, -1))
    return first + re.escape(word) + last


@functools.cache
def _byte_pairs() -> open_clip.SimpleTokenizer:
    """One for all lengths, because reading its vocabulary takes a while."""
    return open_clip.SimpleTokenizer()


def token_mask(tokens: Tensor) -> Tensor:
    """Mask ``[B, L]``, True up to and including the end-of-text token (0 is also a real token)."""
    ended = (tokens == END_OF_TEXT).long().cumsum(dim=1)
    return (ended == 0) | ((tokens == END_OF_TEXT) & (ended == 1))
