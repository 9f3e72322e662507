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


class EmbeddingsByKey:
    """z_i by key; of several rows of one key, which are of one image, the first.

    Args:
        folder: The embeddings.

    Raises:
        UserError: The folder has no keys.
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
