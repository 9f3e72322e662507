"""Text as Markdown may show it, whoever wrote it. Imports no torch."""

from __future__ import annotations

import re

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\\": "&#92;"}


def plain_markdown(text: str, *, in_cell: bool = False) -> str:
    """One line of Markdown that shows ``text`` as it is, whoever wrote it.

    Nothing in it becomes HTML, a link, an image, a formula, code, a heading or a list. Runs of
    white space become one space, and characters that print nothing are dropped. What begins the
    cell of a table (``in_cell``) begins no list.
    """
    special = r"[&<>\\`*\[\]|~$#@]|:(?=//)|(?<=www)\."  # the last two: bare addresses
    text = re.sub(special, lambda m: _ENTITIES.get(m[0], "\\" + m[0]), one_line(text), flags=re.I)
    text = re.sub(r"(?<![a-z0-9])_|_(?![a-z0-9])", r"\\_", text, flags=re.I)  # z_i stays
    return text if in_cell else re.sub(r"^(\d*)([-+.)])", r"\1\\\2", text)  # no rule or list


def one_line(text: str) -> str:
    """``text`` with white space as single spaces, without characters that print nothing."""
    return " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split())
