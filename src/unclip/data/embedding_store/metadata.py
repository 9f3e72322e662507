"""Names and captions of embedded samples: the parquet files of an embeddings folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unclip.common.errors import UserError

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

    Raises:
        UserError: A file is no parquet.
    """

    def __init__(self, files: Sequence[Path]):
        self.files = files
        self.counts = []
        texts: set[str] | None = None
        for file in files:
            with _parquet(file) as parquet:
                self.counts.append(parquet.metadata.num_rows)
                here = {field.name for field in parquet.schema_arrow if _is_text(field.type)}
                texts = here if texts is None else texts & here
        self.caption = CAPTION if texts and CAPTION in texts else None
        self.key = next((name for name in _KEYS if texts and name in texts), None)
        self._newest: tuple[int, str, pa.ChunkedArray] | None = None

    def texts(self, shard: int, column: str, rows: np.ndarray | None = None) -> list[str]:
        """A column of a shard, or some rows of it; what is missing is empty."""
        if self._newest is None or self._newest[:2] != (shard, column):
            with _parquet(self.files[shard]) as parquet:
                # No threads: they die in a fork.
                table = parquet.read([column], use_threads=False)
            self._newest = shard, column, table[column]
        found = self._newest[2] if rows is None else self._newest[2].take(pa.array(rows))
        # By way of bytes, because one text that is not UTF-8 must not cost the others.
        return [
            "" if text is None else text.decode("utf-8", "replace")
            for text in found.cast(pa.large_binary()).to_pylist()
        ]


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"data.embeddings: {path} cannot be read as parquet ({reason}); copy it again"
        ) from None
