"""One job at a time on the model, and each visitor's own Cancel."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Lock
from typing import TypeVar

from unclip.common.types import Progress

Result = TypeVar("Result")


class Cancelled(Exception):
    """A job was stopped between two sampling steps, or before the first."""


class Desk:
    """Where visitors wait for the model.

    Gradio's queue counts a cancelled job as over, while its thread still samples: the lock keeps
    the next one out until it has noticed.
    """

    def __init__(self) -> None:
        self._free = Lock()
        self._jobs: list[tuple[str | None, Event]] = []
        self._closed = False

    @property
    def owners(self) -> set[str | None]:
        """Whose jobs are at the model or wait for it."""
        return {owner for owner, _ in self._jobs}

    def work(
        self, owner: str | None, job: Callable[[Progress], Result], progress: Progress
    ) -> Result:
        """What ``job`` returns, once those before it are done.

        Args:
            owner: Who may `cancel` it; None for nobody. A new job cancels the owner's last.
            job: Is to call what it is given after each step.
            progress: Told of the steps.

        Raises:
            Cancelled: by the owner, or because the desk is closed.
        """
        self.cancel(owner)
        stop = Event()

        def check() -> None:
            if stop.is_set() or self._closed:
                raise Cancelled

        def step(done: int, total: int) -> None:
            check()
            progress(done, total)

        entry = (owner, stop)
        self._jobs.append(entry)
        try:
            with self._free:
                check()
                return job(step)
        finally:
            self._jobs.remove(entry)

    def cancel(self, owner: str | None) -> None:
        """Stop the jobs of ``owner``."""
        for other, stop in list(self._jobs):
            if owner is not None and owner == other:
                stop.set()

    def close(self) -> None:
        """Stop all jobs, and begin no other."""
        self._closed = True
