"""What checks found, as a table for docs/benchmarks.md and as JSON. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from unclip.common.tables import Lines
from unclip.machine.check import Row
from unclip.machine.engine import FAILED, LEFT_OUT, OK, SKIPPED, Result

TITLES = ("check", "what", "measured", "expected", "")


def lines(results: Sequence[Result]) -> Lines:
    """The table, titles first: what failed before all else."""
    found = [list(TITLES)]
    for result in sorted(results, key=lambda each: each.state != FAILED):
        if result.state != OK and not any(row.ok is False for row in result.rows):
            found.append([result.check, result.item, result.reason, "", result.state])
        for row in result.rows:
            state = "" if row.ok is None else OK if row.ok else FAILED
            found.append([result.check, row.what, row.measured, row.expected, state])
    return found


def title(results: Sequence[Result]) -> str:
    """The machine and the day, as a heading says it."""
    rows = [row for result in results if result.check == "environment" for row in result.rows]
    machine = next((row.measured for row in rows if row.what in ("GPU", "CPU")), "a machine")
    return f"{machine}, {time.strftime('%Y-%m-%d')}"


def summary(results: Sequence[Result]) -> str:
    """How many of what, in a line."""
    counts = {state: sum(r.state == state for r in results) for state in (OK, FAILED, LEFT_OUT)}
    skipped = sum(r.state == SKIPPED for r in results)
    told = f"{counts[OK]} ok, {counts[FAILED]} failed, {counts[LEFT_OUT]} left out"
    return told + (f", {skipped} skipped" if skipped else "")


def as_json(results: Sequence[Result], machine: dict[str, Any]) -> dict[str, Any]:
    """Everything."""
    return {
        "machine": title(results),
        **machine,
        "results": [asdict(r) | {"rows": [_row(row) for row in r.rows]} for r in results],
    }


def _row(row: Row) -> dict[str, Any]:
    return row._asdict()
