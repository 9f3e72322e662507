"""Names and captions of embedded samples: the parquet files of an embeddings folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unclip.common.errors import UserError
from unclip.data.readers.columns import is_text
from unclip.data.readers.parquet import DAMAGE

CAPTION = "caption"
_KEYS = ("image_path", "key")  # clip-retrieval's own column; img2dataset's, which it copies


class Metadata:
    """One parquet file a shard; picklable, and safe after a fork.

    Args:
        files: Of the shards, in order; may be none.

    Attributes:
        counts: Rows of each shard.
        caption: The captions' column, None where a shard has none.
        key: The keys' column, None where a shard has none.
        silent: The first shard's file without a column of captions; None if all have one.

    Raises:
        UserError: A file is not a parquet file, or has two columns of one name.
    """

    def __init__(self, files: Sequence[Path]):
        self.files = files
        self.counts = []
        self.silent: Path | None = None
        texts: set[str] | None = None
        for file in files:
            with _parquet(file) as parquet:
                self.counts.append(parquet.metadata.num_rows)
                schema = parquet.schema_arrow
            for name in (CAPTION, *_KEYS):
                if schema.names.count(name) > 1:
                    raise UserError(
                        f"data.embeddings: {file} has two columns called {name}; keep one"
                    )
            # A shard of which all are missing has the type null.
            here = {f.name for f in schema if is_text(f.type) or pa.types.is_null(f.type)}
            texts = here if texts is None else texts & here
            if CAPTION not in here and self.silent is None:
                self.silent = file
        self.caption = CAPTION if texts and CAPTION in texts else None
        self.key = next((name for name in _KEYS if texts and name in texts), None)
        self._newest: tuple[int, str, pa.ChunkedArray] | None = None

    def texts(self, shard: int, column: str, rows: np.ndarray | None = None) -> list[str]:
        """A column of a shard, or some rows of it; what is missing is empty.

        Raises:
            UserError: The column cannot be read.
        """
        if self._newest is None or self._newest[:2] != (shard, column):
            with _parquet(self.files[shard]) as parquet:
                # No threads: they die in a fork.
                table = parquet.read([column], use_threads=False)
            found = table[column]
            if pa.types.is_dictionary(found.type):
                found = found.cast(found.type.value_type)
            # As bytes, because one text that is not UTF-8 must not cost the others.
            self._newest = shard, column, found.cast(pa.large_binary())
        found = self._newest[2] if rows is None else self._newest[2].take(pa.array(rows))
        return [
            "" if text is None else text.decode("utf-8", "replace") for text in found.to_pylist()
        ]


@contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """The opened file; what it objects to while the block lasts names it."""
    try:
        with pq.ParquetFile(path) as parquet:
            yield parquet
    except DAMAGE as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"data.embeddings: {path} cannot be read as parquet ({reason}); copy it again"
        ) from None
