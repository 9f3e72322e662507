"""The files of a bundle, from a zip or a folder that may be hostile, and their way to the disk."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, Protocol

from unclip.common.errors import UserError
from unclip.sharing.layout import (
    CARD,
    MANIFEST,
    MAX_FILES,
    Manifest,
    check_name,
    limit_of,
    read_manifest,
)
from unclip.sharing.reading import Refused

RATIO = 200  # bytes that one byte of a zip may become
_AT_ONCE = 4 << 20  # bytes that may be read in one go
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)


class Members(Protocol):
    """Where a bundle's files come from."""

    bundle: str  # its name in errors
    names: list[str]
    most: int  # bytes that all may have together

    def open(self, name: str) -> IO[bytes]:
        """A file to read from its beginning."""
        ...


@contextmanager
def opened(path: Path, bundle: str) -> Iterator[Members]:
    """The members of the zip or folder ``path``; raises `UserError` where it is neither."""
    if path.is_dir():
        yield _Folder(path, bundle)
        return
    try:
        file = _Frugal(path)
    except OSError as error:
        raise UserError(f"{bundle}: cannot be read: {error.strerror}; name a bundle") from None
    with file:
        try:
            archive = zipfile.ZipFile(file)
        except (*_DAMAGED, ValueError) as error:
            raise UserError(
                f"{bundle}: is not a complete zip file ({error}); fetch it again"
            ) from None
        with archive:
            yield _Zip(archive, bundle, path.stat().st_size)


def take(members: Members, into: Path) -> Manifest:
    """Copy a bundle into the empty folder ``into``, every byte counted and every file verified.

    Raises:
        UserError: anything is not as the manifest says; ``into`` may hold a part then.
    """
    names, bundle = members.names, members.bundle
    if len(names) > MAX_FILES:
        raise UserError(f"{bundle}: holds more than {MAX_FILES} files, which no bundle does")
    _check_each(members)
    if MANIFEST not in names:
        raise UserError(f"{bundle}: is not a bundle: it has no {MANIFEST}")
    _copy(members, MANIFEST, into, limit_of(MANIFEST))
    manifest = read_manifest(into / MANIFEST, bundle)
    check_names(members, manifest)
    total = sum(file.size for file in manifest.files.values())
    free = shutil.disk_usage(into).free
    if total > min(members.most, free):
        room = f"{free:,} free on the disk" if free < members.most else f"{members.most:,} at most"
        raise UserError(f"{bundle}: its files have {total:,} bytes, {room}")
    for name, file in manifest.files.items():
        if _copy(members, name, into, file.size) != (file.sha256, file.size):
            raise Refused(bundle, name, f"is not the file that {MANIFEST} has (checksum or size)")
    if CARD in names:
        _copy(members, CARD, into, limit_of(CARD))
    return manifest


def check_names(members: Members, manifest: Manifest) -> None:
    """Refuse a bundle whose files are not those of its manifest, by their names.

    Raises:
        UserError: names the first that is a bad one, there twice, missing or too many.
    """
    _check_each(members)
    names, bundle = members.names, members.bundle
    listed = {*manifest.files, MANIFEST}
    for name in sorted(listed - set(names)):
        raise Refused(bundle, name, "is missing from the bundle")
    for name in sorted(set(names) - listed - {CARD}):
        raise Refused(bundle, name, f"is not in {MANIFEST}")


def _check_each(members: Members) -> None:
    for name in members.names:
        check_name(members.bundle, name)
        if members.names.count(name) > 1:
            raise Refused(members.bundle, name, "is there twice")


def _copy(members: Members, name: str, into: Path, most: int) -> tuple[str, int]:
    """Copy a member of at most ``most`` bytes; returns its sha256 and size."""
    digest, size = hashlib.sha256(), 0
    target = into / name
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with members.open(name) as source, target.open("xb") as file:
            while chunk := source.read(min(1 << 20, most + 1 - size)):
                size += len(chunk)
                if size > most:
                    raise Refused(members.bundle, name, f"has more than {most:,} bytes")
                digest.update(chunk)
                file.write(chunk)
    except _DAMAGED as error:
        reason = str(error).split("\n")[0]
        raise Refused(members.bundle, name, f"cannot be unpacked ({reason})") from None
    return digest.hexdigest(), size


class _Frugal(io.FileIO):
    """A file that is never read whole, so that no directory of a zip fills the memory."""

    def read(self, size: int | None = -1) -> bytes:
        left = os.fstat(self.fileno()).st_size - self.tell()
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > _AT_ONCE:
            raise ValueError("its directory is too large")
        return super().read(wanted) if wanted > 0 else b""


class _Zip:
    """The members of a zip, each refused unless it is a plain file in a place of its own."""

    def __init__(self, archive: zipfile.ZipFile, bundle: str, size: int):
        self.bundle, self.most = bundle, RATIO * size
        self._archive = archive
        entries = archive.infolist()
        self.names = [entry.orig_filename for entry in entries]
        end = 0
        for entry in sorted(entries, key=lambda entry: entry.header_offset)[: MAX_FILES + 1]:
            name = entry.orig_filename
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if entry.flag_bits & 1:
                raise Refused(bundle, name, "is encrypted")
            if kind not in (0, stat.S_IFREG):
                raise Refused(bundle, name, "is not a plain file (a link, device or folder)")
            if entry.header_offset < end:
                raise Refused(bundle, name, "lies over another file in the zip")
            end = entry.header_offset + entry.compress_size
            if entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
                raise Refused(bundle, name, "has two sizes")
            if entry.file_size > RATIO * max(entry.compress_size, 1):
                raise Refused(bundle, name, f"unpacks to more than {RATIO} times its size")

    def open(self, name: str) -> IO[bytes]:
        return self._archive.open(name)


class _Folder:
    """The members of a folder; links are refused."""

    def __init__(self, path: Path, bundle: str):
        self.bundle, self.path = bundle, path
        self.most = 1 << 40
        self.names = []
        folders = [path]
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    name = Path(entry.path).relative_to(path).as_posix()
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False):
                        self.names.append(name)
                    else:
                        raise Refused(bundle, name, "is not a plain file (a link, device or pipe)")
                    if len(self.names) + len(folders) > MAX_FILES:
                        raise UserError(
                            f"{bundle}: holds more than {MAX_FILES} files, which no bundle does"
                        )
        self.names.sort()

    def open(self, name: str) -> BinaryIO:
        return (self.path / name).open("rb")
