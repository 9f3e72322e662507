"""Differences of means: few trained runs, or the same captions in two arms. Student's t."""

from __future__ import annotations

from math import atan, cos, pi, sin, sqrt

import numpy as np

from unclip.common.images import Array
from unclip.evaluation.statistics.estimate import Estimate


def paired_means(a: Array, b: Array, confidence: float = 0.95) -> Estimate:
    """Mean of A minus mean of B over pairs: runs of equal seed, or equal captions. ``[N]`` each."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"{a.shape} and {b.shape}: no pairs")
    if len(a) < 2:
        raise ValueError("needs 2 pairs or more")
    effect, error = float((a - b).mean()), float((a - b).std(ddof=1)) / sqrt(len(a))
    return _student(effect, error, len(a) - 1, len(a), confidence, "paired t")


def independent_means(a: Array, b: Array, confidence: float = 0.95) -> Estimate:
    """Mean of A minus mean of B, unpaired. ``[N]`` and ``[M]``; Welch's t (Biometrika 34, 1947)."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if min(len(a), len(b)) < 2:
        raise ValueError("needs 2 values or more in each arm")
    of_a, of_b = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    both = of_a + of_b
    shares = of_a**2 / (len(a) - 1) + of_b**2 / (len(b) - 1)
    freedom = both**2 / shares if shares else len(a) + len(b) - 2
    effect = float(a.mean() - b.mean())
    return _student(effect, sqrt(both), int(freedom), min(len(a), len(b)), confidence, "Welch's t")


def _student(
    effect: float, error: float, freedom: int, n: int, confidence: float, method: str
) -> Estimate:
    reach = t_quantile(confidence, freedom) * error
    if error:
        p = 1 - t_within(effect / error, freedom)
    else:
        p = 1.0 if effect == 0 else 0.0
    return Estimate(effect=effect, low=effect - reach, high=effect + reach, p=p, n=n, method=method)


def t_within(t: float, freedom: int) -> float:
    """P(|T| <= |t|) of Student's t; Abramowitz and Stegun 26.7.3 and 26.7.4.

    Their finite sums need whole degrees of freedom; Welch's are rounded down, to the safe side.
    """
    theta = atan(abs(t) / sqrt(freedom))
    odd = freedom % 2
    term = total = 0.0
    if freedom > 1:
        term = total = cos(theta) if odd else 1.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= cos(theta) ** 2 * (k - 1) / k
        total += term
    within = 2 / pi * (theta + sin(theta) * total) if odd else sin(theta) * total
    return min(1.0, within)


def t_quantile(confidence: float, freedom: int) -> float:
    """The t that a two-sided interval reaches to: 4.30 for 95 % and 2 degrees of freedom."""
    low, high = 0.0, 1.0
    while t_within(high, freedom) < confidence:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, freedom) < confidence else (low, middle)
    return high
