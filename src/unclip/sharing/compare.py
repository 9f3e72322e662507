"""How alike two runs are: each metric step by step, and the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unclip.tracking.files import number

IDENTICAL, CLOSE, DIFFERENT = "bit-identical", "within tolerance", "different"
UNKNOWN = "not comparable"
RTOL = 0.01  # of what counts as within tolerance
TIMED = ("samples_per_second", "data_wait", "peak_memory_gib", "seconds", "cpu_seconds", "time")
"""Metrics that tell of the machine: no two runs agree in them. All others must."""

Series = dict[int, float]  # step -> value


class MetricRow(NamedTuple):
    """How alike two runs are in one thing."""

    name: str
    then: float | None  # the last value
    now: float | None
    distance: float | None  # the largest relative difference; None if one lacks values
    first: int | None  # the first step at which they differ
    verdict: str


def series_of(rows: Iterable[dict[str, Any]]) -> dict[str, Series]:
    """Metric -> its curve, of the lines of a metrics.jsonl."""
    found: dict[str, Series] = {}
    for row in rows:
        for name, value in row.items():
            if name not in ("step", *TIMED) and (shown := number(value)) is not None:
                found.setdefault(name, {})[row["step"]] = shown
    return found


def compare_series(
    then: dict[str, Series],
    now: dict[str, Series],
    *,
    rtol: float = RTOL,
    unrecorded: Callable[[int], bool] = lambda step: False,
) -> list[MetricRow]:
    """A row for each metric that either run has.

    A step that one run alone has counts as different, unless ``unrecorded`` says that a run may
    lack it.
    """
    found = []
    for name in then | now:
        one, two = then.get(name, {}), now.get(name, {})
        lacking = {step for step in one.keys() ^ two.keys() if unrecorded(step)}
        if one.keys() & two.keys():  # else nothing would be compared
            one, two = ({s: v for s, v in c.items() if s not in lacking} for c in (one, two))
        found.append(_row(name, one, two, rtol))
    return found


def compare_values(
    then: dict[str, float], now: dict[str, float], *, rtol: float = RTOL
) -> list[MetricRow]:
    """A row for each number that either run has; those of the machine are left out."""
    one, two = (series_of([{"step": 0, **values}]) for values in (then, now))
    return [row._replace(first=None) for row in compare_series(one, two, rtol=rtol)]


def compare_weights(
    name: str,
    then: dict[str, Tensor] | None,
    now: dict[str, Tensor],
    *,
    same: bool,
    rtol: float = RTOL,
) -> MetricRow:
    """The row ``name`` of weights: ``same`` by their checksum, else by their distance.

    The distance is |now - then| / |then| over all numbers together; `UNKNOWN` without ``then``.
    """
    if same:
        return MetricRow(name, None, None, 0.0, None, IDENTICAL)
    if then is None:
        return MetricRow(name, None, None, None, None, UNKNOWN)
    if {n: t.shape for n, t in then.items()} != {n: t.shape for n, t in now.items()}:
        return MetricRow(name, None, None, None, None, DIFFERENT)
    apart = math.sqrt(sum(_square(now[key].double() - t.double()) for key, t in then.items()))
    whole = math.sqrt(sum(_square(t.double()) for t in then.values()))
    distance = apart / whole if whole else float(apart > 0)
    return MetricRow(name, None, None, distance, None, _verdict(distance, rtol))


def overall(rows: Iterable[MetricRow]) -> str:
    """The worst verdict of some rows, see `worst`."""
    return worst(row.verdict for row in rows)


def worst(of: Iterable[str]) -> str:
    """The worst verdict; what cannot be compared is within tolerance at best."""
    verdicts = set(of)
    return next((v for v in (DIFFERENT, CLOSE) if v in verdicts), _best(verdicts))


def _best(verdicts: set[str]) -> str:
    return CLOSE if UNKNOWN in verdicts else IDENTICAL


def _row(name: str, then: Series, now: Series, rtol: float) -> MetricRow:
    last = [values[max(values)] if values else None for values in (then, now)]
    differing = sorted(s for s in then.keys() | now.keys() if then.get(s) != now.get(s))
    first = differing[0] if differing else None
    if then.keys() != now.keys():
        return MetricRow(name, last[0], last[1], None, first, DIFFERENT)
    distance = max((_relative(then[s], now[s]) for s in then), default=0.0)
    return MetricRow(name, last[0], last[1], distance, first, _verdict(distance, rtol))


def _relative(a: float, b: float) -> float:
    return 0.0 if a == b else abs(a - b) / max(abs(a), abs(b))


def _verdict(distance: float, rtol: float) -> str:
    if distance == 0:
        return IDENTICAL
    return CLOSE if distance <= rtol else DIFFERENT


def _square(t: Tensor) -> float:
    return float(torch.sum(t * t))
