"""A file of weights on the web, kept in the cache."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from unclip.common.errors import UserError
from unclip.data.files import File, cache_folder, last_part, stat_file
from unclip.data.remote import Unreadable
from unclip.weights.reading.tensors import MOST_BYTES

CHUNK = 80 << 20  # bytes asked for at once; more than what `File.read` caches


def download(url: str) -> Path:
    """The file at ``url``; one that was interrupted is continued, unless it has changed since.

    Raises:
        UserError: it cannot be read, or has more than `MOST_BYTES`.
    """
    target = _target(url)
    if target.is_file():
        return target
    file = _look(url)
    try:
        stamp = hashlib.sha256(f"{file.size} {file.stamp}".encode()).hexdigest()[:8]
        part = target.with_name(f"{target.name}.{stamp}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as written:
            while (done := written.tell()) < file.size:
                written.write(file.read(done, min(CHUNK, file.size - done)))
    except Unreadable as error:
        raise _unreadable(url, error) from None
    os.replace(part, target)
    return target


def require_reachable(url: str) -> None:
    """Refuse a file that is neither in the cache nor can be read, or has more than `MOST_BYTES`.

    Raises:
        UserError: it says why.
    """
    if not _target(url).is_file():
        _look(url)


def _target(url: str) -> Path:
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{last_part(url)}"
    return cache_folder("weights") / name


def _look(url: str) -> File:
    try:
        file = stat_file(url)
    except Unreadable as error:
        raise _unreadable(url, error) from None
    if file.size > MOST_BYTES:
        raise UserError(f"{url}: has {file.size:,} bytes; the most is {MOST_BYTES:,}")
    return file


def _unreadable(url: str, error: Unreadable) -> UserError:
    return UserError(f"{url}: {error.reason}; run the same command again")
