"""What a folder of images says about them: `metadata.jsonl`, `metadata.csv`, or .txt files."""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from unclip.common.errors import UserError
from unclip.data import files
from unclip.data.decode import parse_json
from unclip.data.readers.source import digest
from unclip.data.readers.tar_index import IMAGE_ENDINGS

METADATA = ("metadata.jsonl", "metadata.csv")


class Listing(NamedTuple):
    """The images of a folder."""

    captions: dict[
        str, list[Any]
    ]  # as they stand there, by file name; checked when a sample is read
    fingerprint: str  # changes with the listing
    beside: bool = False  # there are none here: they are in the .txt beside each image


def find_listing(folder: str) -> Listing:
    """The listing of ``folder``: the first of `METADATA` that is there, else its .txt files.

    Raises:
        UserError: It cannot be used; the message names the line.
    """
    for name, parse in zip(METADATA, (_jsonl, _csv)):
        path = files.join(folder, name)
        if files.exists(path):
            data = files.read(path)
            # Surrogates keep the rest readable: a caption that is not UTF-8 is one bad sample.
            captions = parse(data.decode("utf-8-sig", "surrogateescape"), path)
            return Listing(captions, hashlib.blake2b(data, digest_size=8).hexdigest())
    return _text_files(folder)


def inside(name: Any, *, where: str) -> str:
    """``name`` if it is a file name that stays in its folder.

    Raises:
        UserError: It is not; ``where`` begins the message.
    """
    path = PurePosixPath(name) if isinstance(name, str) else PurePosixPath()
    if not path.name or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise UserError(f"{where}: {name!r} is no name of a file in the folder")
    return name


def add(captions: dict[str, list[Any]], name: str, more: Any) -> None:
    """Another caption, a list of them, or None, of file ``name``."""
    if more is not None:
        captions.setdefault(name, []).extend(more if isinstance(more, list) else [more])
    else:
        captions.setdefault(name, [])


def _jsonl(text: str, path: str) -> dict[str, list[Any]]:
    """One {"file_name": ..., "caption" or "text": ...} a line."""
    captions: dict[str, list[Any]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"data.source: {path} line {number}"
        try:
            fields = parse_json(line)
        except ValueError as error:
            raise UserError(f"{where} is not JSON ({error})") from None
        if not isinstance(fields, dict) or "file_name" not in fields:
            raise UserError(f'{where} needs a "file_name" and a "caption"')
        name = inside(fields["file_name"], where=where)
        add(captions, name, fields.get("caption", fields.get("text")))
    return captions


def _csv(text: str, path: str) -> dict[str, list[Any]]:
    """Columns `file_name` and `caption` or `text`; a file in several rows has several captions."""
    captions: dict[str, list[Any]] = {}
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(rows, [])
        column = next((name for name in ("caption", "text") if name in header), None)
        if column is None or "file_name" not in header:
            raise UserError(
                f"data.source: {path} needs a first line with file_name and caption or text; "
                f"it has {header}"
            )
        for row in rows:
            where = f"data.source: {path} line {rows.line_num}"
            if len(row) not in (0, len(header)):
                raise UserError(
                    f"{where} has {len(row)} fields, the first line {len(header)}; "
                    "put texts with commas in quotes"
                )
            if row:
                fields = dict(zip(header, row))
                add(captions, inside(fields["file_name"], where=where), fields[column])
    except csv.Error as error:
        raise UserError(f"data.source: {path} line {rows.line_num} is not CSV ({error})") from None
    return captions


def _text_files(folder: str) -> Listing:
    """Every image in ``folder`` and those below it, for its caption in a .txt of the same name."""
    found = [
        (name, size)
        for name, size in files.walk(folder)
        if not PurePosixPath(name).name.startswith(".")  # what macOS leaves behind
        and name.lower().endswith((".txt", *(f".{ending}" for ending in IMAGE_ENDINGS)))
    ]
    captions: dict[str, list[Any]] = {n: [] for n, _ in found if not n.lower().endswith(".txt")}
    return Listing(captions, digest(found), beside=True)
