"""``log.txt``: what a run says on the terminal, kept in its folder."""

from __future__ import annotations

import contextlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from unclip.common.errors import UserError
from unclip.common.terminal import visible

FILE = "log.txt"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


@contextmanager
def tee_log(folder: Path, headline: str) -> Iterator[None]:
    """Append what this process prints, and how the block ends, to the log in ``folder``.

    Whole lines without control characters; of a bar that redraws itself only its last state.
    """
    before = sys.stdout, sys.stderr
    with (folder / FILE).open("ab", buffering=0) as file:

        def write(text: str) -> None:
            with contextlib.suppress(OSError):  # a full disk stops the run where it matters
                file.write((_CONTROL.sub("", text) + "\n").encode(errors="replace"))

        def note(text: str) -> None:
            write(f"# {datetime.now(UTC).isoformat(timespec='seconds')} {text}")

        note(headline)
        sys.stdout, sys.stderr = (_Tee(stream, write) for stream in before)  # type: ignore[assignment]
        try:
            yield
        except BaseException as error:
            write(
                visible(error) if isinstance(error, UserError) else traceback.format_exc().rstrip()
            )
            note(f"ended by {type(error).__name__}")
            raise
        else:
            note("finished")
        finally:
            sys.stdout, sys.stderr = before


class _Tee:
    """A stream whose lines are also given to ``write``; else it is the stream."""

    def __init__(self, stream: TextIO, write: Callable[[str], None]):
        self._stream = stream
        self._write = write
        self._rest = ""  # of a line that has no end yet

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """To the stream; to the log every line that is complete."""
        written = self._stream.write(text)
        *lines, rest = (self._rest + text).split("\n")
        for line in lines:
            self._write(_last_state(line))
        self._rest = _last_state(rest)
        return written


def _last_state(line: str) -> str:
    """What stands there when a line was drawn over by carriage returns; a last one stays."""
    return line[line.rstrip("\r").rfind("\r") + 1 :]
