"""How much a file of plain values may hold, whoever wrote it. Imports no torch."""

from __future__ import annotations

import math
import re
from typing import Any

BYTES = 4 << 20  # of a file
DEPTH = 16
VALUES = 50_000  # in a file
TEXT = 100_000  # characters in a value
DIGITS = 20  # of an integer
INTEGER = 2**63
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a terminal would obey them


def check(value: Any, *, finite: bool = True) -> None:
    """Hold a tree of plain values to the limits, level by level.

    Args:
        value: Of mappings, lists, texts, numbers, booleans and None.
        finite: Whether NaN and infinities are refused too.

    Raises:
        ValueError: says which and, below a mapping, at which key.
    """
    level, count = [("", value)], 0
    for _ in range(DEPTH):
        count += len(level)
        limit(count <= VALUES, f"holds more than {VALUES:,} values")
        below: list[tuple[str, Any]] = []
        for key, item in level:
            if isinstance(item, dict):
                for name, inside in item.items():
                    check_text(name, "")
                    below.append((f"{key}.{name}" if key else name, inside))
            elif isinstance(item, list):
                below += [(key, inside) for inside in item]
            else:
                _check_leaf(item, f"{key[:100]}: " if key else "", finite)
        if not below:
            return
        level = below
    raise ValueError(f"is nested deeper than {DEPTH}")


def _check_leaf(value: Any, where: str, finite: bool) -> None:
    if isinstance(value, str):
        check_text(value, where)
    elif isinstance(value, int):
        limit(abs(value) < INTEGER, f"{where}holds the integer {str(value)[:25]}, 2^63 or more")
    elif isinstance(value, float):
        limit(not finite or math.isfinite(value), f"{where}holds {value}, which is not finite")
    else:
        limit(value is None, f"{where}holds a {type(value).__name__}")


def check_text(text: str, where: str = "") -> None:
    """Refuse a text that is endless, or that a terminal would obey; ``where`` begins the error."""
    limit(len(text) <= TEXT, f"{where}holds a text of {len(text):,} characters")
    limit(not _CONTROL.search(text), f"{where}holds control characters")


def limit(kept: bool, otherwise: str) -> None:
    """Raise ValueError with ``otherwise`` unless the limit is ``kept``."""
    if not kept:
        raise ValueError(otherwise)
