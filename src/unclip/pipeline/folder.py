"""Where a cascade is. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from unclip.common.errors import UserError

LISTS = (
    "; `unclip recipe quickstart` trains one, `unclip experiments list cascades/` lists published "
    "ones"
)


def require_there(folder: Path, hint: str = "") -> None:
    """Refuse a cascade that is not there.

    Raises:
        UserError: it names the folder, and by ``hint`` or `LISTS` where to find one.
    """
    if not folder.exists():
        raise UserError(f"pipeline={folder}: no such folder{hint or LISTS}")
