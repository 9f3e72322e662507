"""`~` in what a user types or writes. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def at_home(value: Any) -> Any:
    """A path with ``~`` as the user's home, also of each in a list; other values as they are."""
    if isinstance(value, list):
        return [at_home(each) for each in value]
    if isinstance(value, Path):
        return value.expanduser()
    is_path = isinstance(value, str) and (value == "~" or value.startswith("~/"))
    return str(Path(value).expanduser()) if is_path else value
