"""A table of text, on the terminal and as Markdown. The first line are its titles."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from unclip.common.markdown import plain_markdown
from unclip.common.terminal import visible

Lines = Sequence[Sequence[str]]


def show(lines: Lines) -> None:
    """On the terminal."""
    table = Table(box=None, pad_edge=False)
    for title in lines[0]:
        table.add_column(visible(title), overflow="fold")
    for line in lines[1:]:
        table.add_row(*(visible(cell) for cell in line))
    Console(markup=False, emoji=False).print(table)  # cells may hold anybody's text


def markdown(lines: Lines) -> str:
    """As Markdown, in which the cells are plain text."""
    shown = [[plain_markdown(cell, in_cell=True) for cell in line] for line in lines]
    cells = [shown[0], ["---"] * len(shown[0]), *shown[1:]]
    return "".join("| " + " | ".join(line) + " |\n" for line in cells)
