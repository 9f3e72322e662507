"""One job at a time on the model, and each visitor's own Cancel."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Lock
from typing import TypeVar

from unclip.common.types import Progress

Result = TypeVar("Result")


class Cancelled(Exception):
    """The job's owner has stopped it, between two sampling steps."""


class Desk:
    """Where visitors wait for the model.

    Gradio's queue counts a cancelled job as over, while its thread still samples: the lock keeps
    the next one out until it has noticed.
    """

    def __init__(self) -> None:
        self._free = Lock()
        self._job: tuple[str | None, Event] = (None, Event())

    def work(
        self, owner: str | None, job: Callable[[Progress], Result], progress: Progress
    ) -> Result:
        """What ``job`` returns, once those before it are done.

        Args:
            owner: Who may `cancel` it; None for nobody.
            job: Is to call what it is given after each step.
            progress: Told of the steps.

        Raises:
            Cancelled: by the owner.
        """
        with self._free:
            stop = Event()
            self._job = (owner, stop)

            def step(done: int, total: int) -> None:
                if stop.is_set():
                    raise Cancelled
                progress(done, total)

            try:
                return job(step)
            finally:
                self._job = (None, stop)

    def cancel(self, owner: str | None) -> None:
        """Stop the job that is at the model, if it is ``owner``'s."""
        working, stop = self._job
        if owner is not None and owner == working:
            stop.set()
