"""Processes that this one starts: SIGTERM reaches them, and they share the cores."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from unclip.common.errors import Interrupted, UserError


@contextmanager
def interruptible(
    advice: str = "progress is saved; run the same command to resume",
) -> Iterator[None]:
    """Within, SIGTERM and SIGHUP raise `Interrupted`, so that what was started can be stopped in
    order. ``advice`` says how to resume.
    """

    def told(number: int, frame: Any) -> None:
        raise Interrupted(f"{signal.Signals(number).name}: {advice}")

    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup
            signal.signal(number, told)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def killed_worker(error: RuntimeError) -> UserError | None:
    """What to say in place of torch's ``error``, if it is that a loader process was killed."""
    how = r"DataLoader worker.*(killed by signal: [^.]*|exited unexpectedly)"
    found = re.search(how, str(error))
    if found is None:
        return None
    return UserError(
        f"data.num_workers: a loader process died ({found[1]}), perhaps for want of memory; give "
        "fewer of them or a smaller data.batch_size"
    )


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


@contextmanager
def starting() -> Iterator[Callable[[], None]]:
    """Start a process and keep it where `stop` finds it; signals wait until that is done.

    Yields the ``preexec_fn`` of the process, which dies with this one and waits for no signal.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGHUP))

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        die_with_parent()

    try:
        yield prepare
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with_parent(*, kill: bool = False) -> None:
    """Ask for SIGTERM (or SIGKILL) when the parent of this process dies, however it does.

    Linux only; elsewhere a child outlives a parent that was killed.
    """
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL if kill else signal.SIGTERM)


_PR_SET_PDEATHSIG = 1
_prctl = getattr(ctypes.CDLL(None), "prctl", None)  # looked up here: a forked process may not
