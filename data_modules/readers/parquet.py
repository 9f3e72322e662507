"""A parquet file in the layout of image datasets on the Hugging Face hub."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_modules.decode import BadSample
from data_modules.readers.source import Raw, decoded, digest, key_of
from data_modules.sample import Sample
from unclip.types import UserError

CACHE_BYTES = 2**30  # row groups kept in memory, per process
_CAPTIONS = ("caption", "text")


class ParquetSource:
    """Column `image` (struct {bytes, path}, or bytes) and `caption` or `text` (text, or a list).

    Row groups are read when first needed and kept, the least recently used leaving first, so that
    a file up to the size of the cache is read once. The key is the image's path when the paths
    are unique, else the row's number.

    Args:
        path: The parquet file.
        cache_bytes: Memory for row groups; at least one is kept.

    Raises:
        UserError: The file is no parquet, or lacks a column.
    """

    def __init__(self, path: Path, *, cache_bytes: int = CACHE_BYTES):
        self._path = path
        self._cache_bytes = cache_bytes
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()
        try:
            file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"data.source: {path} cannot be read as parquet ({reason})") from None
        with file:
            self._metadata = file.metadata
            self._choose_columns(file.schema_arrow)
            self._keys = self._read_keys(file)
        sizes = [self._metadata.row_group(g).num_rows for g in range(self._metadata.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        return decoded(self.raw(index))

    def raw(self, index: int) -> Raw:
        """Sample ``index`` undecoded."""
        where = f"{self._path}: {self._keys[index]}"
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        table = self._group(group, where=where)
        row = index - int(self._starts[group])
        data = table[self._image][row].as_py()
        if data is None:
            raise BadSample(f"{where}: the image has no bytes in the file")
        try:
            caption = table[self._caption][row].as_py()
        except UnicodeDecodeError:
            raise BadSample(f"{where}: the caption is not UTF-8 text") from None
        return Raw(self._keys[index], where, data, caption)

    def key(self, index: int) -> str:
        """The image's path without its ending, or the row's number."""
        return self._keys[index]

    def shards(self) -> np.ndarray:
        """Rows of each row group."""
        return np.diff(self._starts)

    def fingerprint(self) -> str:
        """A hash of the keys and of the sizes of the row groups."""
        groups = range(self._metadata.num_row_groups)
        sizes = [self._metadata.row_group(g).total_byte_size for g in groups]
        return digest((self._keys, sizes))

    def _choose_columns(self, schema: pa.Schema) -> None:
        """Set the flattened names of the columns that hold image bytes, caption and image path."""
        caption = next((name for name in _CAPTIONS if name in schema.names), None)
        image = schema.field("image").type if "image" in schema.names else None
        nested = _fields(image)
        if caption is None or not _is_binary(nested.get("bytes", image)):
            columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
            raise UserError(
                f"data.source: {self._path} needs a column image (bytes, or a struct with bytes) "
                f"and a column caption or text; it has {columns or 'none'}"
            )
        self._caption = caption
        self._image = "image.bytes" if nested else "image"
        self._image_path = "image.path" if nested.get("path") == pa.string() else None

    def _read_keys(self, file: pq.ParquetFile) -> list[str]:
        if self._image_path is not None:
            paths = file.read([self._image_path]).flatten()[self._image_path].to_pylist()
            keys = [key_of(path) for path in paths if path]
            if len(set(keys)) == len(paths):
                return keys
        return [f"{self._path.stem}-{row:08d}" for row in range(self._metadata.num_rows)]

    def _group(self, group: int, *, where: str) -> pa.Table:
        """Row group ``group`` with struct columns flattened, from memory or from the file."""
        if group in self._groups:
            self._groups.move_to_end(group)
            return self._groups[group]
        try:
            # Opened anew: no handle to share between processes. No threads: they die in a fork.
            with pq.ParquetFile(self._path, metadata=self._metadata) as file:
                columns = [self._image, self._caption]
                table = file.read_row_group(group, columns=columns, use_threads=False).flatten()
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise BadSample(f"{where}: row group {group} cannot be read ({reason})") from None
        self._groups[group] = table
        held = sum(held.nbytes for held in self._groups.values())
        while held > self._cache_bytes and len(self._groups) > 1:
            held -= self._groups.popitem(last=False)[1].nbytes
        return table


def _fields(kind: pa.DataType | None) -> dict[str, pa.DataType]:
    """The fields of a struct type; none for any other."""
    if kind is None or not pa.types.is_struct(kind):
        return {}
    return {field.name: field.type for field in kind}


def _is_binary(kind: pa.DataType | None) -> bool:
    return kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
