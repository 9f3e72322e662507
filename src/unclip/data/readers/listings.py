"""What a folder says about its images: `metadata.jsonl`, `metadata.csv`, or files beside each."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.data import files
from unclip.data.decode import parse_json
from unclip.data.keys import printable
from unclip.data.readers.inventory import Inventory
from unclip.data.readers.names import ending_of, is_hidden, is_image, stem_of, why_unread
from unclip.data.readers.source import digest

logger = logging.getLogger(__name__)

METADATA = ("metadata.jsonl", "metadata.csv")
_CAPTIONS = ("txt", "json")  # beside an image, the first that is there
_TABLES = ("csv", "tsv", "jsonl", "json", "txt", "xlsx")  # that may hold the captions of a folder


class Listing(NamedTuple):
    """The images of a folder."""

    # As they stand there, by file name; checked when a sample is read. Where they lie beside the
    # images: the name of the caption's file, if there is one.
    captions: dict[str, list[Any]]
    fingerprint: str  # changes with the listing
    name: str = ""  # of its file, within the folder; empty where captions lie beside the images
    files: Inventory | None = None  # counted already: what lies in the folder


def find_listing(folder: str, *, silent: bool = False) -> Listing:
    """The listing of ``folder``: the first of `METADATA` that is there, else the files beside.

    ``silent`` allows that no image has a caption.

    Raises:
        UserError: It cannot be used; the message names the line.
    """
    for name, parse in zip(METADATA, (_jsonl, _csv)):
        path = files.join(folder, name)
        if files.exists(path):
            data = files.read(path)
            captions = parse(_text(data, path), path)
            return Listing(captions, hashlib.blake2b(data, digest_size=8).hexdigest(), name)
    return _beside(folder, silent)


def count_files(folder: str, listing: Listing, names: Iterable[str]) -> Inventory | None:
    """Every file in ``folder``, of which ``names`` are listed; None where only a server knows."""
    if listing.files is not None or files.is_url(folder):
        return listing.files
    found, named, walked = Inventory(), set(_plain(names)), list(files.walk(folder))
    # As `FileSource` reads them: in another of Unicode's normal forms where there is no such file.
    lacking = named - {file.name for file in walked}
    other = {unicodedata.normalize("NFC", name) for name in lacking}
    where = files.last_part(listing.name)
    for file in walked:
        if (
            file.name in named
            or file.name == listing.name
            or unicodedata.normalize("NFC", file.name) in other
        ):
            found.read += 1
        elif file.problem:
            found.leave_out(file.name, file.problem)
        elif is_hidden(file.name) or not (is_image(file.name) or _is_caption(file.name)):
            found.leave_out(file.name, why_unread(file.name))
        else:
            found.leave_out(file.name, f"not named in {where}")
    return found


def inside(name: Any, *, where: str) -> str:
    """``name``, spelt as `files.walk` does, if it is a file name that stays in its folder.

    Raises:
        UserError: It is not; ``where`` begins the message.
    """
    path = PurePosixPath(name) if isinstance(name, str) else PurePosixPath()
    if not path.name or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise UserError(f"{where}: {name!r} is not a name of a file in the folder")
    return str(path)


def add(captions: dict[str, list[Any]], name: str, more: Any) -> None:
    """Another caption, a list of them, or None, of file ``name``."""
    if more is not None:
        captions.setdefault(name, []).extend(more if isinstance(more, list) else [more])
    else:
        captions.setdefault(name, [])


def _plain(names: Iterable[str]) -> list[str]:
    """File names as `files.walk` gives them."""
    return [str(PurePosixPath(name)) for name in names]


def _is_caption(name: str) -> bool:
    return ending_of(name) in _CAPTIONS


def _text(data: bytes, path: str) -> str:
    """A listing's text. Surrogates keep the rest readable where one caption is not UTF-8."""
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff") or data[:32].count(0) > len(data[:32]) / 4
    if wide:  # it begins with the names of fields, of which at least every other byte is 0
        raise UserError(f"data.source: {path} is UTF-16 or UTF-32 text; save it as UTF-8")
    if (at := data.find(0)) >= 0:
        line, before = data.count(b"\n", 0, at) + 1, data[data.rfind(b"\n", 0, at) + 1 : at]
        column = len(before.decode("utf-8-sig", "replace")) + 1
        place = f"{path} line {line} column {column}"
        logger.warning("data.source: %s has a NUL byte, which is not text; remove it", place)
    return data.decode("utf-8-sig", "surrogateescape")


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
            split = next((c for c in ";\t|" if any(c in name for name in header)), None)
            hint = f"; separate its fields by commas, not by {split!r}" if split else ""
            raise UserError(
                f"data.source: {path} needs a first line with file_name and caption or text; "
                f"it has {header}{hint}"
            )
        if twice := {name for name in header if header.count(name) > 1} & {"file_name", column}:
            raise UserError(f"data.source: {path} has two columns called {min(twice)}; keep one")
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


def _beside(folder: str, silent: bool) -> Listing:
    """Every image in ``folder`` and those below it, with the .txt or .json of the same name."""
    found = Inventory()
    kept: list[files.FoundFile] = []
    for file in files.walk(folder):
        if file.problem:
            found.leave_out(file.name, file.problem)
        elif is_hidden(file.name) or not (is_image(file.name) or _is_caption(file.name)):
            found.leave_out(file.name, why_unread(file.name))
        else:
            kept.append(file)
    images = [file.name for file in kept if is_image(file.name)]
    texts = [file.name for file in kept if not is_image(file.name)]
    captions = pair(images, texts)
    used = {name for names in captions.values() for name in names}
    if images and not used and not silent:
        _refuse_silent(folder, images[0], len(images))
    stems = {stem_of(name) for name in images}
    for name in texts:
        if name not in used:
            further = stem_of(name) in stems
            reason = "a further text of an image" if further else "a text without an image"
            found.leave_out(name, reason)
    found.read = len(images) + len(used)
    listed = [(f.name, f.size) for f in kept if ending_of(f.name) != "json" or f.name in used]
    return Listing(captions, digest(listed), files=found)


def pair(images: list[str], texts: list[str]) -> dict[str, list[Any]]:
    """The caption file of each image, in a list; an empty list where there is none.

    They share their names up to the ending; a text that shares no image's name is that of one whose
    name is the same in another of Unicode's normal forms (macOS).
    """
    stems = {stem_of(image) for image in images}
    exact: dict[str, str] = {}
    other: dict[str, str] = {}
    for ending in _CAPTIONS:
        for name in sorted(texts, reverse=True):  # of a.txt and a.TXT the first
            stem = stem_of(name)
            own = stem in stems
            table, key = (exact, stem) if own else (other, unicodedata.normalize("NFC", stem))
            if ending_of(name) == ending == ending_of(table.get(key, name)):
                table[key] = name
    found: dict[str, list[Any]] = {}
    for image in images:
        stem = stem_of(image)
        text = exact.get(stem) or other.get(unicodedata.normalize("NFC", stem))
        found[image] = [] if text is None else [text]
    return found


def _refuse_silent(folder: str, image: str, count: int) -> None:
    """Stop where no image has a caption, and name what may hold the captions."""
    tables = [f.name for f in files.walk(folder) if ending_of(f.name) in _TABLES]
    below = next((n for n in tables if "/" in n and files.last_part(n) in METADATA), None)
    if below is not None:
        hint = (
            f"{below} lies there: name its folder, data.source={folder}/{below.rpartition('/')[0]}"
        )
    elif tables:
        hint = (
            f"{tables[0]} lies there, which is not read: make it a metadata.csv with the columns "
        )
        hint += "file_name and caption (or name the file itself if it is of COCO's form)"
    else:
        hint = (
            "or give all captions in a metadata.csv with the columns file_name and caption, or one "
        )
        hint += 'for all: data.caption="a photo of a dog"'
    raise UserError(
        f"data.source: {folder}: none of its {counted(count, 'image')} has a caption beside it, as "
        f"{printable(stem_of(image))}.txt; {printable(hint)}"
    )
