"""Folders put in the place of earlier ones, of which nothing else may be lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from unclip.common.errors import UserError


def require_only(folder: Path, known: Collection[str], *, option: str) -> None:
    """Refuse to replace a folder that is a link, or holds more than what was written there.

    ``known`` are names of files below ``folder``, with slashes.

    Raises:
        UserError: names what would be lost; the line begins with ``option``, as "--out ".
    """
    if folder.is_symlink():
        raise UserError(f"{option}{folder}: is a symbolic link, which stays; name another folder")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name not in known and (path.is_symlink() or not path.is_dir()):
            raise UserError(
                f"{option}{folder}: holds {name}, which --force does not replace; name another "
                "folder"
            )


def put_in_place(made: Mapping[Path, Path], scratch: Path) -> None:
    """Move folders to where they belong; what is there goes into ``scratch``, to be removed.

    Either all are moved or, on an error, none.

    Args:
        made: Target to new folder, all on one file system with ``scratch``.
        scratch: An empty folder.
    """
    done: list[tuple[Path, Path | None]] = []
    try:
        for number, (target, new) in enumerate(made.items()):
            before = scratch / str(number) if target.exists() else None
            if before is not None:
                os.rename(target, before)
            done.append((target, before))
            os.rename(new, target)
    except OSError:
        for target, before in reversed(done):
            shutil.rmtree(target, ignore_errors=True)
            if before is not None:
                os.rename(before, target)
        raise
