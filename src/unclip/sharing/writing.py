"""Writes a bundle: a zip whose bytes depend on the run alone, or a folder; whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path
from typing import IO

from unclip.common.atomic import atomic_write
from unclip.common.errors import UserError
from unclip.common.hashing import file_sha256
from unclip.common.replacing import put_in_place, require_only
from unclip.common.scratch import scratch_folder
from unclip.sharing.layout import CARD, MANIFEST, read_manifest

Content = dict[str, bytes | Path]
"""A member's name -> its bytes, or the file that holds them."""

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip can name


def sha256_of(content: bytes | Path) -> str:
    """Hex digest of a member."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    return file_sha256(content)


def size_of(content: bytes | Path) -> int:
    """Bytes of a member."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def write_zip(content: Content, path: Path, *, force: bool) -> None:
    """Members in order of their names, stored as they are: compressors differ.

    Raises:
        UserError: ``path`` exists, without ``force``, or cannot be written.
    """
    if path.exists() and not force:
        raise UserError(f"--to {path}: exists; name another file, or add --force to replace it")
    try:
        with atomic_write(path) as scratch, zipfile.ZipFile(scratch, "w") as archive:
            for name in sorted(content):
                info = zipfile.ZipInfo(name, _EPOCH)
                info.create_system, info.external_attr = 3, 0o100644 << 16
                info.file_size = size_of(content[name])
                with archive.open(info, "w") as target:
                    _pour(content[name], target)
    except OSError as error:
        raise UserError(f"--to {path}: cannot be written: {error.strerror}") from None


def write_folder(content: Content, path: Path, *, force: bool) -> None:
    """The members below ``path``.

    Raises:
        UserError: ``path`` exists, without ``force`` or without being a bundle; or cannot be
            written.
    """
    if path.exists() and not force:
        raise UserError(f"--to {path}: exists; name another folder, or add --force to replace it")
    if path.exists() and not (path / MANIFEST).is_file():
        raise UserError(f"--to {path}: --force replaces bundles only, this is none")
    if path.exists():
        files = read_manifest(path / MANIFEST, str(path)).files
        require_only(path, {MANIFEST, CARD, *files}, option="--to ")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(path.parent, ".share-") as scratch:
            whole = scratch / "bundle"
            fill(content, whole)
            before = scratch / "before"
            before.mkdir()
            put_in_place({path: whole}, before)
    except OSError as error:
        raise UserError(f"--to {path}: cannot be written: {error.strerror}") from None


def fill(content: Content, folder: Path, *, link: bool = False) -> None:
    """Write the members into a new ``folder``; with ``link``, files only as links."""
    for name, what in content.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if link and isinstance(what, Path):
            target.symlink_to(what.resolve())
            continue
        with target.open("xb") as file:
            _pour(what, file)


def _pour(content: bytes | Path, target: IO[bytes]) -> None:
    if isinstance(content, bytes):
        target.write(content)
    else:
        with content.open("rb") as file:
            shutil.copyfileobj(file, target, 1 << 20)
