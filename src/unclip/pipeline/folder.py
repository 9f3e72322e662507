"""Where a cascade is. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from unclip.common.errors import UserError


def require_there(folder: Path) -> None:
    """Refuse a cascade that is not there.

    Raises:
        UserError: it names the folder, and what trains one.
    """
    if not folder.exists():
        raise UserError(
            f"pipeline={folder}: no such folder; `unclip recipe quickstart` trains one, `unclip "
            "experiments list cascades/` lists published ones"
        )
