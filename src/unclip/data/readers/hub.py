"""A dataset of the Hugging Face hub, or a local folder of its layout, by the `datasets` library."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pyarrow.compute as pc

from unclip.common.errors import UserError
from unclip.common.home import expanded
from unclip.data import files
from unclip.data.decode import LIMITS, BadSample, Limits
from unclip.data.readers.columns import find_columns, row_keys
from unclip.data.readers.source import RawSample, Reader, digest
from unclip.data.remote import Unreadable

SAVED = ("dataset_dict.json", "state.json")  # of save_to_disk: several splits, or one


class HubSource(Reader):
    """Columns and keys as of `ParquetSource`; images stay encoded until they are read.

    Args:
        spec: `NAME[:CONFIG][@SPLIT]` of a dataset on the hub, or a local folder as NAME, in its
            layout or written by `save_to_disk`; the split is `train` unless another is given.
        limits: Which images are refused.
        silent: Whether the column of captions may be missing.

    Raises:
        UserError: `datasets` is not installed or cannot load it, or it lacks a column.
    """

    def __init__(self, spec: str, *, limits: Limits = LIMITS, silent: bool = False):
        self._name = f"hf:{spec}"
        rows = _load(spec)
        columns = find_columns(rows.features.arrow_schema, where=self._name, silent=silent)
        self._caption = columns.caption
        self._rows = _undecoded(rows).select_columns(
            ["image", *([columns.caption] if columns.caption else [])]
        )
        table = self._rows.data
        paths: list[str | None] = [None] * len(rows)
        if columns.paths:
            paths = [_relative(p) for p in pc.struct_field(table["image"], "path").to_pylist()]
        super().__init__(row_keys(paths, spec.rpartition("/")[2]), limits)
        # Of the captions: an image is either held here or named by a path that may change.
        self._size = table[columns.caption].nbytes if columns.caption else 0

    def raw(self, index: int) -> RawSample:
        """Sample ``index`` undecoded."""
        key = self._keys[index]
        where = f"{self._name}: {key}"
        try:
            row = self._rows[index]
            image = _image(row["image"])
        except UnicodeDecodeError:
            raise BadSample(f"{where}: the caption is not UTF-8 text") from None
        except Unreadable as problem:
            raise BadSample(f"{where}: its file {problem.reason}") from None
        if image is None:
            raise BadSample(f"{where}: the image has no bytes")
        return RawSample(key, where, image, row[self._caption] if self._caption else None)

    def fingerprint(self) -> str:
        """A hash of the keys and of the size of the captions."""
        return digest((self._keys.digest(), self._size))


def _load(spec: str) -> Any:
    """The dataset, memory-mapped; never with code of its own."""
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"data.source: hf:{spec} needs a package: pip install 'unclip[datasets]'"
        ) from None
    name, _, split = spec.partition("@")
    name, _, config = name.partition(":")
    try:
        if not any((expanded(name) / file).is_file() for file in SAVED):
            return datasets.load_dataset(name, config or None, split=split or "train")
        saved = datasets.load_from_disk(str(expanded(name)))
    except Exception as error:  # of the network, the hub, the files, the split
        reason = " ".join(str(error).split())
        raise UserError(f"data.source: hf:{spec} cannot be loaded ({reason})") from None
    if not isinstance(saved, datasets.DatasetDict):
        if split:
            raise UserError(
                f"data.source: hf:{spec}: {name} is one saved dataset without splits; leave out "
                f"@{split}"
            )
        return saved
    if (split or "train") not in saved:
        known = ", ".join(f"@{each}" for each in saved)
        raise UserError(f"data.source: hf:{spec} has no split {split or 'train'!r}; it has {known}")
    return saved[split or "train"]


def _undecoded(rows: Any) -> Any:
    import datasets

    if isinstance(rows.features["image"], datasets.Image):
        return rows.cast_column("image", datasets.Image(decode=False))
    return rows


def _relative(path: str | None) -> str | None:
    """A path inside the dataset; of a local file only its name, since folders move."""
    return PurePosixPath(path).name if path and path.startswith("/") else path


def _image(value: Any) -> bytes | None:
    if not isinstance(value, dict):
        return value
    path = value.get("path")
    if value["bytes"] is None and path and not files.is_url(path):  # an image in a local folder
        return files.read(path)
    return value["bytes"]
