"""Which columns of a table are image and caption, in the layout of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from unclip.common.errors import UserError
from unclip.data.keys import Strings
from unclip.data.readers.source import key_of


class Columns(NamedTuple):
    """Column `image` (bytes, or a struct of bytes and path) and `caption` or `text`."""

    caption: str  # name of the column of texts or lists of texts
    nested: bool  # whether image is a struct
    paths: bool  # whether the struct names a path for each image


def find_columns(schema: pa.Schema, *, where: str) -> Columns:
    """The columns of a table with this schema.

    Raises:
        UserError: One is missing or of another type; ``where`` names the table.
    """
    image = schema.field("image").type if "image" in schema.names else pa.null()
    fields = {f.name: f.type for f in image} if pa.types.is_struct(image) else {}
    caption = next((name for name in ("caption", "text") if name in schema.names), None)
    if caption is None or not (
        _is_binary(fields.get("bytes", image)) and _is_text(schema.field(caption).type)
    ):
        columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise UserError(
            f"data.source: {where} needs a column image (bytes, or a struct with bytes) and a "
            f"column caption or text (text, or a list of texts); it has {columns or 'none'}"
        )
    return Columns(caption, bool(fields), fields.get("path") == pa.string())


def row_keys(paths: Sequence[str | None], stem: str) -> Strings:
    """`key_of` the images' paths if all are there and differ, else ``stem`` and row numbers."""
    keys = [key_of(path) for path in paths if path]
    if keys and len(set(keys)) == len(paths):
        return Strings.of(keys)
    return Strings.of(f"{stem}-{row:08d}" for row in range(len(paths)))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return _is_binary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
