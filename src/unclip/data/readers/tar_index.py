"""The index of a tar: made once, then kept beside the tar or in a cache folder."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import logging
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from unclip.common.atomic import atomic_write
from unclip.data import files
from unclip.data.files import File
from unclip.data.keys import Strings
from unclip.data.readers.inventory import Inventory
from unclip.data.readers.tar_members import HEADER, TarIndex, scan_tar
from unclip.data.remote import Unreadable

logger = logging.getLogger(__name__)

_BESIDE = ".index.npz"
_FORMAT = 2
_CHECKED = 8  # headers of a local tar that are compared with its index


def tar_index(tar: File) -> TarIndex:
    """The index of ``tar`` from beside it, from the cache, or made now and put into the cache.

    One that does not fit the tar is rebuilt. The cache is `$UNCLIP_CACHE` (`~/.cache/unclip`).

    Raises:
        UserError: It is not an uncompressed tar, or cannot be read.
    """
    cached = _cache_path(tar)
    index = _beside(tar) or _cached(cached, tar)
    if index is None:
        index = scan_tar(tar)
        try:
            _write(cached, index, tar.size, tar.stamp)
        except OSError as error:
            _warn_unwritable(str(cached.parent), error.strerror or str(error))
    return index


def write_beside(tar_path: str | Path) -> None:
    """Write the index of a local tar to `NAME.tar.index.npz`, where every reader looks first.

    Raises:
        UserError: It is not an uncompressed tar.
        OSError: The folder cannot be written.
    """
    tar = files.stat_file(str(tar_path))
    # The tar's own folder may be copied, which gives it another modification time.
    _write(Path(tar.path + _BESIDE), scan_tar(tar), tar.size, stamp="")


def _beside(tar: File) -> TarIndex | None:
    try:
        return _read(files.read(tar.path + _BESIDE), tar, stamp="")
    except Unreadable:
        return None


def _cached(path: Path, tar: File) -> TarIndex | None:
    try:
        return _read(path.read_bytes(), tar, stamp=tar.stamp)
    except OSError:
        return None


def _cache_path(tar: File) -> Path:
    folder = files.cache_folder("tars")
    path = tar.path if files.is_url(tar.path) else os.path.abspath(tar.path)
    return folder / f"{hashlib.blake2b(os.fsencode(path), digest_size=16).hexdigest()}.npz"


@functools.cache  # once for each folder, not for each tar
def _warn_unwritable(folder: str, reason: str) -> None:
    logger.warning("%s cannot be written (%s): tars are indexed at every start", folder, reason)


def _write(path: Path, index: TarIndex, size: int, stamp: str) -> None:
    """An .npz at ``path``, whole or not at all."""
    with atomic_write(path) as scratch, scratch.open("wb") as file:
        np.savez(
            file,
            about=np.array([_FORMAT, size, index.members, index.damaged], dtype=np.int64),
            stamp=np.frombuffer(stamp.encode(), dtype=np.uint8),
            blob=index.keys.blob,
            offsets=index.keys.offsets,
            hashes=index.hashes,
            spans=index.spans,
            headers=index.headers,
            files=np.frombuffer(json.dumps(index.files.as_dict()).encode(), dtype=np.uint8),
        )


def _read(data: bytes, tar: File, *, stamp: str) -> TarIndex | None:
    """The index in ``data``; None when it is damaged, or not of ``tar`` as it is now."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                return None  # `_write` compresses nothing, and a bomb would
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            version, size, members, damaged = found["about"].tolist()
            if (version, size, found["stamp"].tobytes()) != (_FORMAT, tar.size, stamp.encode()):
                return None
            index = TarIndex(
                Strings(found["blob"], found["offsets"]),
                found["hashes"],
                found["spans"],
                found["headers"],
                members,
                bool(damaged),
                Inventory.of_dict(json.loads(found["files"].tobytes())),
            )
        return index if _is_sound(index, tar.size) and _fits(index, tar) else None
    except Exception:  # a damaged .npz can raise nearly anything
        return None


def _is_sound(index: TarIndex, size: int) -> bool:
    """Whether every number in an index that anyone may have written can be used."""
    blob, offsets = index.keys.blob, index.keys.offsets
    _, hashes, spans, headers, *_ = index
    count = len(hashes)
    kinds = [array.dtype.str for array in (blob, offsets, hashes, spans, headers)]
    if kinds != ["|u1", "<i8", "<u8", "<i8", "<u4"]:
        return False
    if spans.shape != (count, 3, 2) or headers.shape != (count, 3):
        return False
    if blob.ndim != 1 or hashes.ndim != 1 or offsets.shape != (count + 1,) or not count:
        return False
    if offsets[0] != 0 or offsets[-1] != len(blob) or (np.diff(offsets) <= 0).any():
        return False
    blob.tobytes().decode()
    if (blob[offsets[:-1]] >> 6 == 0b10).any():  # in the middle of a character
        return False
    start, length = spans[..., 0], spans[..., 1]
    held = start >= 0
    inside = (length >= 0) & (length <= size) & (start <= size - length) & (start >= HEADER)
    return bool((~held | inside).all())


def _fits(index: TarIndex, tar: File) -> bool:
    """Whether some headers of a local tar are where the index says; `TarSource` checks the rest.

    A tar that was replaced by one of its size and time is found out so.
    """
    if files.is_url(tar.path):
        return True  # each would fetch megabytes
    places = np.argwhere(index.spans[..., 0] >= 0)
    some = places[np.linspace(0, len(places) - 1, min(len(places), _CHECKED)).astype(np.int64)]
    return all(
        zlib.crc32(tar.read(int(index.spans[at][0]) - HEADER, HEADER)) == index.headers[at]
        for at in map(tuple, some)
    )
