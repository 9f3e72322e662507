"""Captions to sample from, out of a file: lines, a table, JSON of any usual form, or COCO's."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from unclip.common.blank import is_blank
from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.seeding import derive_seed
from unclip.data.decode import BadSample, decode_captions, parse_json
from unclip.data.readers.names import ending_of, key_of
from unclip.data.readers.parquet import DAMAGE

MOST_BYTES = {"txt": 16 << 20}  # of a file of lines; of the others `_MOST_BYTES`
_MOST_BYTES = 1 << 30
_MOST_OF_A_NAME = 160  # bytes, of 255: more comes behind
_CAPTIONS = ("caption", "text")
_KEYS = ("key", "id", "file_name", "image_path", "image_id")  # the first that is there


class Caption(NamedTuple):
    """A caption and its name in the file."""

    key: str  # letters, digits, `_` and `-`; unique
    text: str


class _Row(NamedTuple):
    where: str  # in the file, for messages
    key: Any  # None where the file has none
    texts: Any  # a text or a list of texts


def read_captions(path: Path, option: str = "--captions") -> list[Caption]:
    """The captions of a file, in its order.

    A ``.csv``, ``.tsv``, ``.jsonl``, ``.json`` or ``.parquet`` has a column ``caption`` or
    ``text``, and may have one of keys: ``key``, ``id``, ``file_name``, ``image_path`` or
    ``image_id``. A ``.json`` is a list of such rows or of texts, or of COCO's form: there the
    annotation's ``id`` is the key. Any other file has a caption per line. Without keys, they are
    numbers from 0.

    Raises:
        UserError: It cannot be read, or a caption cannot be used; the line begins with ``option``.
    """
    where = f"{option} {path}"
    ending = ending_of(path.name)
    try:
        if ending == "parquet":
            rows = list(_parquet(path, where))
        else:
            most = MOST_BYTES["txt"] if ending not in _READERS else _MOST_BYTES
            rows = list(_READERS.get(ending, _lines)(_text(path, where, most), where))
        found = [
            (row.key, text) for row in rows for text in decode_captions(row.texts, where=row.where)
        ]
    except BadSample as problem:
        raise UserError(f"{problem}; correct or remove it") from None
    if not found:
        raise UserError(f"{where}: has no captions")
    return name_captions([key for key, _ in found], [text for _, text in found])


def number_captions(texts: list[str]) -> list[Caption]:
    """Captions that have no names of their own."""
    return name_captions([None] * len(texts), texts)


def name_captions(keys: list[Any], texts: list[str]) -> list[Caption]:
    """Captions with keys that can be files' names, of ``keys`` or their numbers where None."""
    return [Caption(key, text) for key, text in zip(_keys(keys), texts)]


def choose_captions(captions: list[Caption], limit: int | None) -> list[Caption]:
    """``limit`` of the captions in their order, drawn at random: whatever the seed, the same.

    Raises:
        UserError: There are not so many.
    """
    if not captions:
        raise UserError("captions: none given; give one or more")
    if limit is None:
        return captions
    if limit > len(captions):
        raise UserError(f"--limit {limit:,}: is more than {counted(len(captions), 'caption')}")
    dice = Random(derive_seed("captions", len(captions), limit))
    return [captions[k] for k in sorted(dice.sample(range(len(captions)), limit))]


def digest_captions(captions: list[Caption]) -> str:
    """A hash of the keys and texts."""
    state = hashlib.sha256()
    for caption in captions:
        state.update(f"{caption.key}\0{caption.text}\0".encode())
    return state.hexdigest()


def _keys(given: list[Any]) -> list[str]:
    """A file name for each of ``given``, its number for None.

    All differ, also where upper case and ways to write an accent are the same to a disk.
    """
    width = len(str(len(given) - 1))
    numbers = [f"{number:0{width}d}" for number in range(len(given))]
    used: dict[str, str] = {}  # in their order
    for number, key in zip(numbers, given):
        text = number if key is None else _short(re.sub(r"[^\w-]+", "_", key_of(str(key))))
        text = text or number
        name = text
        while _as_disks_see(name) in used:
            name = f"{text}-{number}" if name == text else f"{name}-"
        used[_as_disks_see(name)] = name
    return list(used.values())


def _short(name: str) -> str:
    """As much of ``name`` as a file's name has room for, which is counted in bytes."""
    return name[:100].encode()[:_MOST_OF_A_NAME].decode(errors="ignore")


def _as_disks_see(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _text(path: Path, where: str, most: int) -> str:
    """The text of a file, of which no more than ``most`` bytes are read."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error.strerror or error}") from None
    if len(data) > most:
        raise UserError(f"{where}: is larger than {most >> 20} MiB; split it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{where}: is not UTF-8 text; save it as UTF-8") from None


def _lines(text: str, where: str) -> Iterator[_Row]:
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        if not is_blank(line):
            yield _Row(f"{where} line {number}", None, line)


def _csv(text: str, where: str, delimiter: str = ",") -> Iterator[_Row]:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(rows, [])
        caption, key = _columns(header, where)
        for row in rows:
            line = f"{where} line {rows.line_num}"
            if len(row) not in (0, len(header)):
                raise UserError(
                    f"{line} has {len(row)} fields, the first line {len(header)}; put texts with "
                    "commas in quotes"
                )
            if row:
                fields = dict(zip(header, row))
                yield _Row(line, fields[key] if key else None, fields[caption])
    except csv.Error as error:
        raise UserError(f"{where} line {rows.line_num} is not CSV ({error})") from None


def _jsonl(text: str, where: str) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _object(_parsed(line, f"{where} line {number}"), f"{where} line {number}")


def _json(text: str, where: str) -> Iterator[_Row]:
    content = _parsed(text, where)
    rows = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise UserError(
            f'{where}: is neither a list of captions nor of COCO\'s form {{"annotations": '
            '[{"id": ..., "caption": ...}]}'
        )
    for number, row in enumerate(rows):
        at = f"{where} row {number}"
        yield _Row(at, None, row) if isinstance(row, str) else _object(row, at)


def _object(row: Any, where: str) -> _Row:
    if not isinstance(row, dict) or not set(_CAPTIONS) & set(row):
        raise UserError(f'{where} needs a "caption"')
    caption, key = _columns(list(row), where)
    return _Row(where, row[key] if key else None, row[caption])


def _parquet(path: Path, where: str) -> Iterator[_Row]:
    try:
        with pq.ParquetFile(path) as file:
            caption, key = _columns(file.schema_arrow.names, where)
            table = file.read([caption, *([key] if key else [])])
            texts = table[caption].to_pylist()
            keys = table[key].to_pylist() if key else [None] * len(texts)
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"{where}: cannot be read as parquet ({reason})") from None
    for number, (own, text) in enumerate(zip(keys, texts)):
        yield _Row(f"{where} row {number}", own, text)


def _parsed(text: str, where: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error})") from None


def _columns(names: list[str], where: str) -> tuple[str, str | None]:
    """The column of captions and, if there is one, that of keys."""
    caption = next((name for name in _CAPTIONS if name in names), None)
    if not names:
        raise UserError(f"{where}: is empty; its first line names the columns, caption among them")
    if caption is None:
        raise UserError(f"{where}: needs a column caption or text; it has {', '.join(names)}")
    return caption, next((name for name in _KEYS if name in names), None)


_READERS: dict[str, Callable[[str, str], Iterator[_Row]]] = {
    "csv": _csv,
    "tsv": lambda text, where: _csv(text, where, "\t"),
    "jsonl": _jsonl,
    "json": _json,
}
