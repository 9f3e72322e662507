"""Plain values as a bundle holds them: finite numbers, JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from unclip.tracking.files import number


def finite(value: Any) -> Any:
    """Without the entries that are NaN (of what had no samples) or infinite."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items() if not _odd(v)}
    return value


def numbers(row: dict[str, Any]) -> dict[str, Any]:
    """The entries that are finite numbers."""
    return {key: value for key, value in row.items() if number(value) is not None}


def _odd(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def json_bytes(content: Any) -> bytes:
    """JSON in UTF-8, to be read by people too."""
    return (json.dumps(content, indent=2) + "\n").encode()
