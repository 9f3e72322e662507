"""Reads what strangers wrote in JSON: of bounded depth, numbers and text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unclip.common import bounded
from unclip.common.errors import UserError

LINE = 1 << 16  # bytes of a line of metrics


class Refused(UserError):
    """A bundle is damaged, or not what it says it is."""

    def __init__(self, bundle: str, member: str, reason: str):
        shown = member if member.isascii() and member.isprintable() else ascii(member)
        super().__init__(f"{bundle}: {shown}: {reason}")


def parse_json(data: bytes) -> Any:
    """JSON in UTF-8, without what Python adds to it.

    Raises:
        ValueError: NaN, infinities, keys given twice, long numbers, deep nesting, or no JSON.
    """
    try:
        value = json.loads(
            data.decode(),
            parse_constant=_no_constant,
            parse_int=_integer,
            parse_float=_float,
            object_pairs_hook=_once,
        )
    except RecursionError:
        raise ValueError(f"is nested deeper than {bounded.DEPTH}") from None
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg}, line {error.lineno})") from None
    bounded.check(value)
    return value


def read_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file; raises ValueError as `parse_json` does."""
    value = parse_json(file.read_bytes())
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


def metric_rows(file: Path) -> Iterator[dict[str, float]]:
    """The lines of a metrics.jsonl; raises ValueError where one is not an object of numbers."""
    with file.open("rb") as lines:
        number = 0
        while line := lines.readline(LINE + 1):
            number += 1
            try:
                bounded.limit(len(line) <= LINE, f"is longer than {LINE:,} bytes")
                row = numbers(parse_json(line))
                bounded.limit(type(row.get("step")) is int, "has no step")
            except ValueError as error:
                raise ValueError(f"line {number} {error}") from None
            yield row


def numbers(values: Any) -> dict[str, float]:
    """``values``, if it is an object of numbers; ValueError if not."""
    if isinstance(values, dict) and all(type(v) in (int, float) for v in values.values()):
        return values
    raise ValueError("is not an object of numbers")


def _no_constant(word: str) -> Any:
    raise ValueError(f"holds {word}, which is not a number")


def _integer(digits: str) -> int:
    bounded.limit(len(digits) <= bounded.DIGITS, f"holds an integer of {len(digits):,} digits")
    return int(digits)


def _float(digits: str) -> float:
    bounded.limit(len(digits) <= 100, f"holds a number of {len(digits):,} digits")
    return float(digits)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"has the key {key[:50]!r} twice")
        found[key] = value
    return found
