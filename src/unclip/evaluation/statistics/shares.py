"""Counts of right answers as shares, with their uncertainty, and differences of shares."""

from __future__ import annotations

from math import comb, sqrt
from typing import Any, NamedTuple

from unclip.evaluation.statistics.estimate import Estimate, quantile_of, two_sided


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
    z, share = quantile_of(confidence), right / n
    middle = share + z * z / (2 * n)
    reach = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return Interval(max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale))


def score(right: int, n: int) -> dict[str, Any]:
    """``right`` of ``n`` as a part of a record: the counts, the share, and its 95 % interval."""
    low, high = wilson(right, n)
    share = right / n if n else None
    return {"right": right, "n": n, "share": share, "low": low, "high": high}


def independent_shares(
    right_a: int, n_a: int, right_b: int, n_b: int, confidence: float = 0.95
) -> Estimate:
    """Share of A minus share of B, of different samples.

    Newcombe's hybrid of two Wilson intervals (Statist. Med. 17, 1998, method 10), and the z test
    with the pooled share.
    """
    _counts(right_a, n_a)
    _counts(right_b, n_b)
    a, b = right_a / n_a, right_b / n_b
    of_a, of_b = wilson(right_a, n_a, confidence), wilson(right_b, n_b, confidence)
    pooled = (right_a + right_b) / (n_a + n_b)
    spread = sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
    return Estimate(
        effect=a - b,
        low=a - b - sqrt((a - of_a.low) ** 2 + (of_b.high - b) ** 2),
        high=a - b + sqrt((of_a.high - a) ** 2 + (b - of_b.low) ** 2),
        p=two_sided((a - b) / spread) if spread else 1.0,
        n=min(n_a, n_b),
        method="two independent shares, Newcombe's interval",
    )


def paired_shares(only_a: int, only_b: int, n: int, confidence: float = 0.95) -> Estimate:
    """Share of A minus share of B, of the same ``n`` samples: McNemar's mid-p test.

    Args:
        only_a: Samples in which A is right and B is wrong.
        only_b: The reverse.
        n: All samples, those in which both agree among them.
        confidence: Of Bonett and Price's adjusted interval (J. Educ. Behav. Statist. 37, 2012).
    """
    _counts(only_a + only_b, n)
    a, b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    reach = quantile_of(confidence) * sqrt((a + b - (a - b) ** 2) / (n + 2))
    return Estimate(
        effect=(only_a - only_b) / n,
        low=max(-1.0, a - b - reach),
        high=min(1.0, a - b + reach),
        p=sign_test(only_a, only_a + only_b, mid=True),
        n=n,
        method="McNemar's mid-p test of pairs, Bonett and Price's interval",
    )


def preference(wins: int, n: int, confidence: float = 0.95) -> Estimate:
    """How far the share of ``wins`` lies from a half: Wilson's interval and the exact sign test."""
    _counts(wins, n)
    low, high = wilson(wins, n, confidence)
    return Estimate(
        effect=wins / n - 0.5,
        low=low - 0.5,
        high=high - 0.5,
        p=sign_test(wins, n),
        n=n,
        method="sign test, Wilson's interval",
    )


def sign_test(wins: int, n: int, *, mid: bool = False) -> float:
    """Two-sided binomial p of ``wins`` in ``n`` against a half; McNemar's exact test of pairs.

    ``mid`` counts what was seen by half (Fagerland et al., BMC Med. Res. Methodol. 13:91, 2013):
    the exact test is too careful.
    """
    if n == 0:
        return 1.0
    fewer = min(wins, n - wins)
    tail = sum(comb(n, k) for k in range(fewer + 1))
    if mid:
        return min(1.0, (2 * tail - comb(n, fewer)) / 2**n)
    return min(1.0, 2 * tail / 2**n)


def _counts(right: int, n: int) -> None:
    if not 0 <= right <= n or n == 0:
        raise ValueError(f"{right} of {n}: not a share")
