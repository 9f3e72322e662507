"""`~` in what a user types or writes. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unclip.common.errors import UserError


def expanded(path: Path | str, key: str | None = None) -> Path:
    """``path`` with ``~`` as the user's home.

    Raises:
        UserError: there is no such home; the line begins with ``key``, if not with the path.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{key or path}: there is no home folder for ~; write the whole path (./~ for a file)"
        ) from None


def at_home(value: Any) -> Any:
    """A path with ``~`` as the user's home, also of each in a list; other values as they are."""
    if isinstance(value, list):
        return [at_home(each) for each in value]
    if isinstance(value, Path):
        return expanded(value)
    is_path = isinstance(value, str) and (value == "~" or value.startswith("~/"))
    return str(expanded(value)) if is_path else value
