"""Images that are files of their own, with captions in a listing or in a text file beside each."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from unclip.common.errors import UserError
from unclip.data import files
from unclip.data.decode import LIMITS, BadSample, Limits
from unclip.data.keys import Strings, printable
from unclip.data.readers.listings import Listing, find_listing
from unclip.data.readers.source import RawSample, Reader, keys_of
from unclip.data.remote import Unreadable


class FileSource(Reader):
    """The images of ``listing`` in ``folder``.

    The key is the file name without its ending, or with it when two would have the same key.
    Links are followed: reading an image or a caption is all that is done with what they lead to.

    Args:
        folder: Where the images are, a local path or a URL.
        listing: Their names and captions.
        limits: Which images are refused.
    """

    def __init__(self, folder: str, listing: Listing, limits: Limits):
        super().__init__(keys_of(list(listing.captions)), limits)
        self._folder = folder
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
            image = files.read(files.join(self._folder, name))
        except Unreadable as problem:
            raise BadSample(f"{where}: {problem.reason}") from None
        return RawSample(self._keys[index], where, image, self._caption(index, name, where))

    def fingerprint(self) -> str:
        """A hash of the listing."""
        return self._listing.fingerprint

    def _caption(self, index: int, name: str, where: str) -> Any:
        if not self._listing.beside:
            return json.loads(self._captions[index])
        text = f"{os.path.splitext(name)[0]}.txt"
        try:
            return files.read(files.join(self._folder, text))
        except Unreadable as problem:
            raise BadSample(f"{where}: its caption {text!r} {problem.reason}") from None


class FolderSource(FileSource):
    """A folder with `metadata.jsonl` or `metadata.csv`, or with a .txt beside each image.

    Args:
        folder: A local path or a URL; images may lie in folders below it.
        limits: Which images are refused.

    Raises:
        UserError: The listing cannot be used; the message names the line.
    """

    def __init__(self, folder: str | Path, *, limits: Limits = LIMITS):
        super().__init__(str(folder), find_listing(str(folder)), limits)
