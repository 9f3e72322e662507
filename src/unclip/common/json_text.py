"""JSON of bounded depth, size, numbers and texts, without what Python adds to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unclip.common import bounded


def read(data: bytes, *, finite: bool = True) -> Any:
    """What JSON in UTF-8 says.

    Args:
        data: The text.
        finite: Refuse NaN and infinities.

    Raises:
        ValueError: NaN, infinities, keys given twice, long numbers, deep nesting, or no JSON.
    """
    try:
        value = json.loads(
            data.decode(),
            parse_constant=_no_constant if finite else float,
            parse_int=_integer,
            parse_float=_float,
            object_pairs_hook=once,
        )
    except RecursionError:
        raise ValueError(f"is nested deeper than {bounded.DEPTH}") from None
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg}, line {error.lineno})") from None
    bounded.check(value, finite=finite)
    return value


def read_object(file: Path, *, finite: bool = True) -> dict[str, Any]:
    """The object in a file; raises ValueError as `read` does, OSError if it cannot be read."""
    with file.open("rb") as opened:
        data = opened.read(bounded.BYTES + 1)
    bounded.limit(len(data) <= bounded.BYTES, f"has more than {bounded.BYTES:,} bytes")
    value = read(data, finite=finite)
    bounded.limit(isinstance(value, dict), "is not a JSON object")
    return value


def _no_constant(word: str) -> Any:
    raise ValueError(f"holds {word}, which is not a number")


def _integer(digits: str) -> int:
    bounded.limit(len(digits) <= bounded.DIGITS, f"holds an integer of {len(digits):,} digits")
    return int(digits)


def _float(digits: str) -> float:
    bounded.limit(len(digits) <= 100, f"holds a number of {len(digits):,} digits")
    return float(digits)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of its ``pairs``; ValueError for a key that is given twice."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"has the key {key[:50]!r} twice")
        found[key] = value
    return found
