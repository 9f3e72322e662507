"""Which columns of a table are image and caption, in the layout of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from unclip.common.errors import UserError
from unclip.data.keys import Strings, printable
from unclip.data.readers.names import key_of


class Columns(NamedTuple):
    """Column `image` (bytes, or a struct of bytes and path) and `caption` or `text`."""

    caption: str | None  # name of the column of texts or lists of texts, if there is one
    nested: bool  # whether image is a struct
    paths: bool  # whether the struct names a path for each image


def find_columns(schema: pa.Schema, *, where: str, silent: bool = False) -> Columns:
    """The columns of a table with this schema; ``silent`` allows that there is no caption.

    Raises:
        UserError: One is missing or of another type; ``where`` names the table.
    """
    for name in ("image", "caption", "text"):
        if schema.names.count(name) > 1:
            raise UserError(f"data.source: {where} has two columns called {name}; keep one")
    image = schema.field("image").type if "image" in schema.names else pa.null()
    fields = {f.name: f.type for f in image} if pa.types.is_struct(image) else {}
    caption = next((name for name in ("caption", "text") if name in schema.names), None)
    said = silent if caption is None else _is_caption(schema.field(caption).type)
    if not (said and _is_binary(fields.get("bytes", image))):
        columns = printable(", ".join(f"{field.name} ({field.type})" for field in schema))
        raise UserError(
            f"data.source: {where} needs a column image (bytes, or a struct with bytes) and a "
            f"column caption or text (text, or a list of texts); it has {columns or 'none'}"
        )
    return Columns(caption, bool(fields), is_text(fields.get("path", pa.null())))


def row_keys(paths: Sequence[str | None], stem: str) -> Strings:
    """`key_of` each image's path; ``stem`` and the row's number where it has none of its own.

    So a row that is added changes no other row's key.
    """
    used: dict[str, None] = {}  # in their order
    for row, path in enumerate(paths):
        key = key_of(path) if path else ""
        if not key or key in used:
            key = f"{stem}-{row:08d}"
        while key in used:
            key += "+"
        used[key] = None
    return Strings.of(used)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds a text a row, in any of Arrow's forms."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(
        test(kind)
        for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    )


def _is_caption(kind: pa.DataType) -> bool:
    """Texts, or lists of them."""
    if any(test(kind) for test in _LISTS):
        kind = kind.value_type
    return is_text(kind) or _is_binary(kind)


_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)


def _is_binary(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(
        test(kind)
        for test in (
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
            pa.types.is_fixed_size_binary,
        )
    )
