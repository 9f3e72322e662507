"""A folder of images with a `metadata.jsonl`: one {"file_name": ..., "caption": ...} a line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from data_modules.decode import BadSample
from data_modules.readers.source import Raw, decoded, key_of
from data_modules.sample import Sample
from unclip.types import UserError

METADATA = "metadata.jsonl"


class _Entry(NamedTuple):
    file_name: str
    caption: Any  # as it stands in the file; checked when the sample is read


class FolderSource:
    """The images that ``folder/metadata.jsonl`` lists, with its `caption` or `text`.

    Raises:
        UserError: The listing cannot be read; the message names the line.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        listing = (folder / METADATA).read_bytes()
        self._fingerprint = hashlib.blake2b(listing, digest_size=8).hexdigest()
        self._entries = [
            _entry(line, where=f"{folder / METADATA} line {number}")
            for number, line in enumerate(listing.split(b"\n"), start=1)
            if line.strip()
        ]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        return decoded(self.raw(index))

    def raw(self, index: int) -> Raw:
        """Sample ``index`` undecoded."""
        entry = self._entries[index]
        path = self._folder / entry.file_name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BadSample(f"{path}: cannot be read ({error.strerror})") from None
        return Raw(self.key(index), str(path), data, entry.caption)

    def key(self, index: int) -> str:
        """The file name without its ending."""
        return key_of(self._entries[index].file_name)

    def shards(self) -> None:
        """Every file is read alone."""

    def fingerprint(self) -> str:
        """A hash of the listing."""
        return self._fingerprint


def _entry(line: bytes, *, where: str) -> _Entry:
    try:
        # Surrogates keep a caption that is not UTF-8 readable as JSON: one bad sample, not a stop.
        fields = json.loads(line.decode("utf-8", "surrogateescape"))
    except ValueError as error:
        raise UserError(f"data.source: {where} is not JSON ({error})") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("file_name"), str):
        raise UserError(f'data.source: {where} needs a "file_name" and a "caption"')
    return _Entry(fields["file_name"], fields.get("caption", fields.get("text")))
