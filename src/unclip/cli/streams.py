"""Standard output and error that any text can be written to, and that may be closed or full."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from typing import Any

from unclip.common.terminal import VisibleRecord, visible

_format_warning = warnings.formatwarning


def prepare() -> None:
    """Spell what the terminal's encoding lacks as escapes; write to nowhere if one is closed.

    What is logged, and what Python warns of, is written out as `visible`.
    """
    logging.setLogRecordFactory(VisibleRecord)
    warnings.formatwarning = _visible_warning
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _visible_warning(*told: Any, **more: Any) -> str:
    return visible(_format_warning(*told, **more), lines=True)


def drop_output() -> None:
    """Let what is still to be written to standard output go nowhere, without a trace at exit."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # not a file: a test, a notebook
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def reason(error: OSError) -> str:
    """What the operating system objects to, and the file if it names one."""
    what = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return f"{error.filename}: {what}" if error.filename else what
