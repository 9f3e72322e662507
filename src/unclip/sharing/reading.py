"""Reads what strangers wrote: JSON and YAML of bounded size, depth, numbers and text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from unclip.common.errors import UserError, article
from unclip.config.load import read_yaml

DEPTH = 16
NODES = 20_000  # values in a file
TEXT = 10_000  # characters in a value
INTEGER = 2**63
LINE = 1 << 16  # bytes of a line of metrics
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a terminal would obey them


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
        raise ValueError(f"is nested deeper than {DEPTH}") from None
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg}, line {error.lineno})") from None
    _check(value)
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
                _limit(len(line) <= LINE, f"is longer than {LINE:,} bytes")
                row = numbers(parse_json(line))
                _limit(type(row.get("step")) is int, "has no step")
            except ValueError as error:
                raise ValueError(f"line {number} {error}") from None
            yield row


def numbers(values: Any) -> dict[str, float]:
    """``values``, if it is an object of numbers; ValueError if not."""
    if isinstance(values, dict) and all(type(v) in (int, float) for v in values.values()):
        return values
    raise ValueError("is not an object of numbers")


def read_untrusted_yaml(file: Path) -> dict[str, Any]:
    """A mapping of plain values; ValueError as `parse_json`, also for tags and aliases."""
    try:
        depth = 0
        with file.open(encoding="utf-8") as stream:
            for event in yaml.parse(stream, yaml.SafeLoader):
                if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                    raise ValueError("has an alias (& or *), which a bundle may not")
                if tag := getattr(event, "tag", None):
                    raise ValueError(f"has the tag {tag!r}, which a bundle may not")
                depth += isinstance(event, yaml.CollectionStartEvent)
                depth -= isinstance(event, yaml.CollectionEndEvent)
                _limit(depth <= DEPTH, f"is nested deeper than {DEPTH}")
                if isinstance(event, yaml.ScalarEvent):
                    _check_text(event.value)
        content = read_yaml(file)
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML ({' '.join(str(error).split())[:120]})") from None
    except UserError as error:
        raise ValueError(str(error).removeprefix(f"{file}: ")) from None
    _check(content)
    return content


def _no_constant(word: str) -> Any:
    raise ValueError(f"holds {word}, which is not a number")


def _integer(digits: str) -> int:
    _limit(len(digits) <= 20, f"holds an integer of {len(digits):,} digits")
    return int(digits)


def _float(digits: str) -> float:
    _limit(len(digits) <= 100, f"holds a number of {len(digits):,} digits")
    return float(digits)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"has the key {key[:50]!r} twice")
        found[key] = value
    return found


def _check(value: Any) -> None:
    """Hold a tree of plain values to the limits, level by level."""
    level, nodes = [value], 0
    for _ in range(DEPTH):
        nodes += len(level)
        _limit(nodes <= NODES, f"holds more than {NODES:,} values")
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str):
                _check_text(item)
            elif isinstance(item, int):
                _limit(abs(item) < INTEGER, f"holds the integer {str(item)[:25]}, 2^63 or more")
            elif isinstance(item, float):
                _limit(math.isfinite(item), f"holds {item}, which is not finite")
            else:
                _limit(item is None, f"holds {article(type(item).__name__)}")
        if not below:
            return
        level = below
    raise ValueError(f"is nested deeper than {DEPTH}")


def _check_text(text: str) -> None:
    _limit(len(text) <= TEXT, f"holds a text of {len(text):,} characters")
    _limit(not _CONTROL.search(text), "holds control characters")


def _limit(kept: bool, otherwise: str) -> None:
    if not kept:
        raise ValueError(otherwise)
