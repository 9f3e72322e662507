"""The text of experiment files: the comment that opens one, values with a remark beside each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unclip.common import yaml_text
from unclip.common.errors import UserError

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


def annotated(
    content: Mapping[str, Any], remark: Callable[[str], str | None], section: str = ""
) -> list[str]:
    """Lines of YAML, each value followed by what ``remark`` says of its dotted key, if anything.

    ``section`` is where ``content`` stands in the file: ``model.unet.`` for example.
    """
    indent = "  " * section.count(".")
    lines = []
    for name, value in content.items():
        key = f"{section}{name}"
        if isinstance(value, dict) and value:
            lines += [f"{indent}{name}:", *annotated(value, remark, f"{key}.")]
        else:
            line, said = f"{indent}{name}: {yaml_text.in_line(value)}", remark(key)
            lines.append(f"{line:<44}  # {said}" if said else line)
    return lines
