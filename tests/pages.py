"""The project's Markdown pages: their links, headings and blocks of code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


class Block(NamedTuple):
    """A block of code, and the comments right before it."""

    page: Path
    line: int
    language: str
    text: str
    markers: tuple[str, ...]

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def inline(page: Path) -> Iterator[Token]:
    for token in tokens(page):
        yield from token.children or ()


def anchors(page: Path) -> set[str]:
    """The names that GitHub and the site give to the headings."""
    found: set[str] = set()
    every = tokens(page)
    for token, content in pairwise(every):
        if token.type == "heading_open":
            text = "".join(t.content for t in content.children or () if t.type != "html_inline")
            name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            number = 0
            while (choice := name if number == 0 else f"{name}-{number}") in found:
                number += 1
            found.add(choice)
    return found


def links(page: Path) -> Iterator[str]:
    """Where the page's links and images lead."""
    for token in inline(page):
        target = token.attrs.get("href") or token.attrs.get("src")
        if target:
            yield str(target)


def blocks(page: Path) -> Iterator[Block]:
    markers: list[str] = []
    for token in tokens(page):
        if token.type == "html_block":
            markers += re.findall(r"<!--\s*(.*?)\s*-->", token.content, re.S)
        elif token.type in ("fence", "code_block"):
            line = (token.map or [0])[0] + 1
            yield Block(page, line, token.info.strip(), token.content, tuple(markers))
            markers = []
        else:
            markers = []
