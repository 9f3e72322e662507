"""Where a command writes: checked before the work, and nothing there is replaced unasked."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from unclip.common.errors import UserError


class Outputs:
    """The files of one call in one folder.

    If any of them is there, all of this call's get the same number behind their names: ``grid.png``
    becomes ``grid-2.png``.

    Args:
        folder: Is made when the first file is written.
        names: Files that will be written.
        force: Replace those that are there instead.
        inputs: Files that the command reads, which are never replaced.

    Raises:
        UserError: the folder cannot be written to, or an input would be replaced.
    """

    def __init__(
        self, folder: Path, names: Iterable[str], *, force: bool, inputs: Iterable[Path] = ()
    ):
        check_folder(folder)
        self.folder, names = folder, list(names)
        number, self._suffix = 1, ""
        while not force and any(self.path(name).exists() for name in names):
            number += 1
            self._suffix = f"-{number}"
        read = {path.resolve() for path in inputs}
        for path in map(self.path, names):
            if path.resolve() in read:
                raise UserError(f"--out {folder}: {path} is an input; leave out --force")

    def path(self, name: str) -> Path:
        """The file for ``name``."""
        stem, dot, extension = name.rpartition(".")
        return self.folder / f"{stem}{self._suffix}{dot}{extension}"


def check_folder(folder: Path, option: str = "--out") -> None:
    """Refuse a folder that cannot be made or written to.

    Raises:
        UserError: the line begins with ``option``.
    """
    there = folder
    while not (there.exists() or there.is_symlink()) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise UserError(f"{option} {folder}: {there} is not a folder")
    try:  # permissions alone do not say: a read-only file system, /proc
        with tempfile.TemporaryDirectory(dir=there, prefix=".unclip-"):
            pass
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{option} {folder}: {there} cannot be written to ({why})") from None


def numbered_folder(wanted: Path, marker: str, *, force: bool) -> Path:
    """``wanted``, or with a number behind its name if it holds a file ``marker`` already.

    Raises:
        UserError: it cannot be written to.
    """
    found, number = wanted, 1
    while (found / marker).exists() and not force:
        number += 1
        found = wanted.with_name(f"{wanted.name}-{number}")
    check_folder(found)
    return found


def check_file(path: Path | None, option: str, *, force: bool) -> None:
    """Refuse a file that cannot be written, or is there already unless ``force``.

    Raises:
        UserError: the line begins with ``option``.
    """
    if path is None:
        return
    check_folder(path.parent, option)
    if path.is_dir():
        raise UserError(f"{option} {path}: is a folder; name a file")
    if path.exists() and not force:
        raise UserError(f"{option} {path}: exists; name another file, or add --force to replace it")


@contextmanager
def writing(folder: Path, option: str = "--out") -> Iterator[None]:
    """Name ``folder`` in a line if writing into it fails: a full disk, a lost permission."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{option} {folder}: {error.strerror or error}") from None


def unique(names: Sequence[str]) -> list[str]:
    """``names``, those that occur before with a number behind them: a, b, a-2."""
    taken = set(names)
    found: list[str] = []
    for name in names:
        choice, number = name, 1
        while choice in found or (number > 1 and choice in taken):
            number += 1
            choice = f"{name}-{number}"
        found.append(choice)
    return found
