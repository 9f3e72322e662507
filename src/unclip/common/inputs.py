"""What a command reads is never removed by what it writes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from unclip.common.errors import UserError

_SCHEME = re.compile(r"(?:(?:file|local)://|hf:(?!//))")


def require_apart(folder: Path, inputs: Iterable[str | Path], *, option: str) -> None:
    """Refuse to remove or replace ``folder`` if that would take an input with it.

    ``inputs`` are paths, or texts as ``data.source`` has them; those that do not exist do not
    count. The folder in which the command runs counts as one.

    Raises:
        UserError: ``folder`` is an input, contains one or lies within one; the line begins with
            ``option``, as "--out " or "run.dir=".
    """
    targets = _both(folder)
    for target in targets:
        if any(target == here or target in here.parents for here in _both(Path.cwd())):
            raise UserError(
                f"{option}{folder}: would remove the folder you are in; name another folder"
            )
    for given in inputs:
        for place in _places(str(given)):
            for read in _both(place):
                for target in targets:
                    if target == read or target in read.parents or read in target.parents:
                        raise UserError(_refusal(option, folder, str(given), target, read))


def _refusal(option: str, folder: Path, given: str, target: Path, read: Path) -> str:
    if target == read:
        how = "is"
    else:
        how = "contains" if target in read.parents else "lies within"
    return f"{option}{folder}: {how} an input ({given}), which is kept; name another folder"


def _both(path: Path) -> set[Path]:
    """A path as it is written, and where its links lead."""
    return {Path(os.path.abspath(path)), path.resolve()}


def _places(given: str) -> list[Path]:
    """The local files or folders that a text names; of a pattern the folder it looks in."""
    found = []
    for part in re.split(r"::|\?images=", given):
        text = os.path.expanduser(_SCHEME.sub("", part, count=1))
        if text and not os.path.lexists(text):
            fixed = re.split(r"[*?\[{]", text, maxsplit=1)[0]
            text = "" if fixed == text else os.path.dirname(fixed) or "."
        if text and os.path.lexists(text):
            found.append(Path(text))
    return found
