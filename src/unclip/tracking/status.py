"""Whether a run is being trained, and how it ended: ``status.json``, locked by who trains it.

A process that is killed lets go of its lock and writes nothing, so what is neither locked nor ended
has stopped. Imports no torch.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from unclip.common.errors import Interrupted, UserError
from unclip.common.forks import not_inherited
from unclip.tracking.files import EXPERIMENT

FILE = "status.json"
ENDED = ("finished", "interrupted", "failed")
_TRIES = 5  # a listing locks the file for a moment when it looks
_MOST = 2**16  # bytes


class Status(NamedTuple):
    """How a run is doing."""

    state: str  # running | finished | interrupted | failed | stopped
    why: str = ""  # of what failed or was interrupted
    since: str | None = None  # when its newest process began, UTC


def status_of(folder: Path) -> Status:
    """Of the run in ``folder``; a damaged file says nothing."""
    content: Any = None
    with contextlib.suppress(OSError, ValueError), (folder / FILE).open("rb") as file:
        running = False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            running = True
        content = _parsed(file.read(_MOST))
        if running:
            return Status("running", since=content.get("since"))
    if not content:  # of before there was such a file
        done = (folder / "artifact" / "artifact.json").is_file()
        return Status("finished" if done else "stopped")
    state = content.get("state")
    why = str(content.get("why", ""))
    return Status(state if state in ENDED else "stopped", why, content.get("since"))


def require_there(folder: Path) -> None:
    """Refuse to go on when the folder of a run has been removed or moved meanwhile."""
    if not (folder / EXPERIMENT).is_file():
        raise UserError(
            f"run.dir={folder}: {EXPERIMENT} is gone: the folder was removed or moved while the "
            "run trained; nothing more is saved, start the run over"
        )


class RunLock:
    """A run that this process has for itself."""

    def __init__(self, descriptor: int, folder: Path):
        self._descriptor = descriptor
        self._folder = folder
        self._begun = False
        self._before = os.pread(descriptor, _MOST, 0)
        self._content = _parsed(self._before)
        self._write(pid=os.getpid(), host=socket.gethostname())

    def begin(self) -> None:
        """It is being trained."""
        self._begun = True
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._write(state="running", since=now, why="")

    def end(self, error: BaseException | None) -> None:
        """Note how it ended; of a run that never began the file is as it was."""
        if not self._begun:
            with contextlib.suppress(UserError):  # a full disk must not hide the error
                self._replace(self._before)
            return
        state, why = "finished", ""
        if error is not None:
            told = isinstance(error, Interrupted | KeyboardInterrupt | SystemExit)
            state = "interrupted" if told else "failed"
            lines = str(error).strip().splitlines()
            why = lines[0][:500] if lines else type(error).__name__
        with contextlib.suppress(UserError):  # a full disk must not hide the error
            self._write(state=state, why=why)

    def _write(self, **content: Any) -> None:
        self._content.update(content)
        self._replace((json.dumps(self._content, indent=1) + "\n").encode())

    def _replace(self, text: bytes) -> None:
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, text, 0)
        except OSError as error:
            raise _unwritable(self._folder, error) from None


@contextmanager
def run_lock(folder: Path) -> Iterator[RunLock]:
    """Keep other processes from training in ``folder`` while the block lasts.

    On a file system without locks nobody is kept out. The file goes again if it was made for a run
    that never began.

    Raises:
        UserError: another process trains there, or nothing can be written.
    """
    descriptor = _lock(folder)
    try:
        with not_inherited(descriptor):
            run = RunLock(descriptor, folder)
            try:
                yield run
            except BaseException as error:
                if isinstance(error, OSError) and error.filename is None:
                    error.filename = str(folder)  # what is full is most likely where it writes
                run.end(error)
                raise
            run.end(None)
    finally:
        with contextlib.suppress(OSError):
            if os.fstat(descriptor).st_size == 0 and _is(folder / FILE, descriptor):
                (folder / FILE).unlink()
        os.close(descriptor)


def _lock(folder: Path) -> int:
    path = folder / FILE
    other: dict[str, Any] = {}
    for _ in range(_TRIES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _unwritable(folder, error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = _parsed(os.pread(descriptor, _MOST, 0))
            os.close(descriptor)
            time.sleep(0.1)
            continue
        except OSError:
            return descriptor
        # Who had it before may have removed the file since it was opened here.
        if path.exists() and _is(path, descriptor):
            return descriptor
        os.close(descriptor)
    who = f" (process {other.get('pid')} on {other.get('host')})" if other else ""
    raise UserError(
        f"run.dir={folder}: another process is training there{who}; wait for it, stop it, or name "
        "another folder"
    )


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"run.dir={folder}: cannot be written: {error.strerror}")


def _is(path: Path, descriptor: int) -> bool:
    return os.path.samestat(os.fstat(descriptor), path.stat())


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
