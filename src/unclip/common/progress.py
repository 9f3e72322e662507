"""Progress bars of long work."""

from __future__ import annotations

import sys


def bar_interval() -> float:
    """Seconds between the updates of a bar: a log file gets a line now and then."""
    return 0.1 if sys.stderr.isatty() else 20.0
