"""Stages that train side by side: a line of progress for each, and what they say above."""

from __future__ import annotations

import re
import sys
from threading import Lock
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from unclip.common.terminal import say, visible

PROGRESS = re.compile(r"step \d+/\d+ ")
"""How a line of `unclip.training.callbacks.ProgressLines` begins."""


class StageLines:
    """The newest progress of each stage, on a line that is rewritten in a terminal.

    Elsewhere, as in a log, every line is printed as it comes. Both begin with the stage's name.
    """

    def __init__(self, console: Console | None = None):
        self._newest: dict[str, str] = {}
        self._lock = Lock()
        terminal = console is not None or sys.stdout.isatty()
        self._live = Live(console=console, auto_refresh=False, transient=True) if terminal else None

    def __enter__(self) -> StageLines:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def read(self, name: str, lines: TextIO) -> None:
        """Show what a stage says until it ends."""
        with lines:
            for line in lines:
                self._tell(name, line)
        with self._lock:
            if self._newest.pop(name, None) is not None:
                self._show()

    def _tell(self, name: str, line: str) -> None:
        text = f"{name:<13} {line.rstrip()}"
        with self._lock:
            if self._live is not None and PROGRESS.match(line):
                self._newest[name] = text
                self._show()
            else:
                say(text)

    def _show(self) -> None:
        rows = (Text(visible(line), no_wrap=True) for line in self._newest.values())
        if self._live is not None:
            self._live.update(Group(*rows), refresh=True)
