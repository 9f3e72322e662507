"""A parquet file in the layout of image datasets on the Hugging Face hub."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unclip.common.errors import UserError
from unclip.data import files
from unclip.data.decode import LIMITS, BadSample, Limits
from unclip.data.keys import Strings
from unclip.data.readers.columns import find_columns, row_keys
from unclip.data.readers.inventory import Inventory
from unclip.data.readers.names import stem_of
from unclip.data.readers.source import RawSample, Reader, digest
from unclip.data.remote import Unreadable

DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)
CACHE_BYTES = 2**30  # row groups kept in memory, per process


class ParquetSource(Reader):
    """Column `image` (struct {bytes, path}, or bytes) and `caption` or `text` (text, or a list).

    Row groups are read when first needed and kept, the least recently used leaving first, so that
    a file up to the size of the cache is read once. The key is the image's path when the paths
    are unique, else the row's number.

    Args:
        path: The parquet file, a local path or a URL.
        cache_bytes: Memory for row groups; at least one is kept.
        limits: Which images are refused.
        silent: Whether the column of captions may be missing.

    Raises:
        UserError: The file is not a parquet file, or lacks a column.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        cache_bytes: int = CACHE_BYTES,
        limits: Limits = LIMITS,
        silent: bool = False,
    ):
        self._file = files.stat_file(str(path))
        self._cache_bytes = cache_bytes
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()
        try:
            with self._file.open() as handle, pq.ParquetFile(handle) as file:
                self._metadata = file.metadata
                columns = find_columns(file.schema_arrow, where=self._file.path, silent=silent)
                self._caption = columns.caption
                self._image = "image.bytes" if columns.nested else "image"
                super().__init__(self._read_keys(file, paths=columns.paths), limits)
        except DAMAGE as error:
            reason = f"cannot be read as parquet ({_line(error)})"
            raise UserError(f"data.source: {path} {reason}") from None
        sizes = [self._metadata.row_group(g).num_rows for g in range(self._metadata.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])

    def raw(self, index: int) -> RawSample:
        """Sample ``index`` undecoded."""
        key = self._keys[index]
        where = f"{self._file.path}: {key}"
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        table = self._group(group, where=where)
        row = index - int(self._starts[group])
        data = table[self._image][row].as_py()
        if data is None:
            raise BadSample(f"{where}: the image has no bytes in the file")
        try:
            caption = table[self._caption][row].as_py() if self._caption else None
        except UnicodeDecodeError:
            raise BadSample(f"{where}: the caption is not UTF-8 text") from None
        return RawSample(key, where, data, caption)

    def inventory(self) -> Inventory:
        """See `inventory_of`: one file, of which every row is a sample."""
        return Inventory(read=1)

    def shards(self) -> np.ndarray:
        """Rows of each row group."""
        return np.diff(self._starts)

    def fingerprint(self) -> str:
        """A hash of the keys and of the sizes of the row groups."""
        groups = range(self._metadata.num_row_groups)
        sizes = [self._metadata.row_group(g).total_byte_size for g in groups]
        return digest((self._keys.digest(), sizes))

    def _read_keys(self, file: pq.ParquetFile, *, paths: bool) -> Strings:
        stem = stem_of(files.last_part(self._file.path))
        if not paths:
            return row_keys([None] * self._metadata.num_rows, stem)
        column = file.read(["image.path"], use_threads=False).flatten()["image.path"]
        return row_keys(column.to_pylist(), stem)

    def _group(self, group: int, *, where: str) -> pa.Table:
        """Row group ``group`` with struct columns flattened, from memory or from the file."""
        if group in self._groups:
            self._groups.move_to_end(group)
            return self._groups[group]
        try:
            # Opened anew: no handle to share between processes. No threads: they die in a fork.
            with (
                self._file.open() as handle,
                pq.ParquetFile(handle, metadata=self._metadata) as file,
            ):
                columns = [self._image, *([self._caption] if self._caption else [])]
                table = file.read_row_group(group, columns=columns, use_threads=False).flatten()
        except Unreadable as problem:
            raise BadSample(f"{where}: {problem.reason}") from None
        except DAMAGE as error:
            reason = _line(error)
            raise BadSample(f"{where}: row group {group} cannot be read ({reason})") from None
        self._groups[group] = table
        held = sum(held.nbytes for held in self._groups.values())
        while held > self._cache_bytes and len(self._groups) > 1:
            held -= self._groups.popitem(last=False)[1].nbytes
        return table


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
