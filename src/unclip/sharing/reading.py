"""What strangers wrote: the error that refuses it, and their metrics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unclip.common import bounded, json_text
from unclip.common.errors import UserError

LINE = 1 << 16  # bytes of a line of metrics


class Refused(UserError):
    """A bundle is damaged, or not what it says it is."""

    def __init__(self, bundle: str, member: str, reason: str):
        shown = member if member.isascii() and member.isprintable() else ascii(member)
        super().__init__(f"{bundle}: {shown}: {reason}")


def metric_rows(file: Path) -> Iterator[dict[str, float]]:
    """The lines of a metrics.jsonl; raises ValueError where one is not an object of numbers."""
    with file.open("rb") as lines:
        number = 0
        while line := lines.readline(LINE + 1):
            number += 1
            try:
                bounded.limit(len(line) <= LINE, f"is longer than {LINE:,} bytes")
                row = numbers(json_text.read(line))
                bounded.limit(type(row.get("step")) is int, "has no step")
            except ValueError as error:
                raise ValueError(f"line {number} {error}") from None
            yield row


def numbers(values: Any) -> dict[str, float]:
    """``values``, if it is an object of numbers; ValueError if not."""
    if isinstance(values, dict) and all(type(v) in (int, float) for v in values.values()):
        return values
    raise ValueError("is not an object of numbers")
