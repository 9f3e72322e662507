"""Finds runs on disk and says what is known of them, whatever their state. Imports no torch."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unclip.common.checks import closest
from unclip.common.errors import UserError
from unclip.tracking import status
from unclip.tracking.files import (
    EXPERIMENT,
    MARK,
    METRICS,
    PROVENANCE,
    SUMMARY,
    curves,
    number,
    read_json,
    read_metrics,
)

ELSEWHERE = "name the folder that run.dir of a run is in: --root FOLDER"
_TAIL = 2**16  # bytes of the metrics that a listing reads


@dataclass(frozen=True)
class RunRecord:
    """A line of a listing; None where nothing is known."""

    folder: Path
    experiment: str  # kind/name
    status: str  # running | finished | interrupted | failed | stopped
    why: str  # of a failure
    started: str  # UTC, seconds
    steps: int | None
    loss: float | None  # of validation where there was one
    monitor: tuple[str, float] | None  # the metric that selects checkpoints: name, value
    seconds: float | None  # of its newest process
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "folder": str(self.folder)}


def find(root: Path) -> list[RunRecord]:
    """Every run anywhere under ``root``, the newest first.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"--root {root}: no such folder; train something, or {ELSEWHERE}")
    found = []
    for folder, names, files in os.walk(root):
        if EXPERIMENT in files:
            found.append(describe(Path(folder)))
            names.clear()
        names[:] = [name for name in names if not name.startswith(".")]
    return sorted(found, key=lambda run: (run.started, str(run.folder)), reverse=True)


def describe(folder: Path) -> RunRecord:
    """The run in ``folder``, from its small files alone; damaged ones say nothing."""
    origin = origin_of(folder)
    summary = read_json(folder / SUMMARY)
    rows = read_metrics(folder / METRICS, last=_TAIL)
    found = curves(rows)
    how = status.status_of(folder)
    done = how.state == "finished"
    named = summary.get("experiment", origin.get("experiment"))
    last = max((row["step"] or 0 for row in rows), default=None)
    losses = found.get("val/loss") or found.get("train/loss") or []
    steps = summary.get("steps")
    return RunRecord(
        folder=folder,
        experiment=named if isinstance(named, str) else "/".join(folder.parts[-3:-1]),
        status=how.state,
        why=how.why,
        started=_started(folder, origin),
        steps=steps if done and type(steps) is int else last,
        loss=number(summary.get("loss")) if done else losses[-1][1] if losses else None,
        monitor=_monitor(summary) if done else None,
        seconds=number(summary.get("seconds")) if done else _seconds(how, rows),
        bytes=size_of(folder),
    )


def choose(word: str, root: Path) -> RunRecord:
    """The run that ``word`` names: a folder, an experiment (its newest run), a part of one folder.

    Raises:
        UserError: it names none, or several.
    """
    if (Path(word) / EXPERIMENT).is_file():
        return describe(Path(word))
    if Path(word).exists() and not (root / word).exists():
        raise UserError(f"{word}: is not a run: there is no {EXPERIMENT} in it")
    if not root.is_dir():
        raise UserError(f"{word}: no such run: --root {root} is not a folder")
    runs = find(root)
    of_experiment = [run for run in runs if run.experiment == word]
    if of_experiment:  # one that failed says least
        return next((run for run in of_experiment if run.status != "failed"), of_experiment[0])
    names = {run: str(run.folder.relative_to(root)) for run in runs}
    for run, name in names.items():
        if name == word:
            return run
    found = [run for run in runs if word in names[run]]
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(names[run] for run in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise UserError(f"{word}: {len(found)} runs match: {shown}{more}; name one of them")
    words = {*names.values(), *(run.folder.name for run in runs), *(run.experiment for run in runs)}
    close = closest(word, sorted(words))
    hint = f"did you mean {close!r}?" if close else f"see `unclip runs list`, or {ELSEWHERE}"
    raise UserError(f"{word}: no such run in {root}; {hint}")


def origin_of(folder: Path) -> dict[str, Any]:
    """The run's provenance without its mark; of a run of an older version, its artifact's."""
    found = read_json(folder / PROVENANCE) or read_json(folder / "artifact" / PROVENANCE)
    return {key: value for key, value in found.items() if key != MARK}


def _monitor(summary: dict[str, Any]) -> tuple[str, float] | None:
    monitor = summary.get("quality")  # as it is called in the file
    if not isinstance(monitor, dict):
        return None
    value = number(monitor.get("value"))
    return None if value is None else (str(monitor.get("name")), value)


def _started(folder: Path, origin: dict[str, Any]) -> str:
    created = origin.get("created")
    if isinstance(created, str):
        return created
    written = (folder / EXPERIMENT).stat().st_mtime
    return datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds")


def _seconds(how: status.Status, rows: list[dict[str, Any]]) -> float | None:
    """From the start of its newest process to the last metrics, or to now where it is running."""
    try:
        since = datetime.fromisoformat(how.since or "").timestamp()
    except (ValueError, TypeError):
        return None
    last = datetime.now(UTC).timestamp() if how.state == "running" else None
    last = last or next((number(row.get("time")) for row in reversed(rows)), None)
    return None if last is None else max(0.0, last - since)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if not path.is_dir():
        return path.lstat().st_size
    total = 0
    for here, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(OSError):  # a run goes on meanwhile
                total += os.lstat(os.path.join(here, name)).st_size
    return total
