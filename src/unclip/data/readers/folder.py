"""Images that are files of their own, with captions in a listing or in a text file beside each."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unclip.common.errors import UserError
from unclip.data import files
from unclip.data.decode import LIMITS, BadSample, Limits, json_caption
from unclip.data.keys import Strings, key_hashes, printable
from unclip.data.readers.inventory import Inventory
from unclip.data.readers.listings import Listing, count_files, find_listing
from unclip.data.readers.names import ending_of, key_of, stem_of, unique_keys
from unclip.data.readers.source import RawSample, Reader
from unclip.data.remote import Unreadable


class FileSource(Reader):
    """The images of ``listing`` in ``folder``.

    The key is the file name without its ending, see `unique_keys`.
    Links are followed: reading an image or a caption is all that is done with what they lead to.

    Args:
        folder: Where the images are, a local path or a URL.
        listing: Their names and captions.
        limits: Which images are refused.
        silent: Whether an image may have no caption.
    """

    def __init__(self, folder: str, listing: Listing, limits: Limits, silent: bool = False):
        super().__init__(Strings.of(unique_keys(list(listing.captions))), limits)
        self._folder = folder
        self._silent = silent
        self._listing = listing._replace(captions={})
        self._names = Strings.of(listing.captions)
        try:
            self._captions = Strings.of(map(json.dumps, listing.captions.values()))
        except RecursionError:
            raise UserError(f"data.source: {folder}: a caption is nested too deeply") from None

    def raw(self, index: int) -> RawSample:
        """Sample ``index`` undecoded."""
        name = self._names[index]
        where = printable(f"{self._folder}/{name}")
        try:
            image = _read(self._folder, name)
        except Unreadable as problem:
            raise BadSample(f"{where}: {problem.reason}") from None
        return RawSample(self._keys[index], where, image, self._caption(index, name, where))

    def names(self) -> Iterator[str]:
        """The images' files, relative to the folder."""
        return iter(self._names)

    def hashes(self) -> np.ndarray:
        """See `hashes`; of the names without endings, so that no other file changes the split."""
        return key_hashes(map(key_of, self._names))

    def fingerprint(self) -> str:
        """A hash of the listing."""
        return self._listing.fingerprint

    def inventory(self) -> Inventory | None:
        """See `inventory_of`."""
        return count_files(self._folder, self._listing, self._names)

    def _caption(self, index: int, name: str, where: str) -> Any:
        captions = json.loads(self._captions[index])
        if self._listing.name:
            return captions
        if self._silent and not captions:
            return None
        text = captions[0] if captions else f"{stem_of(name)}.txt"
        try:
            data = files.read(files.join(self._folder, text))
        except Unreadable as problem:
            raise BadSample(f"{where}: its caption {text!r} {problem.reason}") from None
        return json_caption(data, where=where) if ending_of(text) == "json" else data


def _read(folder: str, name: str) -> bytes:
    """An image, also if its name is listed in another of Unicode's normal forms (macOS)."""
    try:
        return files.read(files.join(folder, name))
    except Unreadable:
        for form in () if name.isascii() else ("NFC", "NFD"):
            path = files.join(folder, unicodedata.normalize(form, name))  # type: ignore[arg-type]
            if files.exists(path):
                return files.read(path)
        raise


class FolderSource(FileSource):
    """A folder with `metadata.jsonl` or `metadata.csv`, or with a .txt or .json beside each image.

    Args:
        folder: A local path or a URL; images may lie in folders below it.
        limits: Which images are refused.
        silent: Whether an image may have no caption.

    Raises:
        UserError: The listing cannot be used; the message names the line.
    """

    def __init__(self, folder: str | Path, *, limits: Limits = LIMITS, silent: bool = False):
        super().__init__(str(folder), find_listing(str(folder), silent=silent), limits, silent)
