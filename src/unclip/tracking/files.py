"""Reads what runs leave in their folders, damaged or not. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unclip.common import json_text
from unclip.common.counted import counted
from unclip.common.terminal import say

EXPERIMENT = "experiment.yaml"  # every field
PROVENANCE = "provenance.json"
MARK = "made_here"  # in provenance.json, see unclip.runs.own; for no eyes
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
BEST = "best.json"  # of a run's checkpoints
_MOST_STEPS = 2**53  # that a float holds exactly

Curve = list[tuple[int, float]]  # (optimizer step, value)


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; empty where it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        return json_text.read_object(path, finite=False)
    return {}


def read_best(folder: Path) -> dict[str, Any] | None:
    """``step``, ``name`` and ``value`` of the best checkpoint; None where it is not known."""
    return sound_best(read_json(folder / BEST))


def sound_best(best: Any) -> dict[str, Any] | None:
    """What was noted of the best checkpoint, if it is of the right form."""
    kinds = {"step": int, "name": str, "value": float}
    if not isinstance(best, dict) or {k: type(v) for k, v in best.items()} != kinds:
        return None
    return best if math.isfinite(best["value"]) else None


def damage_of(path: Path) -> str | None:
    """What is wrong with a JSON file, in a line that names it; None if nothing, or no file."""
    try:
        json_text.read_object(path, finite=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return f"{path}: {getattr(error, 'strerror', None) or error}"
    return None


def read_metrics(
    path: Path, *, last: int | None = None, note: bool = False
) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; what a crash or somebody has damaged is left out.

    Args:
        path: The file; one that is not there has no lines.
        last: Read only so many bytes of its end.
        note: Say what was left out.
    """
    said = None
    rows: list[dict[str, Any] | None] = []
    try:
        with path.open("rb") as file:
            if last is not None:
                file.seek(max(0, path.stat().st_size - last))
            rows = [_row(line) for line in file.read().split(b"\n") if line.strip()]
    except FileNotFoundError:
        pass
    except OSError as error:
        said = error.strerror or str(error)
    damaged = [number for number, row in enumerate(rows, 1) if row is None]
    if damaged:
        said = (
            f"left out: {len(damaged):,} of {counted(len(rows), 'line')}, line {damaged[0]} first"
        )
    if note and said:
        say(f"unclip: damaged: {path}: {said}", error=True)
    return [row for row in rows if row is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = row.get("step", "") if isinstance(row, dict) else ""
    fine = step is None or (type(step) is int and 0 <= step <= _MOST_STEPS)
    return row if fine else None


def curves(rows: Iterable[dict[str, Any]]) -> dict[str, Curve]:
    """The finite values of each metric by step, in the order in which metrics first appear."""
    found: dict[str, Curve] = {}
    for row in rows:
        for name, value in row.items():
            if name not in ("step", "time") and (shown := number(value)) is not None:
                found.setdefault(name, []).append((row["step"] or 0, shown))
    return found


def number(value: Any) -> float | None:
    """``value`` where it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def shown(value: float | None, digits: int = 4) -> str:
    """A figure in a table; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}g}"
