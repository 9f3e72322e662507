"""Whole batches for a prior, out of an embeddings folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_modules.decode import BadSample
from data_modules.embeddings.arrays import finite
from data_modules.embeddings.source import EmbeddingSource, Place
from data_modules.order import Draw
from data_modules.readers.source import Subset
from unclip.models.clip import END_OF_TEXT
from unclip.seeding import derive_seed
from unclip.types import PriorBatch, UserError

logger = logging.getLogger(__name__)

_ATTEMPTS = 50  # at a stand-in for a row that cannot be used
_JUDGE_FROM = 50  # rows before the share of bad ones says anything


class Part(Subset):
    """Some rows of a folder, ascending; a `Source` but for pictures, of which it has none."""

    def __init__(self, folder: EmbeddingSource, rows: np.ndarray):
        super().__init__(folder, rows)  # type: ignore[arg-type]  # it has no pictures
        self.folder = folder
        self.rows = rows


class PriorRows(Dataset[PriorBatch]):
    """Fetches a batch at once: numpy's indexing on memory maps, no sample handled alone.

    Args:
        part: The rows to draw from.
        contexts: Lengths of the CLIP's and of the prior's own tokens; None without any.
        captions: Whether batches carry their captions, which have to be read from parquet.
        seed: Chooses what stands in for a bad row.
        on_error: `error` stops at the first row that is not finite; `skip` puts another in its
            place.
        max_skipped: Share of bad rows among those drawn (by one worker) that stops the run.
    """

    def __init__(
        self,
        part: Part,
        *,
        contexts: tuple[int, int] | None,
        captions: bool,
        seed: int,
        on_error: str,
        max_skipped: float,
    ):
        self._part = part
        self._contexts = contexts
        self._captions = captions and part.folder.has_captions
        self._seed = seed
        self._on_error = on_error
        self._max_skipped = max_skipped
        self._drawn = 0
        self._bad = 0
        self._logged: set[int] = set()

    def __len__(self) -> int:
        return len(self._part)

    def __getitems__(self, draws: Sequence[Draw]) -> PriorBatch:
        """The batch of ``draws``.

        Raises:
            BadSample: A row cannot be used and ``on_error`` is `error`.
            UserError: Too many cannot be used.
        """
        numbers = np.fromiter((draw.number for draw in draws), np.int64, len(draws))
        rows = self._part.rows[numbers]
        self._drawn += len(rows)
        folder = self._part.folder
        for attempt in range(_ATTEMPTS):
            places = folder.places(rows)
            z_i = folder.gather(folder.z_i, places)
            z_t = None if folder.z_t is None else folder.gather(folder.z_t, places)
            fine = finite(z_i) if z_t is None else finite(z_i) & finite(z_t)
            if fine.all():
                return self._batch(rows, places, z_i, z_t)
            for at in np.flatnonzero(~fine).tolist():
                self._skip(int(rows[at]))
                draw = [*draws][at]
                other = derive_seed("replacement", self._seed, *draw, attempt) % len(self)
                rows[at] = self._part.rows[other]
        raise UserError(f"data.embeddings: {folder.path} has next to no finite rows")

    def _batch(
        self, rows: np.ndarray, places: list[Place], z_i: np.ndarray, z_t: np.ndarray | None
    ) -> PriorBatch:
        folder = self._part.folder
        clip_tokens = tokens = None
        if self._contexts is not None:
            stored = folder.gather(folder.tokens(max(self._contexts)), places)
            clip_tokens, tokens = (cut(stored, context) for context in self._contexts)
        return PriorBatch(
            clip_image=None,
            clip_tokens=clip_tokens,
            tokens=tokens,
            captions=folder.captions(places) if self._captions else [],
            keys=folder.names(rows),
            z_i=torch.from_numpy(z_i),
            z_t=None if z_t is None else torch.from_numpy(z_t),
        )

    def _skip(self, row: int) -> None:
        """Log a bad row once, or stop because of it, or because there are too many."""
        name = self._part.folder.names(np.array([row]))[0]
        problem = f"{self._part.folder.path}: the embedding of shard:row {name} is not finite"
        if self._on_error == "error":
            raise BadSample(f"{problem} (data.on_error: skip leaves such rows out)")
        if row not in self._logged:
            self._logged.add(row)
            logger.warning("skipped %s", problem)
        self._bad += 1
        if self._drawn >= _JUDGE_FROM and self._bad > self._max_skipped * self._drawn:
            raise UserError(
                f"data.embeddings: {self._bad} of the first {self._drawn} rows cannot be used, "
                f"more than data.max_skipped={self._max_skipped:g}; the last: {problem}"
            )


def cut(tokens: np.ndarray, context: int) -> Tensor:
    """Tokens ``[B, L]`` as int64 ``[B, context]``, cut as the tokenizer would; L >= context."""
    found = tokens[:, :context].astype(np.int64)
    found[tokens[:, context:].any(axis=1), -1] = END_OF_TEXT
    return torch.from_numpy(found)
