"""What has come of a sweep: its table, the best run by name, and how to run it again."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Sequence

from unclip.common import atomic, tables
from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.terminal import say
from unclip.sweeps import figure
from unclip.sweeps.spec import Sweep
from unclip.sweeps.trials import FAILED, FINISHED, Trial, Trials


def ranked(sweep: Sweep, trials: Trials) -> list[Trial]:
    """Finished trials, best first, then the others in their order."""
    finished = [t for t in trials.all if t.state == FINISHED and t.value is not None]
    finished.sort(key=lambda t: sweep.lower(t.value or 0.0))
    return finished + [t for t in trials.all if t.state != FINISHED]


def report(sweep: Sweep, trials: Trials, overrides: Sequence[str]) -> None:
    """Print the table, name the best run, write ``results.csv`` and ``sweep.png``.

    Raises:
        UserError: every trial has failed.
    """
    rows = ranked(sweep, trials)
    with (
        atomic.atomic_write(trials.dir / "results.csv") as scratch,
        scratch.open("w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file).writerows(_cells(sweep, trials, rows, exact=True))
    tables.show(_cells(sweep, trials, rows, exact=False))
    if rows and all(t.state == FAILED for t in rows):
        raise UserError(
            f"{counted(len(rows), 'trial')}, none of which finished; the first one's log: "
            f"{trials.log(rows[0])}"
        )
    drawn = figure.draw(sweep, rows, trials.dir / "sweep.png")
    if rows and rows[0].state == FINISHED:
        best = rows[0]
        command = ["unclip", *sweep.command(best.parameters, overrides)]
        say()
        say(f"best: trial {best.number}, {sweep.metric} {best.value:.6g}")
        say(f"  {trials.path(best)}")
        say(f"  {shlex.join(command)}")
        say()
    say(drawn, lines=True)


def _cells(sweep: Sweep, trials: Trials, rows: Sequence[Trial], *, exact: bool) -> list[list[str]]:
    names = [p.name for p in (sweep.parameters if exact else sweep.searched)]
    cells = [["rank", "trial", *names, sweep.metric, "status", "seconds", "folder"]]
    for rank, trial in enumerate(rows, start=1):
        values = [trial.parameters[name] for name in names]
        cells.append(
            [
                str(rank) if trial.state == FINISHED else "",
                str(trial.number),
                *(_text(value, exact) for value in values),
                "" if trial.value is None else _text(trial.value, exact),
                trial.state + (f": {trial.error}" if trial.error else ""),
                f"{trial.seconds:.0f}",
                str(trials.path(trial)) if exact else trial.folder,
            ]
        )
    return cells


def _text(value: object, exact: bool) -> str:
    return f"{value:.4g}" if isinstance(value, float) and not exact else str(value)
