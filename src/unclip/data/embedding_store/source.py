"""A folder of embeddings, opened: rows of z_i, z_t, tokens and captions by number."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.data.embedding_store.arrays import check_counts, open_derived, open_shards
from unclip.data.embedding_store.layout import (
    IMAGES,
    KEYS,
    METADATA,
    TEXTS,
    TOKENS,
    files_of,
)
from unclip.data.embedding_store.metadata import Metadata
from unclip.data.files import cache_folder
from unclip.data.keys import key_hashes
from unclip.data.readers.source import digest
from unclip.data.shard_folder import BEGUN, MANIFEST, read_json
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.config import RAW, UNIT
from unclip.embeddings.tokens import Tokenizer

_FLOATS = ("float16", "float32")
_LENGTHS = 1000  # rows whose lengths tell whether a folder is of unit embeddings
_UNIT_ERROR = 0.01
_AT_ONCE = 10_000  # captions, which the tokenizer gives as int64


class ShardRows(NamedTuple):
    """Some of the rows that are asked for: those in one shard."""

    shard: int
    at: np.ndarray  # int64, where they stand among all that are asked for
    rows: np.ndarray  # int64, within the shard


class EmbeddingSource:
    """Row n is one caption of one image; the rows of all shards are counted through.

    Args:
        path: A folder of `unclip embed`, or of clip-retrieval, which has no manifest and perhaps
            no text embeddings or no metadata. Without a column of keys, they are rows' numbers.

    Attributes:
        z_i: Each shard's image embeddings ``[N, D]``, float16 or float32.
        z_t: Each shard's text embeddings ``[N, D]``, or None.
        has_captions: Whether the metadata hold captions.
        has_keys: Whether they hold keys.
        embeddings: Whether they are unit or raw, where the folder tells.

    Raises:
        UserError: A file is missing or damaged, or files do not belong together.
    """

    def __init__(self, path: Path):
        self.path = path
        if (path / BEGUN).is_file() and not (path / MANIFEST).is_file():
            raise UserError(
                f"data.embeddings: {path} is not finished; run the same `unclip embed` again"
            )
        images, texts = files_of(path, IMAGES), files_of(path, TEXTS)
        if not images:
            raise UserError(
                f"data.embeddings: {path} has no {IMAGES}/{IMAGES}_0.npy; expected a folder of "
                "`unclip embed` or of clip-retrieval"
            )
        self.z_i = open_shards(images, dtypes=_FLOATS, shape="[N, D]")
        self._counts = [len(array) for array in self.z_i]
        self._starts = np.cumsum([0, *self._counts])
        if len(self) == 0:
            raise UserError(f"data.embeddings: {path} holds no embeddings")
        self.z_t = None
        if texts:
            self.z_t = open_shards(texts, dtypes=_FLOATS, shape="[N, D]", counts=self._counts)
            if self.z_t[0].shape[1] != self.dim:
                raise UserError(
                    f"data.embeddings: in {path} texts have {self.z_t[0].shape[1]} numbers, images "
                    f"{self.dim}; copy what belongs together"
                )
        self._metadata = Metadata(files_of(path, METADATA))
        if self._metadata.files:
            check_counts(self._metadata.files, self._metadata.counts, self._counts)
        self.has_captions = self._metadata.caption is not None
        self.has_keys = self._metadata.key is not None
        self._made_with: str | None = None
        self.embeddings: str | None = None
        self._read_manifest()
        self._tokens: dict[int, list[np.ndarray]] = {}

    def _read_manifest(self) -> None:
        """Which CLIP they are of and whether they are unit or raw, where the folder tells."""
        manifest = read_json(self.path / MANIFEST, "unclip embed")
        if manifest is None:
            return
        try:
            rows, made_with = [s["rows"] for s in manifest["shards"]], manifest["clip"]
            if rows != self._counts:
                raise UserError(
                    f"data.embeddings: {self.path / MANIFEST} lists "
                    f"{counted(sum(rows), 'row')}, there are {len(self)}, or shards "
                    "differ in length; copy all of it again"
                )
            self._made_with = str(made_with["fingerprint"])
            self.embeddings = str(manifest.get("embeddings", UNIT))
        except (KeyError, TypeError):
            raise UserError(
                f"{self.path / MANIFEST}: damaged; copy it again, or remove it"
            ) from None

    def __reduce__(self) -> tuple[type[EmbeddingSource], tuple[Path]]:
        """Opened anew in another process: a memory map is pickled with all that it maps."""
        return type(self), (self.path,)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def dim(self) -> int:
        """D."""
        return self.z_i[0].shape[1]

    def key(self, index: int) -> str:
        """The key of row ``index``; the captions of one image share it."""
        if self._metadata.key is None:
            return str(index)
        shard, row = self._within(np.array([index]))
        return self._metadata.texts(int(shard[0]), self._metadata.key, row)[0] or str(index)

    def names(self, rows: np.ndarray) -> list[str]:
        """``shard:row`` of rows ``[B]``: what a batch calls its samples, at no cost of reading."""
        shards, within = self._within(rows)
        return [f"{shard}:{row}" for shard, row in zip(shards.tolist(), within.tolist())]

    def shards(self) -> np.ndarray:
        """Rows of each shard."""
        return np.array(self._counts)

    def fingerprint(self) -> str:
        """A hash of each shard's length, first and last embedding and size of metadata."""
        ends = [(array[:1].tobytes(), array[-1:].tobytes()) for array in self.z_i]
        sizes = [file.stat().st_size for file in self._metadata.files]
        return digest((self._counts, ends, sizes))

    def check_clip(self, clip: FrozenClip) -> None:
        """Refuse embeddings of another CLIP or the other kind, as far as the folder tells.

        A folder that does not say which kind can hold any for a stage of unit embeddings, which
        divides by lengths; for one of raw embeddings it must have lengths.
        """
        if self.dim != clip.model.embed_dim:
            raise UserError(
                f"data.embeddings: those in {self.path} have {self.dim} numbers, the CLIP "
                f"{clip.source} has {clip.model.embed_dim}; use the CLIP they were made with"
            )
        if self._made_with not in (None, clip.fingerprint):
            raise UserError(
                f"data.embeddings: {self.path} was made with another CLIP "
                f"({str(self._made_with)[:12]}) than {clip.source} ({clip.fingerprint[:12]}); use "
                "that one, or embed again"
            )
        wanted = clip.model.embeddings or UNIT
        if self.embeddings not in (None, wanted):
            raise UserError(
                f"data.embeddings: {self.path} holds {self.embeddings} embeddings, the experiment "
                f"takes {wanted} ones (model.embeddings); embed again with --embeddings {wanted}"
            )
        if self.embeddings is None and wanted == RAW and self._has_unit_length():
            raise UserError(
                f"data.embeddings: those in {self.path} have length 1, the experiment takes raw "
                "ones (model.embeddings); embed again with `unclip embed --embeddings raw`"
            )

    def _has_unit_length(self) -> bool:
        """Whether all of the first rows have, up to the rounding of float16."""
        few = self.z_i[0][:_LENGTHS].astype(np.float64)
        return bool((abs(np.linalg.norm(few, axis=1) - 1) < _UNIT_ERROR).all())

    def places(self, rows: np.ndarray) -> list[ShardRows]:
        """Rows ``[B]`` (int64) by shard."""
        shards, within = self._within(rows)
        order = np.argsort(shards, kind="stable")
        ends = np.flatnonzero(np.diff(shards[order])) + 1
        return [ShardRows(int(shards[at[0]]), at, within[at]) for at in np.split(order, ends)]

    def gather(self, arrays: Sequence[np.ndarray], places: list[ShardRows]) -> np.ndarray:
        """The rows of each shard's ``arrays`` at ``places``, in memory."""
        count = sum(len(place.at) for place in places)
        found = np.empty((count, *arrays[0].shape[1:]), arrays[0].dtype)
        for place in places:
            found[place.at] = arrays[place.shard][place.rows]
        return found

    def captions(self, places: list[ShardRows]) -> list[str]:
        """The captions at ``places``, which the folder must have."""
        assert self._metadata.caption is not None
        found = np.empty(sum(len(place.at) for place in places), object)
        for place in places:
            texts = self._metadata.texts(place.shard, self._metadata.caption, place.rows)
            found[place.at] = texts
        return found.tolist()

    def hashes(self) -> np.ndarray:
        """``uint64 [N]``, of the keys."""
        return self._hashes

    @cached_property
    def _hashes(self) -> np.ndarray:
        """Made once where the folder has none."""

        def make(shard: int) -> np.ndarray:
            if self._metadata.key is None:
                return key_hashes(map(str, range(*self._starts[shard : shard + 2])))
            keys = self._metadata.texts(shard, self._metadata.key)
            return key_hashes(key or str(n) for n, key in enumerate(keys, self._starts[shard]))

        return np.concatenate(
            open_derived(KEYS, self._homes, self._counts, make, dtype="uint64", shape="[N]")
        )

    def tokens(self, context: int) -> list[np.ndarray]:
        """Each shard's tokens, uint16 ``[N, context or more]``; made once where there are none.

        Raises:
            UserError: There are no captions to make them of.
        """
        if context not in self._tokens:
            self._tokens[context] = self._open_tokens(context)
        return self._tokens[context]

    def _open_tokens(self, context: int) -> list[np.ndarray]:
        stored = files_of(self.path, TOKENS)
        if stored:
            found = open_shards(stored, dtypes=("uint16",), shape="[N, L]", counts=self._counts)
            if found[0].shape[1] >= context:
                return found
        column = self._metadata.caption
        if column is None:
            silent = self._metadata.silent or f"{METADATA}/{METADATA}_0.parquet"
            raise UserError(
                f"data.embeddings: {self.path} has no captions: expected {silent} with a column of "
                "text called caption"
            )
        tokenize = Tokenizer(context)

        def make(shard: int) -> np.ndarray:
            captions = self._metadata.texts(shard, column)
            tokens = np.empty((len(captions), context), np.uint16)
            for first in range(0, len(captions), _AT_ONCE):
                some = slice(first, first + _AT_ONCE)
                tokens[some] = tokenize(captions[some]).numpy()
            return tokens

        kind = f"{TOKENS}_{context}"
        return open_derived(kind, self._homes, self._counts, make, dtype="uint16", shape="[N, L]")

    @property
    def _homes(self) -> tuple[Path, Path]:
        return self.path, cache_folder("embeddings") / self.fingerprint()

    def _within(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shards ``[B]`` of rows ``[B]``, and the rows within them."""
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        return shards, rows - self._starts[shards]
