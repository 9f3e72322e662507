"""A tar as img2dataset and webdataset write it: key.jpg beside key.txt or key.json."""

from __future__ import annotations

import functools
import json
import logging
import os
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from data_modules.decode import BadSample
from data_modules.readers.source import Raw, decoded, digest, key_of
from data_modules.sample import Sample
from unclip.types import UserError

logger = logging.getLogger(__name__)

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")
_COLUMN = {**dict.fromkeys(IMAGE_ENDINGS, 0), "txt": 1, "json": 2}


class TarSource:
    """The samples of one uncompressed tar, found by their offsets and read in place.

    Args:
        path: The tar file.
        on_error: What a cut-off or damaged tar does: `error` stops, `skip` uses its whole members.

    Raises:
        UserError: It is no tar, holds no image, or is damaged and ``on_error`` is `error`.
    """

    def __init__(self, path: Path, *, on_error: str = "error"):
        self._path = path
        scan = _scan(path)
        if scan.damaged:
            problem = f"{path} is cut off or damaged after {len(scan.members)} whole members"
            if on_error == "error":
                raise UserError(
                    f"data.source: {problem}; copy it again, or use those: data.on_error=skip"
                )
            logger.warning("data.source: %s; using those", problem)
        rows: dict[str, list[int]] = {}
        for member in scan.members:
            name = PurePosixPath(member.name).name
            column = _COLUMN.get(name.partition(".")[2].lower())
            if column is not None and not name.startswith("."):
                row = rows.setdefault(key_of(member.name), [-1] * 6)
                row[2 * column : 2 * column + 2] = member.offset_data, member.size
        self._keys = list(rows)
        # Per sample: offset and size of its image, txt and json; offset -1 where it has none.
        self._index = np.array(list(rows.values()), dtype=np.int64).reshape(-1, 3, 2)
        if not (self._index[:, 0, 0] >= 0).any():
            endings = ", ".join(f".{ending}" for ending in IMAGE_ENDINGS)
            raise UserError(f"data.source: {path} holds no image ({endings})")

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        return decoded(self.raw(index))

    def raw(self, index: int) -> Raw:
        """Sample ``index`` undecoded."""
        key = self._keys[index]
        where = f"{self._path}: {key}"
        image, text, fields = (self._read(*span, where=where) for span in self._index[index])
        if image is None:
            raise BadSample(f"{where}: it has no image")
        caption = text if text is not None else _json_caption(fields, where=where)
        return Raw(key, where, image, caption)

    def key(self, index: int) -> str:
        """The members' common name."""
        return self._keys[index]

    def shards(self) -> np.ndarray:
        """The tar is one."""
        return np.array([len(self)])

    def fingerprint(self) -> str:
        """A hash of the members' names, places and sizes."""
        return digest((self._keys, self._index.tolist()))

    def _read(self, offset: int, size: int, *, where: str) -> bytes | None:
        if offset < 0:
            return None
        try:
            data = _open(str(self._path)).read(int(offset), int(size))
        except OSError as error:
            raise BadSample(f"{where}: cannot be read ({error.strerror})") from None
        if len(data) < size:
            raise BadSample(f"{where}: the tar became shorter since it was opened")
        return data


class _Scan(NamedTuple):
    members: list[tarfile.TarInfo]  # regular files that lie wholly inside the file
    damaged: bool  # the archive does not end as one should


def _scan(path: Path) -> _Scan:
    """The members of a tar. `tarfile` alone takes some cut-off files for whole ones."""
    size = path.stat().st_size
    members = []
    try:
        with tarfile.open(path, "r:") as archive:
            damaged = False
            try:
                for member in archive:
                    if member.isfile() and member.offset_data + member.size <= size:
                        members.append(member)
            except tarfile.ReadError:
                damaged = True
            end = archive.offset
    except tarfile.ReadError as error:
        raise UserError(f"data.source: {path} is not an uncompressed tar ({error})") from None
    with path.open("rb") as file:
        file.seek(end)
        damaged = damaged or file.read(512) != bytes(512)  # POSIX: zero blocks end the archive
    return _Scan(members, damaged)


def _json_caption(data: bytes | None, *, where: str) -> Any:
    if data is None:
        return None
    try:
        fields = json.loads(data)
    except ValueError:
        raise BadSample(f"{where}: its .json cannot be read") from None
    return fields.get("caption", fields.get("text")) if isinstance(fields, dict) else None


class _File:
    """An open file read by position only, so that forked processes may share it."""

    def __init__(self, path: str):
        self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


@functools.lru_cache(maxsize=64)  # a large dataset has more shards than a process may open
def _open(path: str) -> _File:
    return _File(path)
