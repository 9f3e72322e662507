"""The one place that touches data files: local paths and fsspec URLs alike."""

from __future__ import annotations

import functools
import glob
import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from braceexpand import braceexpand

from unclip.common.errors import UserError
from unclip.common.home import expanded
from unclip.data.remote import Unreadable, file_info, with_retries

BLOCK = 4 * 2**20  # bytes a remote file is read by
_BLOCKS = 64  # kept in memory per process
_URL = re.compile(r"([a-zA-Z][\w+.-]*::)*[a-zA-Z][\w+.-]*://")


class File(NamedTuple):
    """A file as it was when it was looked at; reads by position, in any thread or process."""

    path: str
    size: int  # bytes
    stamp: str  # changes when the content does: times of the last changes, or entity tag

    def read(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes from ``offset``.

        Raises:
            Unreadable: They cannot be read, or the file is no longer what it was.
        """
        if not is_url(self.path):
            with _reasons(self.path):
                data = _descriptor(self).read(offset, size)
        elif size > BLOCK * _BLOCKS // 4:  # would push everything else out
            data = _fetch(self, offset, offset + size)
        else:
            first, last = offset // BLOCK, (offset + size - 1) // BLOCK
            blocks = b"".join(_block(self, number) for number in range(first, last + 1))
            data = blocks[offset - first * BLOCK :][:size]
        if len(data) < size:
            raise Unreadable(self.path, "became shorter since it was opened")
        return data

    def open(self) -> BinaryIO:
        """The file for a library that reads it by itself.

        Raises:
            Unreadable: It is gone, or may not be read.
        """
        if is_url(self.path):
            return cast(BinaryIO, _Remote(self))
        with _reasons(self.path):
            return open(self.path, "rb")


def stat_file(path: str) -> File:
    """The file at ``path``, which exists.

    Raises:
        Unreadable: It does not exist, or its size is unknown.
    """
    if not is_url(path):
        with _reasons(path):
            status = os.stat(path)
        # The time of the last change too: `touch -r` and `rsync -t` keep that of the modification.
        stamp = f"{status.st_mtime_ns}-{status.st_ctime_ns}"
        return File(path, status.st_size, stamp)
    info = file_info(path)
    if info.get("size") is None:
        raise Unreadable(path, "cannot be read by parts (the server does not tell its size)")
    stamps = ("ETag", "etag", "mtime", "LastModified", "Last-Modified", "last_modified", "updated")
    stamp = next((str(info[key]) for key in stamps if info.get(key)), "")
    return File(path, info["size"], stamp)


def read(path: str) -> bytes:
    """All of a small file.

    Raises:
        Unreadable: It cannot be read, or is a device or a pipe.
    """
    if is_url(path):
        return with_retries(path, lambda system, name: system.cat_file(name))
    with _reasons(path):
        # Reading a pipe would block, and reading a device need not end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Unreadable(path, "cannot be read (not a regular file)")
        with open(path, "rb") as file:
            return file.read()


def cache_folder(kind: str) -> Path:
    """Where what was found out about data of a kind is kept: in `$UNCLIP_CACHE`."""
    return expanded(os.environ.get("UNCLIP_CACHE", "~/.cache/unclip"), "UNCLIP_CACHE") / kind


def is_url(path: str) -> bool:
    """Whether fsspec reads ``path``: `s3://…`, `https://…`, `filecache::s3://…`."""
    return _URL.match(path) is not None


def exists(path: str) -> bool:
    """Whether there is a file or folder at ``path``."""
    if is_url(path):
        return with_retries(path, lambda system, name: system.exists(name))
    return os.path.exists(path)


def is_folder(path: str) -> bool:
    """Whether ``path`` is a folder."""
    if is_url(path):
        return with_retries(path, lambda system, name: system.isdir(name))
    return os.path.isdir(path)


def join(folder: str, name: str) -> str:
    """The path of ``name`` inside ``folder``.

    Raises:
        Unreadable: In a URL, ``name`` would begin another.
    """
    if not is_url(folder):
        return os.path.join(folder, name)
    if "::" in name:
        raise Unreadable(f"{folder}/{name}", "is not a name of a file in a URL")
    return f"{folder.rstrip('/')}/{name}"


def last_part(path: str) -> str:
    """A path's or URL's file name, without a query.

    >>> last_part("filecache::https://host/shards/0.tar?key=x")
    '0.tar'
    """
    return (path.split("?")[0] if is_url(path) else path).rstrip("/").rpartition("/")[2]


class FoundFile(NamedTuple):
    """What `walk` finds: a file, or something else that has a name."""

    name: str  # relative to the folder
    size: int  # bytes
    problem: str = ""  # why it cannot be read, if so


def walk(folder: str) -> Iterator[FoundFile]:
    """All files below ``folder``, sorted by folder and name; folders are only named if unreadable.

    Links to files are followed, links to folders are not.

    Raises:
        Unreadable: It cannot be listed.
    """
    if is_url(folder):
        base = with_retries(folder, lambda _, name: name).rstrip("/") + "/"
        found = with_retries(folder, lambda system, _: system.find(base, detail=True))
        yield from sorted(
            FoundFile(n.removeprefix(base), i.get("size") or 0) for n, i in found.items()
        )
        return
    with _reasons(folder):
        os.listdir(folder)
    problems: list[str] = []
    for place, folders, names in os.walk(folder, onerror=lambda e: problems.append(e.filename)):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in sorted([*names, *links]):
            path = os.path.join(place, name)
            relative = os.path.relpath(path, folder)
            if name in links:
                problem = "a link to a folder, which is not followed; name that folder"
                yield FoundFile(relative, 0, problem)
            elif os.path.isfile(path):
                yield FoundFile(relative, os.path.getsize(path))
            else:
                yield FoundFile(relative, 0, "a link to nothing, a device or a pipe")
    for path in problems:
        yield FoundFile(os.path.relpath(path, folder), 0, "a folder that may not be read")


def expand(spec: str) -> list[str]:
    """The paths that ``spec`` names by braces (`{000..099}`) and globs (`*`), or itself.

    Raises:
        UserError: A pattern matches nothing, or its braces do not close.
    """
    if not is_url(spec):
        spec = os.path.expanduser(spec)
        if os.path.exists(spec):
            return [spec]
    try:
        patterns = list(braceexpand(spec, escape=False))
    except ValueError:
        raise UserError(f"data.source: {spec} has a brace that does not close") from None
    paths: list[str] = []
    for pattern in patterns:
        # In a URL a question mark begins a query.
        is_glob = re.search(r"[*[]", pattern) if is_url(pattern) else glob.has_magic(pattern)
        found = matches(pattern) if is_glob else [pattern]
        if not found:
            raise UserError(f"data.source: no file matches {pattern}")
        paths += found
    return paths


def matches(pattern: str) -> list[str]:
    """The sorted paths that a glob matches, perhaps none."""
    if not is_url(pattern):
        return sorted(glob.glob(pattern, recursive=True))
    # The file system of the last link knows the names; the others only pass them on.
    head, link, tail = pattern.rpartition("::")
    found = with_retries(
        tail, lambda system, name: [system.unstrip_protocol(n) for n in system.glob(name)]
    )
    return sorted(head + link + path for path in found)


@contextmanager
def _reasons(path: str) -> Iterator[None]:
    """Whatever the operating system objects to as `Unreadable`."""
    try:
        yield
    except FileNotFoundError:
        raise Unreadable(path, "does not exist") from None
    except OSError as error:
        raise Unreadable(path, f"cannot be read ({error.strerror or error})") from None
    except ValueError as error:  # a NUL in the path, or a surrogate that no encoding has
        raise Unreadable(path, f"cannot be read ({error})") from None


# --- local ----------------------------------------------------------------------------------------


class _Descriptor:
    """An open file read by position only, so that threads and forked processes may share it."""

    def __init__(self, path: str):
        self._descriptor = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


@functools.lru_cache(maxsize=64)  # a large dataset has more shards than a process may open
def _descriptor(file: File) -> _Descriptor:
    opened = _Descriptor(file.path)
    if opened.size != file.size:
        raise Unreadable(file.path, "changed since it was opened")
    return opened


# --- remote ---------------------------------------------------------------------------------------


def _fetch(file: File, start: int, end: int) -> bytes:
    end = min(end, file.size)
    data = with_retries(file.path, lambda system, name: system.cat_file(name, start=start, end=end))
    if len(data) > end - start:
        raise Unreadable(file.path, "cannot be read by parts (the server sends whole files)")
    return data


@functools.lru_cache(maxsize=_BLOCKS)
def _block(file: File, number: int) -> bytes:
    return _fetch(file, number * BLOCK, (number + 1) * BLOCK)


class _Remote(io.RawIOBase):
    """A remote file as a library wants it, with the retries and the cache of `File.read`."""

    def __init__(self, file: File):
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}
        self._position = base[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._file.size - self._position))
        if size:
            buffer[:size] = self._file.read(self._position, size)
        self._position += size
        return size
