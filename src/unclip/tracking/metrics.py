"""Reads ``metrics.jsonl``. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FILE = "metrics.jsonl"
Curve = list[tuple[int, float]]  # (optimizer step, value)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; what a crash or somebody has damaged is left out."""
    try:
        lines: Iterable[str] = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [row for line in lines if (row := _row(line)) is not None]


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = row.get("step", "") if isinstance(row, dict) else ""
    return row if step is None or type(step) is int else None


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
