"""The trials of a sweep, and the one file that holds all that is known of them.

The file is written whole after every change, so that a sweep killed at any moment goes on.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unclip.common import atomic
from unclip.common.errors import UserError
from unclip.common.terminal import say

FILE = "results.json"
PATIENCE = 60.0  # seconds that the trials of a killed sweep have to save themselves
RUNNING, FINISHED, PRUNED, FAILED = "running", "finished", "pruned", "failed"


@dataclass
class Trial:
    """One run of the command."""

    number: int
    parameters: dict[str, Any]  # the values it was given
    drawn: dict[str, Any]  # what the search drew for them (quantiles of a normal distribution)
    folder: str  # of the run, in the sweep's
    state: str = RUNNING
    value: float | None = None  # of the metric: the last one, of a trial that was pruned
    history: list[float] = field(default_factory=list)  # of the metric, as often as it was logged
    seconds: float = 0.0
    error: str | None = None  # the last line of a trial that failed


@dataclass
class Trials:
    """A sweep's folder and what has come of it."""

    dir: Path
    settings: dict[str, Any]  # what the trials depend on: the file's content, seed, overrides
    all: list[Trial] = field(default_factory=list)

    @property
    def ended(self) -> list[Trial]:
        """Those that are over."""
        return [trial for trial in self.all if trial.state != RUNNING]

    def path(self, trial: Trial) -> Path:
        """The folder of a trial's run."""
        return self.dir / trial.folder

    def log(self, trial: Trial) -> Path:
        """What a trial has printed."""
        return self.path(trial).with_suffix(".log")

    def save(self) -> None:
        """Write the file."""
        content = {**self.settings, "trials": [asdict(trial) for trial in self.all]}
        with atomic.atomic_write(self.dir / FILE) as scratch:
            scratch.write_text(json.dumps(content, indent=2) + "\n")


@contextmanager
def sweep_lock(dir: Path, *, force: bool = False) -> Iterator[int]:
    """Hold the folder of a sweep, made if need be; its trials inherit the lock that is given.

    Those of a sweep that was killed save themselves first, then let go of it. ``force`` empties
    the folder.

    Raises:
        UserError: it is in use, or holds something else.
    """
    if dir.is_dir() and not (dir / FILE).is_file() and _seen(dir):
        raise UserError(f"--dir {dir}: is not empty and holds no sweep; give another")
    try:
        dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--dir {dir}: cannot be made: {error.strerror or error}") from None
    with (dir / ".lock").open("w") as file:
        _lock(file.fileno(), dir)
        for path in _seen(dir) if force else []:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield file.fileno()


def _seen(dir: Path) -> list[Path]:
    return [path for path in dir.iterdir() if not path.name.startswith(".")]


def _lock(file: int, dir: Path) -> None:
    said, until = False, time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise UserError(
                    f"--dir {dir}: another sweep, or a trial of one, is running there; wait for "
                    "it, or give another --dir"
                ) from None
        if not said:
            say(f"{dir}: waiting for what still runs there", error=True)
            said = True
        time.sleep(0.2)


def opened(dir: Path, settings: dict[str, Any]) -> Trials:
    """The trials in ``dir``, or none yet.

    Raises:
        UserError: they are of a sweep with other settings, or the file is damaged.
    """
    path = dir / FILE
    if not path.is_file():
        return Trials(dir, settings)
    try:
        content = json.loads(path.read_text())
        trials = [Trial(**each) for each in content.pop("trials")]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path}: is damaged; start over with --force, or in another --dir"
        ) from None
    # Through JSON, as what was stored has gone: tuples and dates become what they are there.
    for key, now in json.loads(json.dumps(settings, default=str)).items():
        if content.get(key) != now:
            raise UserError(
                f"{path}: was started with another {key}; start over with --force, or give "
                "another --dir"
            )
    return Trials(dir, settings, trials)
