"""A tar as img2dataset and webdataset write it: key.jpg beside key.txt or key.json."""

from __future__ import annotations

import hashlib
import logging
import zlib
from pathlib import Path

import numpy as np

from unclip.common.errors import UserError
from unclip.data import files
from unclip.data.decode import LIMITS, BadSample, Limits, json_fields
from unclip.data.readers.inventory import Inventory
from unclip.data.readers.source import RawSample, Reader, digest
from unclip.data.readers.tar_index import tar_index
from unclip.data.readers.tar_members import HEADER
from unclip.data.remote import Unreadable

logger = logging.getLogger(__name__)


class TarSource(Reader):
    """The samples of one uncompressed tar, found by their offsets and read in place.

    The caption is the .txt, or the `caption` or `text` of the .json (one, or a list), whose `z_i`
    is read as well. Of two members with one name the later counts, as when a tar is unpacked. What
    belongs to no sample is counted (see `inventory`).

    Args:
        path: The tar, a local path or a URL.
        on_error: What a cut-off or damaged tar does: `error` stops, `skip` uses its whole members.
        limits: Which images are refused.

    Raises:
        UserError: It is not a tar, holds no image, or is damaged and ``on_error`` is `error`.
    """

    def __init__(self, path: str | Path, *, on_error: str = "error", limits: Limits = LIMITS):
        self._file = files.stat_file(str(path))
        self._index = tar_index(self._file)
        super().__init__(self._index.keys, limits)
        if self._index.damaged:
            whole = f"after {self._index.members} whole members"
            problem = f"data.source: {path} is cut off or damaged {whole}"
            if on_error == "error":
                raise UserError(f"{problem}; copy it again, or use those: data.on_error=skip")
            logger.warning("%s; using those", problem)

    def raw(self, index: int) -> RawSample:
        """Sample ``index`` undecoded."""
        key = self._keys[index]
        where = f"{self._file.path}: {key}"
        try:
            data = self._read(index, 0)
            if data is None:
                raise BadSample(f"{where}: it has no image")
            caption, z_i = self._read(index, 1), None
            if caption is None and (fields := self._read(index, 2)) is not None:
                caption, z_i = json_fields(fields, where=where)
        except Unreadable as problem:
            raise BadSample(f"{where}: {problem.reason}") from None
        return RawSample(key, where, data, caption, z_i)

    def hashes(self) -> np.ndarray:
        """See `readers.source.hashes`."""
        return self._index.hashes

    def shards(self) -> np.ndarray:
        """The tar is one."""
        return np.array([len(self)])

    def fingerprint(self) -> str:
        """A hash of the members' names, places and sizes."""
        places = hashlib.blake2b(self._index.spans.astype("<i8").data, digest_size=8).hexdigest()
        return digest((self._keys.digest(), places))

    def inventory(self) -> Inventory:
        """See `inventory_of`; of the tar's members."""
        return self._index.files

    def _read(self, index: int, column: int) -> bytes | None:
        """The member in ``column``, of which the header is still the one that was indexed."""
        offset, size = self._index.spans[index, column].tolist()
        if offset < 0:
            return None
        data = self._file.read(offset - HEADER, HEADER + size)
        if zlib.crc32(data[:HEADER]) != self._index.headers[index, column]:
            stale = f"is not what its index says; remove {self._file.path}.index.npz"
            raise Unreadable(self._file.path, stale)
        return data[HEADER:]
