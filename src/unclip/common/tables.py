"""A table of text, on the terminal and as Markdown. The first line are its titles."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

Lines = Sequence[Sequence[str]]


def show(lines: Lines) -> None:
    """On the terminal."""
    table = Table(box=None, pad_edge=False)
    for title in lines[0]:
        table.add_column(title, overflow="fold")
    for line in lines[1:]:
        table.add_row(*line)
    Console(markup=False, emoji=False).print(table)  # cells may hold anybody's text


def markdown(lines: Lines) -> str:
    """As Markdown."""
    cells = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "".join("| " + " | ".join(line) + " |\n" for line in cells)
