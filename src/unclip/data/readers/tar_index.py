"""Where a tar's samples lie: found once, then kept beside the tar or in a cache folder."""

from __future__ import annotations

import functools
import hashlib
import io
import logging
import os
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unclip.common.atomic import atomic_write
from unclip.common.errors import UserError
from unclip.data import files
from unclip.data.files import File
from unclip.data.keys import Strings, key_hashes, printable
from unclip.data.readers.source import key_of
from unclip.data.remote import Unreadable

logger = logging.getLogger(__name__)

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
_COLUMN = {**dict.fromkeys(IMAGE_ENDINGS, 0), "txt": 1, "json": 2}
_BESIDE = ".index.npz"
_FORMAT = 1


class TarIndex(NamedTuple):
    """The samples of one tar."""

    keys: Strings
    hashes: np.ndarray  # uint64 [N]: `key_hashes` of the keys
    spans: np.ndarray  # int64 [N, 3, 2]: offset and size of image, txt and json; offset -1: none
    members: int  # files that lie wholly inside the tar
    damaged: bool  # the tar does not end as one should


def tar_index(tar: File) -> TarIndex:
    """The index of ``tar`` from beside it, from the cache, or made now and put into the cache.

    One that does not fit the tar is rebuilt. The cache is `$UNCLIP_CACHE` (`~/.cache/unclip`).

    Raises:
        UserError: It is no uncompressed tar, or cannot be read.
    """
    cached = _cache_path(tar)
    index = _beside(tar) or _cached(cached, tar)
    if index is None:
        index = _scan(tar)
        try:
            _write(cached, index, tar.size, tar.stamp)
        except OSError as error:
            _warn_unwritable(str(cached.parent), str(error.strerror))
    return index


def write_beside(tar_path: str | Path) -> None:
    """Write the index of a local tar to `NAME.tar.index.npz`, where every reader looks first.

    Raises:
        UserError: It is no uncompressed tar.
        OSError: The folder cannot be written.
    """
    tar = files.stat_file(str(tar_path))
    # The tar's own folder may be copied, which gives it another modification time.
    _write(Path(tar.path + _BESIDE), _scan(tar), tar.size, stamp="")


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
            keys = Strings(found["blob"], found["offsets"])
            index = TarIndex(keys, found["hashes"], found["spans"], members, bool(damaged))
        return index if _is_sound(index, tar.size) else None
    except Exception:  # a damaged .npz can raise nearly anything
        return None


def _is_sound(index: TarIndex, size: int) -> bool:
    """Whether every number in an index that anyone may have written can be used."""
    (blob, offsets), (_, hashes, spans, *_) = (index.keys.blob, index.keys.offsets), index
    count = len(hashes)
    kinds = (blob.dtype.str, offsets.dtype.str, hashes.dtype.str, spans.dtype.str)
    if kinds != ("|u1", "<i8", "<u8", "<i8") or spans.shape != (count, 3, 2):
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
    return bool((~held | ((length >= 0) & (length <= size) & (start <= size - length))).all())


def _scan(tar: File) -> TarIndex:
    """The index made from the headers of all members."""
    members, damaged = _members(tar)
    rows: dict[str, list[int]] = {}
    for path, *span in members:
        name = path.rpartition("/")[2]
        column = _COLUMN.get(name.partition(".")[2].lower())
        if column is not None and not name.startswith("."):
            rows.setdefault(key_of(path), [-1] * 6)[2 * column : 2 * column + 2] = span
    spans = np.array(list(rows.values()), dtype=np.int64).reshape(-1, 3, 2)
    if not (spans[:, 0, 0] >= 0).any():
        endings = ", ".join(f".{ending}" for ending in IMAGE_ENDINGS)
        raise UserError(f"data.source: {tar.path} holds no image ({endings})")
    return TarIndex(Strings.of(rows), key_hashes(rows), spans, len(members), damaged)


class _Members(NamedTuple):
    found: list[tuple[str, int, int]]  # path, offset and size of files that lie wholly inside
    damaged: bool  # the archive does not end as one should


def _members(tar: File) -> _Members:
    """The regular files in a tar. `tarfile` alone takes some cut-off tars for whole ones."""
    found: list[tuple[str, int, int]] = []
    with tar.open() as file:
        try:
            archive = tarfile.TarFile(fileobj=file)
        except UserError:
            raise
        except Exception as error:  # a damaged header can raise nearly anything
            problem = f"is not an uncompressed tar ({printable(str(error))})"
            raise UserError(f"data.source: {tar.path} {problem}") from None
        try:
            for member in archive:
                if archive.offset <= member.offset:  # of a negative size: it would never end
                    return _Members(found, damaged=True)
                whole = member.offset_data + member.size <= tar.size
                if member.isfile() and not member.issparse() and whole:
                    found.append((member.name, member.offset_data, member.size))
                archive.members = []  # type: ignore[attr-defined]  # a kilobyte each
        except UserError:
            raise
        except Exception:
            return _Members(found, damaged=True)
        file.seek(archive.offset)
        # POSIX: zero blocks end the archive.
        return _Members(found, damaged=file.read(512) != bytes(512))
