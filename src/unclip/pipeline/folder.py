"""Where a cascade is. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from unclip.common.errors import UserError

ADDRESSES = "of addresses only hf://ORG/NAME[@REVISION] is read; download others first"
LISTS = (
    "; `unclip recipe quickstart` trains one, `unclip experiments list cascades/` lists published "
    "ones"
)


def require_there(word: str | Path, hint: str = "") -> None:
    """Refuse a cascade that is not there.

    Raises:
        UserError: it names it as ``word`` does, and by ``hint`` or `LISTS` where to find one.
    """
    if "://" in str(word):
        raise UserError(f"pipeline={word}: is not a cascade; {ADDRESSES}")
    if not Path(word).exists():
        raise UserError(f"pipeline={word}: no such folder{hint or LISTS}")
