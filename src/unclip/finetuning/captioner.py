"""Captions of a folder's images that have none, by a model that captions images."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from unclip.common.atomic import atomic_write
from unclip.common.blank import is_blank
from unclip.common.errors import UserError
from unclip.common.progress import bar_interval
from unclip.data import files
from unclip.data.decode import BadSample, decode_captions, decode_image, json_caption
from unclip.data.readers.listings import METADATA, find_listing
from unclip.data.readers.names import ending_of, is_hidden, is_image
from unclip.data.remote import Unreadable

BEGUN = ".captions.jsonl"  # what was written before an interruption; readers pass it over
Describe = Callable[[Sequence[np.ndarray]], list[str]]
"""A caption for each image ``uint8 [H, W, 3]``."""


class Captioned(NamedTuple):
    """What became of a folder's images."""

    had: int  # captions before
    new: int
    without: int  # images that cannot be read, or of which the model says nothing


def captions_of(folder: Path) -> dict[str, list[str]]:
    """The captions of each image in ``folder``, below it too; none of an image that has none.

    Raises:
        UserError: the folder has no images, or a caption cannot be read.
    """
    listing = find_listing(str(folder), silent=True)
    found = {
        name: _said(folder, name, captions, beside=not listing.name)
        for name, captions in listing.captions.items()
    }
    for file in files.walk(str(folder)) if listing.name else ():
        if is_image(file.name) and not is_hidden(file.name) and not file.problem:
            found.setdefault(file.name, [])
    if not found:
        raise UserError(f"{folder}: has no images; name a folder of image files")
    return found


def _said(folder: Path, name: str, captions: list[Any], *, beside: bool) -> list[str]:
    """What a listing says of an image, or the files beside it."""
    where, said = f"{folder}/{name}", captions
    try:
        if beside:
            data = [files.read(files.join(str(folder), text)) for text in captions]
            said = [
                json_caption(each, where=where) if ending_of(text) == "json" else each
                for text, each in zip(captions, data)
            ]
        return [text for one in said for text in decode_captions(one, where=where)]
    except (BadSample, Unreadable) as problem:
        raise UserError(f"{problem}; correct it first: captions are never replaced") from None


def caption_folder(folder: Path, describe: Describe, *, batch: int = 8) -> Captioned:
    """Give each image of ``folder`` that has no caption one, in its ``metadata.jsonl``.

    Captions that are there stay as they are; those of files beside the images or of a
    ``metadata.csv``, which readers would then pass over, are repeated in it. What an interrupted
    call has written is kept.

    Raises:
        UserError: as `captions_of`, or the folder cannot be written.
    """
    before = captions_of(folder)
    left = [name for name, captions in before.items() if not captions]
    path, begun, new = folder / METADATA[0], folder / BEGUN, dict[str, str]()
    try:
        if left:
            new = _read_begun(begun, left)
            with begun.open("a", encoding="utf-8") as file:
                for name, caption in _described(folder, left, new, describe, batch):
                    new[name] = caption
                    file.write(_row(name, caption))
                    file.flush()
        if new:
            rows = [_row(name, caption) for name, caption in new.items()]
            if path.exists():
                rows = [path.read_text(encoding="utf-8").rstrip("\n") + "\n", *rows]
            else:
                rows = [_row(n, text) for n, had in before.items() for text in had] + rows
            with atomic_write(path) as scratch:
                scratch.write_text("".join(rows), encoding="utf-8")
        begun.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None
    return Captioned(len(before) - len(left), len(new), len(left) - len(new))


def _described(
    folder: Path, names: Sequence[str], there: dict[str, str], describe: Describe, batch: int
) -> Iterator[tuple[str, str]]:
    """Names and new captions of those of ``names`` that are not ``there``."""
    todo = [name for name in names if name not in there]
    with tqdm(total=len(todo), desc="captioning", unit="image", mininterval=bar_interval()) as bar:
        for first in range(0, len(todo), batch):
            images: dict[str, np.ndarray] = {}
            for name in todo[first : first + batch]:
                with contextlib.suppress(BadSample, Unreadable):  # counted
                    data = files.read(files.join(str(folder), name))
                    images[name] = decode_image(data, where=name)
            captions = describe(list(images.values())) if images else []
            for name, caption in zip(images, captions):
                if not is_blank(caption):
                    yield name, " ".join(caption.split())
            bar.update(len(todo[first : first + batch]))


def _read_begun(path: Path, names: Sequence[str]) -> dict[str, str]:
    """The captions of an interrupted call, the last line perhaps cut off."""
    found: dict[str, str] = {}
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            if row["file_name"] in names and isinstance(row["caption"], str):
                found[row["file_name"]] = row["caption"]
    if path.exists():  # whole lines alone, so that the next is not appended to half of one
        path.write_text("".join(_row(*item) for item in found.items()), encoding="utf-8")
    return found


def _row(name: str, caption: str) -> str:
    return json.dumps({"file_name": name, "caption": caption}, ensure_ascii=False) + "\n"
