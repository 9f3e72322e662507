"""Compact storage for millions of strings, and the hash that splits samples."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator

import numpy as np

# Not `str.isprintable`, which changes with the version of Unicode, and the keys with it.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Strings:
    """A fixed list of texts as one run of bytes.

    A list of `str` costs about 60 bytes more for each, and every loader process would come to copy
    it by counting references.

    Args:
        blob: The texts in UTF-8, ``uint8``, one after the other.
        offsets: Where each begins, and the end of the last, ``int64 [N + 1]``.
    """

    def __init__(self, blob: np.ndarray, offsets: np.ndarray):
        self.blob = blob
        self.offsets = offsets

    @classmethod
    def of(cls, texts: Iterable[str]) -> Strings:
        """The same texts, with what cannot be encoded (a file name in Latin-1) kept as it is."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        start, end = self.offsets[index], self.offsets[index + 1]
        return self.blob[start:end].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def digest(self) -> str:
        """A hash of the texts and of where they end."""
        state = hashlib.blake2b(self.offsets.astype("<i8").data, digest_size=8)
        state.update(self.blob.data)
        return state.hexdigest()


def key_hash(key: str) -> int:
    """64 bits that depend on the key alone, evenly spread."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def key_hashes(keys: Iterable[str]) -> np.ndarray:
    """`key_hash` of each, ``uint64``."""
    return np.fromiter(map(key_hash, keys), dtype=np.uint64)


def held_out_mask(hashes: np.ndarray, share: float) -> np.ndarray:
    """Which samples are for validation, by `key_hashes`: so wherever they stand in a file."""
    return hashes < math.ceil(share * 2**64)


def printable(text: str) -> str:
    """``text`` on one line, control characters and lone surrogates spelt as escapes."""
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)
