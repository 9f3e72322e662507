"""Processes that this one starts: SIGTERM reaches them, and they share the cores."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from unclip.common.errors import Interrupted


@contextmanager
def interruptible() -> Iterator[None]:
    """Within, SIGTERM raises `Interrupted`, so that what was started can be stopped in order."""
    before = signal.signal(signal.SIGTERM, _told_to_stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _told_to_stop(number: int, frame: Any) -> None:
    raise Interrupted("SIGTERM: progress is saved; run the same command to resume")


def stop(processes: Iterable[subprocess.Popen]) -> None:
    """Tell them all to save themselves, then wait until they have."""
    told = list(processes)
    for process in told:
        process.terminate()
    for process in told:
        process.wait()


def environment(*, together: int) -> dict[str, str]:
    """The environment of each of ``together`` processes: the cores of a CPU are shared out."""
    env = dict(os.environ)
    if together > 1:
        env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // together)))
    return env


def die_with_parent() -> None:
    """In a process just forked: ask for SIGTERM when its parent dies, however it does.

    Linux only; elsewhere a child outlives a parent that was killed.
    """
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


_PR_SET_PDEATHSIG = 1
_prctl = getattr(ctypes.CDLL(None), "prctl", None)  # looked up here: a forked process may not
