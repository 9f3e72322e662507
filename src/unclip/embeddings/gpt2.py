"""GPT-2's byte pairs, GLIDE's tokens: captions in lower case, padded with the last token."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unclip.common.artifacts import MERGES
from unclip.common.errors import UserError
from unclip.common.home import expanded
from unclip.embeddings.tokens import Tokenizer, token_mask

LARGEST = 1 << 24  # bytes of a file of merges; GPT-2's has 456 kB
BYTES = [b for b in range(256) if 33 <= b < 127 or (161 <= b < 256 and b != 173)]
ALPHABET = [chr(b) for b in BYTES] + [chr(256 + k) for k in range(256 - len(BYTES))]
"""The symbol of each byte, in the order of the tokens 0 to 255."""


class Gpt2Tokenizer:
    """GPT-2's tokenizer at a fixed length; picklable. The file is read with the first caption.

    Args:
        context: L.
        vocabulary: Tokens, the last of which is padding (GLIDE: 50257).
        merges: The file ``vocab.bpe`` or ``merges.txt``, which are the same; None: none is known.
    """

    def __init__(self, context: int, *, vocabulary: int, merges: str | None):
        self.context = context
        self.vocabulary = vocabulary
        self.merges = merges

    def __call__(self, captions: list[str]) -> Tensor:
        """Tokens ``[B, context]`` int64: the caption, then padding; long captions are cut.

        Raises:
            UserError: there is no file of merges, or it is of another vocabulary.
        """
        tokens = torch.full((len(captions), self.context), self.vocabulary - 1)
        for row, caption in zip(tokens, captions):
            found = torch.tensor(self._encode(caption)[: self.context], dtype=torch.int64)
            row[: len(found)] = found
        return tokens

    def count(self, caption: str) -> int:
        """Tokens of the whole caption: more than ``context`` are cut."""
        return len(self._encode(caption))

    def _encode(self, caption: str) -> list[int]:
        if self.merges is None:
            raise UserError(
                "model.merges: GPT-2's merges are needed to read captions; give the path of its "
                "merges.txt (vocab.bpe), such as that of openai-community/gpt2"
            )
        return _byte_pairs(self.merges, self.vocabulary).encode(caption.lower()).ids


def tokenizer_of(model: Any, folder: Path | None = None) -> Tokenizer | Gpt2Tokenizer:
    """Of a stage's ``model`` section that has ``tokenizer``, ``merges`` and ``text``.

    ``folder`` is the artifact's, whose own merges stand for those that it was trained with.
    """
    text, merges = model.text, model.merges
    if model.tokenizer == "gpt2":
        if folder is not None and (folder / MERGES).is_file():
            merges = str(folder / MERGES)
        return Gpt2Tokenizer(text.context, vocabulary=text.vocabulary, merges=merges)
    return Tokenizer(text.context)


def files_of(model: Any) -> dict[str, Path]:
    """What an artifact of a stage with this ``model`` section has to hold to read captions."""
    if getattr(model, "tokenizer", None) != "gpt2" or model.merges is None:
        return {}
    return {MERGES: expanded(model.merges)}


def ready(tokenize: Tokenizer | Gpt2Tokenizer) -> Tokenizer | Gpt2Tokenizer:
    """``tokenize`` itself, once it has read what it needs.

    Raises:
        UserError: it has no file of merges, or a wrong one.
    """
    tokenize.count("")
    return tokenize


def mask_of(model: Any, tokens: Tensor) -> Tensor:
    """Mask ``[B, L]`` of the tokens of `tokenizer_of`, True = a real token."""
    if model.tokenizer == "gpt2":
        return tokens != model.text.vocabulary - 1
    return token_mask(tokens)


@functools.cache
def _byte_pairs(merges: str, vocabulary: int) -> Any:
    """Token 0 to 255 are bytes, then there is one for each line of the file, then padding."""
    from tokenizers import Tokenizer as Pairs
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    path, key = expanded(merges), f"model.merges={merges}"
    if path.is_file() and path.stat().st_size > LARGEST:
        raise UserError(f"{key}: is larger than {LARGEST >> 20} MiB; give GPT-2's merges.txt")
    if not path.is_file():
        raise UserError(f"{key}: no such file of merges; give GPT-2's merges.txt (vocab.bpe)")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{key}: not a text file; give GPT-2's merges.txt (vocab.bpe)") from None
    split = [line.split() for line in lines if line and not line.startswith("#version")]
    pairs = [(pair[0], pair[1]) for pair in split if len(pair) == 2]
    if len(set(pairs)) < len(split):
        raise UserError(f"{key}: not a list of different pairs; give GPT-2's merges.txt")
    if 256 + len(pairs) + 1 != vocabulary:
        raise UserError(
            f"{key}: makes {256 + len(pairs) + 1} tokens, model.text.vocabulary is {vocabulary}; "
            "give the file that the network was trained with"
        )
    symbols = [*ALPHABET, *("".join(pair) for pair in pairs)]
    try:
        found = Pairs(BPE({symbol: k for k, symbol in enumerate(symbols)}, pairs))
    except Exception as error:  # a plain Exception of the library's
        raise UserError(f"{key}: {str(error).splitlines()[0]}") from None
    found.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return found
