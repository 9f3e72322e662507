"""Text as a terminal may show it, whoever wrote it. Imports no torch."""

from __future__ import annotations

import io
import logging
import sys
from typing import TextIO

_JOINERS = "\u200c\u200d"  # print nothing, but belong to words and to emoji


def visible(text: object, *, lines: bool = False) -> str:
    r"""``text`` with what a terminal would obey written out: an escape as ``\x1b``.

    That is every character that does not print: controls, line ends, marks that turn the direction
    of text. With ``lines`` a text keeps its line ends and tabs.

    >>> visible("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    kept = _JOINERS + ("\n\t" if lines else "")
    return "".join(
        c if c.isprintable() or c in kept else c.encode("unicode_escape").decode()
        for c in str(text)
    )


def say(text: object = "", *, lines: bool = False, error: bool = False) -> None:
    """Print ``text``, which may hold anybody's, as `visible`: one line unless ``lines``.

    All that unclip prints goes through here, to standard output or, with ``error``, standard error.
    """
    print(visible(text, lines=lines), file=sys.stderr if error else sys.stdout, flush=True)


class VisibleRecord(logging.LogRecord):
    """A line of a log as `visible`, whoever writes it out; those of other packages may be more."""

    def getMessage(self) -> str:
        """The message with its arguments."""
        own = self.name.partition(".")[0] in ("unclip", "data_modules")
        return visible(super().getMessage(), lines=not own)


class VisibleStream(io.TextIOBase):
    """Writes to a stream what is `visible`: for what the libraries of others print."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write it; returns its length."""
        self._stream.write(visible(text, lines=True))
        return len(text)

    def flush(self) -> None:
        """Of the stream."""
        self._stream.flush()
