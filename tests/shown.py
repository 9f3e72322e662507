"""The commands that pages show, and what a comment before them says of running them.

All of them are run, on minute networks, unless a comment before their block or table says:

    <!-- run; except: karlo | demo                          not those with one of these texts
         shrink: --count 20 => --count 2; n=256 => n=4 -->
    <!-- read: REASON -->                                   only the command's parser reads them
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pages

PROGRAMS = re.compile(
    r"(\w+=\S+ )*(unclip|make|torchrun|srun|pip|wandb|eval|mkdir|img2dataset|clip-retrieval) "
)
MARKER = re.compile(r"^(run;|read: \w)")
OPTION = re.compile(r"(except|shrink): (.*?)(?=\s*(?:except|shrink): |$)", re.S)


class Shown(NamedTuple):
    """A place with commands."""

    where: str
    page: Path
    commands: list[str]
    markers: list[str]

    @property
    def runs(self) -> list[str]:
        """What is run of it, shrunk."""
        marker = " ".join(self.markers)
        if marker.startswith("read"):
            return []
        options = dict(OPTION.findall(marker))
        left_out = [x.strip() for x in options.get("except", "").split(" | ") if x.strip()]
        replaced = changes(marker)
        found = []
        for command in self.commands:
            if not any(text in command for text in left_out):
                for before, after in replaced:
                    command = command.replace(before, after)
                found.append(command)
        return found


def changes(marker: str) -> list[tuple[str, str]]:
    """What a comment shrinks, and to what."""
    pairs = dict(OPTION.findall(marker)).get("shrink", "").split(";")
    split = (pair.partition(" => ") for pair in pairs)
    return [(before.strip(), after.strip()) for before, arrow, after in split if arrow]


def lines_of(text: str) -> list[str]:
    """Shell lines, those that a backslash continues as one."""
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def places(page: Path) -> Iterator[Shown]:
    """Blocks of commands, and a table of them."""
    for block in pages.blocks(page):
        lines = lines_of(block.text)
        if block.language in ("", "sh", "bash") and any(PROGRAMS.match(line) for line in lines):
            markers = [m for m in block.markers if MARKER.match(m)]
            yield Shown(block.where, page, lines, markers)
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"(?:<!--((?:(?!-->).)*)-->\n)?((?:^\|[^\n]*\n)+)", text, re.M | re.S):
        cells = re.findall(r"^\|[^|]*\| `((?:unclip|make) [^`]+)` \|", match[2], re.M)
        if cells:
            markers = [(match[1] or "").strip()] if match[1] else []
            line = text[: match.start(2)].count("\n") + 1
            name = page.relative_to(pages.ROOT)
            yield Shown(f"{name}:{line}", page, cells, [m for m in markers if MARKER.match(m)])


def words_of(command: str) -> list[list[str]]:
    """The words of each `unclip` in a line, whoever starts it; none where something is left out."""
    if "..." in command or "[" in command.partition("#")[0]:
        return []
    try:
        words = shlex.split(command, comments=True)
    except ValueError:
        return []
    ends = [k for k, word in enumerate(words) if word in (">", "|", "||", "&&", "&")]
    words = words[: min(ends, default=len(words))]
    if "-m" in words and "unclip" in words:
        return [words[words.index("unclip") + 1 :]]
    for place, word in enumerate(words):
        if Path(word).name == "unclip":
            return [words[place + 1 :]]
    return []
