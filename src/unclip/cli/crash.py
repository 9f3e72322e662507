"""What is said of an error that nobody has foreseen."""

from __future__ import annotations

import platform
import shlex
import sys
import tempfile
import traceback

import unclip


def line(error: Exception) -> str:
    """One line about ``error``, whose traceback is written into a new file."""
    what = " ".join(f"{type(error).__name__}: {error}".split())[:200].rstrip(": ")
    about = f"unclip {unclip.__version__}, Python {platform.python_version()}, {sys.platform}"
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="unclip-error-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(f"{about}\n{shlex.join(sys.argv)}\n{text}")
    except OSError as problem:
        where = f"; its traceback could not be written ({problem.strerror})"
        return f"{what}: this is a bug of unclip{where}; report it with the command"
    return (
        f"{what}: this is a bug of unclip; report it with {file.name}, which has the command and "
        "the traceback"
    )
