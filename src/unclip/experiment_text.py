"""The text of experiment files: the comment that opens one, values with a remark beside each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unclip import config
from unclip.types import UserError

_NOTES = "parameters|hardware|time|memory|expect"
_NOTE = re.compile(rf"(?:^#|;) ({_NOTES}): (.*?)(?=; (?:{_NOTES}): |$)")


def opening(path: Path) -> dict[str, str]:
    """What the opening comment says of parameters, hardware, time, memory and expect.

    Each stands after a ``#`` or a semicolon, as ``# hardware: any CPU; time: a minute``. Those that
    the comment leaves out are absent.
    """
    notes: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        notes |= dict(_NOTE.findall(line))
    return notes


def check_parameters(path: Path, count: int) -> None:
    """Refuse an opening comment that gives another number of parameters than ``count``."""
    right = f"{count:,}"
    said = opening(path).get("parameters", right)
    if said != right:
        raise UserError(f"{path}: the comment says {said!r}; write `# parameters: {right}`")


def annotated(content: Mapping[str, Any], remarks: Mapping[str, str]) -> list[str]:
    """Lines of YAML; a value's line ends with its remark, if its dotted key has one."""
    return _annotated(content, remarks, "", "")


def _annotated(
    content: Mapping[str, Any], remarks: Mapping[str, str], prefix: str, indent: str
) -> list[str]:
    lines = []
    for name, value in content.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            lines.append(f"{indent}{name}:")
            lines += _annotated(value, remarks, f"{key}.", f"{indent}  ")
        else:
            line = f"{indent}{name}: {config.as_yaml(value)}"
            lines.append(f"{line:<44}  # {remarks[key]}" if key in remarks else line)
    return lines
