"""Whole batches for a prior, out of an embeddings folder."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from unclip.common.blank import is_blank
from unclip.common.errors import UserError
from unclip.common.seeding import derive_seed
from unclip.data.batches import PriorBatch
from unclip.data.decode import BadSample
from unclip.data.embedding_store.arrays import flaw, usable_rows
from unclip.data.embedding_store.source import EmbeddingSource, ShardRows
from unclip.data.order import Draws
from unclip.data.readers.source import Subset
from unclip.data.skips import BatchReport
from unclip.embeddings.tokens import END_OF_TEXT, VOCABULARY

_ATTEMPTS = 50  # at a stand-in for a row that cannot be used


class RowSubset(Subset):
    """Some rows of a folder, ascending; a `Source` but for images, of which it has none."""

    def __init__(self, folder: EmbeddingSource, rows: np.ndarray):
        super().__init__(folder, rows)  # type: ignore[arg-type]  # it has no images
        self.folder = folder
        self.rows = rows


class PriorRows(Dataset[BatchReport]):
    """Fetches a batch at once: numpy's indexing on memory maps, no sample handled alone.

    Args:
        part: The rows to draw from.
        contexts: Lengths of the CLIP's and of the prior's own tokens; None without any.
        captions: Whether batches carry their captions, which have to be read from parquet.
        seed: Chooses what stands in for a bad row.
        on_error: `error` stops at the first row that cannot be used (not finite, all zeros, without
            a caption, tokens that are none); `skip` puts another in its place.
    """

    def __init__(
        self,
        part: RowSubset,
        *,
        contexts: tuple[int, int] | None,
        captions: bool,
        seed: int,
        on_error: str,
    ):
        self._part = part
        self._contexts = contexts
        self._captions = captions and part.folder.has_captions
        self._seed = seed
        self._on_error = on_error

    def __len__(self) -> int:
        return len(self._part)

    def __getitems__(self, draws: Draws) -> BatchReport:
        """The batch of ``draws``.

        Raises:
            BadSample: A row cannot be used and ``on_error`` is `error`.
            UserError: Nor can any of the rows tried in its place.
        """
        rows = self._part.rows[draws.numbers]
        folder = self._part.folder
        problems: dict[int, list[str]] = {}  # by place in the batch
        for attempt in range(_ATTEMPTS):
            places = folder.places(rows)
            z_i = folder.gather(folder.z_i, places)
            z_t = None if folder.z_t is None else folder.gather(folder.z_t, places)
            both = [z_i] if z_t is None else [z_i, z_t]
            tokens = None
            if self._contexts is not None:
                tokens = folder.gather(folder.tokens(max(self._contexts)), places)
            flaws = self._flaws(places, both, tokens)
            if not flaws:
                batch = self._batch(rows, places, z_i, z_t, tokens)
                return BatchReport(batch, len(rows), [tuple(each) for each in problems.values()])
            for at, what in sorted(flaws.items()):
                problems.setdefault(at, []).append(self._problem(int(rows[at]), what))
                draw = int(draws.epochs[at]), int(draws.numbers[at])
                other = derive_seed("replacement", self._seed, *draw, attempt)
                rows[at] = self._part.rows[other % len(self)]
        last = next(reversed(problems.values()))[-1]
        raise UserError(
            f"data.embeddings: {folder.path} has almost no usable rows; the last: {last}; embed "
            "again"
        )

    def _flaws(
        self, places: list[ShardRows], both: list[np.ndarray], tokens: np.ndarray | None
    ) -> dict[int, str]:
        """What is wrong with rows of the batch, by their place in it."""
        found = dict.fromkeys(self._silent(places, tokens).tolist(), "the caption is empty")
        if tokens is not None:
            unknown = np.flatnonzero((tokens >= VOCABULARY).any(axis=1)).tolist()
            found |= dict.fromkeys(unknown, f"a token is not below {VOCABULARY}, as CLIP's are")
        unusable = ~np.all([usable_rows(z) for z in both], axis=0)
        for at in np.flatnonzero(unusable).tolist():
            found[at] = f"the embedding {flaw(*(z[at : at + 1] for z in both))}"
        return found

    def _silent(self, places: list[ShardRows], tokens: np.ndarray | None) -> np.ndarray:
        """Rows without a caption, told by their tokens, or by their text where those are not read.

        An empty text has the two tokens of start and end.
        """
        folder = self._part.folder
        if tokens is not None:
            return np.flatnonzero(tokens[:, 1] == END_OF_TEXT)
        if not folder.has_captions:
            return np.empty(0, np.int64)
        return np.flatnonzero([is_blank(caption) for caption in folder.captions(places)])

    def _batch(
        self,
        rows: np.ndarray,
        places: list[ShardRows],
        z_i: np.ndarray,
        z_t: np.ndarray | None,
        stored: np.ndarray | None,
    ) -> PriorBatch:
        folder = self._part.folder
        clip_tokens = tokens = None
        if self._contexts is not None and stored is not None:
            clip_tokens, tokens = (truncate_tokens(stored, context) for context in self._contexts)
        return PriorBatch(
            clip_image=None,
            clip_tokens=clip_tokens,
            tokens=tokens,
            captions=folder.captions(places) if self._captions else [],
            keys=folder.names(rows),
            z_i=torch.from_numpy(z_i),
            z_t=None if z_t is None else torch.from_numpy(z_t),
        )

    def _problem(self, row: int, what: str) -> str:
        """What is wrong with a bad row; raised if one is enough to stop."""
        name = self._part.folder.names(np.array([row]))[0]
        problem = f"{self._part.folder.path}: shard:row {name}: {what}"
        if self._on_error == "error":
            raise BadSample(f"{problem} (data.on_error=skip leaves such samples out)")
        return problem


def truncate_tokens(tokens: np.ndarray, context: int) -> Tensor:
    """Tokens ``[B, L]`` as int64 ``[B, context]``, cut as the tokenizer would; L >= context."""
    found = tokens[:, :context].astype(np.int64)
    found[tokens[:, context:].any(axis=1), -1] = END_OF_TEXT
    return torch.from_numpy(found)
