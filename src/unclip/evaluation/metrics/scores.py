"""Counts of right answers as shares, with their uncertainty."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist
from typing import Any, NamedTuple


class Interval(NamedTuple):
    """Ends of a confidence interval."""

    low: float
    high: float


def wilson(right: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share of ``right`` in ``n``; [0, 1] where n is 0.

    Unlike the normal approximation it is of use at 0 and at n.
    """
    if n == 0:
        return Interval(0.0, 1.0)
    z, share = NormalDist().inv_cdf((1 + confidence) / 2), right / n
    middle = share + z * z / (2 * n)
    reach = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return Interval(max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale))


def score(right: int, n: int) -> dict[str, Any]:
    """``right`` of ``n`` as a part of a record: the counts, the share, and its 95 % interval."""
    low, high = wilson(right, n)
    share = right / n if n else None
    return {"right": right, "n": n, "share": share, "low": low, "high": high}
