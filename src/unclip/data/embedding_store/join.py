"""Images of a source with their z_i from an embeddings folder, joined by key."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unclip.common.errors import UserError
from unclip.data.decode import BadSample
from unclip.data.embedding_store.arrays import flaw, usable_rows
from unclip.data.embedding_store.source import EmbeddingSource
from unclip.data.keys import key_hashes
from unclip.data.readers.source import Source, digest
from unclip.data.readers.wrapped import WrappedSource
from unclip.data.sample import Sample

_TRIED = 1000  # keys of which at least one must have an embedding
_COMPARED = 4096  # pairs of rows of one key whose embeddings must agree
_SAME = 0.02  # largest difference of two embeddings of one image, of their largest number


class EmbeddingsByKey:
    """z_i by key; of several rows of one key, which are of one image, the first.

    Args:
        folder: The embeddings.

    Raises:
        UserError: The folder has no keys, or rows of one key are of different images.
    """

    def __init__(self, folder: EmbeddingSource):
        if not folder.has_keys:
            raise UserError(
                f"data.embeddings: {folder.path} has no keys to find images by "
                "(metadata/metadata_0.parquet with a column of text called image_path or key)"
            )
        self.folder = folder
        hashes = folder.hashes()
        self._rows = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._rows]
        self._refuse_ambiguous()

    def _refuse_ambiguous(self) -> None:
        """Captions of one image lie side by side and share its z_i; keys of several images do not.

        Some pairs of rows of one key are compared, those that lie apart first.
        """
        again = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
        if not len(again):
            return
        first, second = self._rows[again], self._rows[again + 1]
        order = np.argsort(second == first + 1, kind="stable")[:_COMPARED]
        a, b = (self.gathered(rows[order]).astype(np.float32) for rows in (first, second))
        limit = _SAME * np.abs(a).max(axis=1, initial=0)
        wrong = np.flatnonzero(~(np.abs(a - b).max(axis=1, initial=0) <= limit))
        wrong = wrong[usable_rows(a[wrong]) & usable_rows(b[wrong])]
        if len(wrong):
            one, other = (int(rows[order][wrong[0]]) for rows in (first, second))
            raise UserError(
                f"data.embeddings: in {self.folder.path} one key stands for several images, as "
                f"{self.folder.key(one)!r} in rows {one} and {other}; embed the source again, "
                "which tells its keys apart"
            )

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """The row of each key ``[B]``, -1 where it has none."""
        wanted = key_hashes(keys)
        at = np.searchsorted(self._hashes, wanted).clip(max=len(self._hashes) - 1)
        return np.where(self._hashes[at] == wanted, self._rows[at], -1)

    def z_i(self, keys: Sequence[str]) -> Tensor:
        """``[B, D]`` as stored, of keys that all have one."""
        return torch.from_numpy(self.gathered(self.rows(keys)))

    def gathered(self, rows: np.ndarray) -> np.ndarray:
        """``[B, D]`` as stored, of rows ``[B]``."""
        return self.folder.gather(self.folder.z_i, self.folder.places(rows))

    def check(self, source: Source) -> None:
        """Refuse a source of which the folder knows no key."""
        keys = [source.key(index) for index in range(min(len(source), _TRIED))]
        if (self.rows(keys) < 0).all():
            raise UserError(
                f"data.embeddings: {self.folder.path} has none of the first {len(keys)} keys of "
                f"data.source ({keys[0]}, ...), but {self.folder.key(0)}, ...; embed that source"
            )


class SourceWithEmbeddings(WrappedSource):
    """The samples of ``source``, of which those without an embedding are bad ones."""

    def __init__(self, source: Source, by_key: EmbeddingsByKey):
        super().__init__(source)
        self._by_key = by_key

    def __getitem__(self, index: int) -> Sample:
        key, folder = self.key(index), self._by_key.folder
        row = self._by_key.rows([key])
        if row[0] < 0:
            raise BadSample(f"{key}: has no embedding in {folder.path}")
        z_i = self._by_key.gathered(row)
        if not usable_rows(z_i).all():
            raise BadSample(f"{key}: its embedding in {folder.path} {flaw(z_i)}")
        return self._source[index]

    def fingerprint(self) -> str:
        """A hash of both."""
        return digest((self._source.fingerprint(), self._by_key.folder.fingerprint()))
