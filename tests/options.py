"""The command line for tests that change some options of a command: the last of each counts."""

from __future__ import annotations

from collections.abc import Sequence

from unclip import cli


def last_of_each(words: Sequence[str]) -> list[str]:
    """``words`` without an option and its value where the option comes again."""
    found: list[str] = []
    for at, word in enumerate(words):
        before = words[at - 1] if at else ""
        option = before if before.startswith("--") and not word.startswith("--") else word
        if not option.startswith("--") or option not in words[at + 1 :]:
            found.append(word)
    return found


def main(words: Sequence[str]) -> int:
    """`unclip.cli.main`, which itself refuses an option that is given twice."""
    return cli.main(last_of_each(words))
