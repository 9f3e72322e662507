"""An effect with its interval and test, and what may be said of it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from statistics import NormalDist
from typing import Any, Literal

Verdict = Literal["holds", "fails", "not told apart"]
Expected = Literal["greater", "less", "equal"]
"""Which sign of the effect a claim names; ``equal``: an effect within a margin of 0."""

ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An effect, how sure it is, and from what.

    Attributes:
        effect: The point estimate. Zero means that there is no difference.
        low: Lower end of its confidence interval.
        high: Upper end.
        p: Of the two-sided test that the effect is 0.
        n: Independent units that it rests on (captions, pairs or runs).
        method: Test and interval, by name.
    """

    effect: float
    low: float
    high: float
    p: float
    n: int
    method: str

    def __post_init__(self) -> None:
        if not all(map(isfinite, (self.effect, self.low, self.high, self.p))):
            raise ValueError(f"{self.method}: an effect that is not a number")


def verdict(
    estimate: Estimate,
    expected: Expected,
    *,
    p: float | None = None,
    margin: float = 0.0,
    alpha: float = ALPHA,
) -> Verdict:
    """What an estimate says of a claim. The interval comes first, then the corrected test.

    A claim of a difference holds, or fails, where the interval lies on one side of 0 and the test
    rejects 0 as well. A claim of equality holds where the interval lies within ``margin`` of 0
    (the two one-sided tests of equivalence, with more than their confidence), and fails where it
    lies beyond. Everything else is not told apart.

    Args:
        estimate: The effect.
        expected: Sign that the claim names.
        p: The test's p after a correction for several claims (`holm`); default the estimate's own.
        margin: Largest effect that counts as none, for a claim of equality.
        alpha: Level of the test.

    Raises:
        ValueError: a claim of equality without a margin.
    """
    if expected == "equal":
        if margin <= 0:
            raise ValueError("a claim of equality needs a margin above 0")
        if -margin < estimate.low and estimate.high < margin:
            return "holds"
        beyond = estimate.low > margin or estimate.high < -margin
        return "fails" if beyond and _rejects(estimate, p, alpha) else "not told apart"
    if estimate.low <= 0 <= estimate.high or not _rejects(estimate, p, alpha):
        return "not told apart"
    return "holds" if (estimate.effect > 0) == (expected == "greater") else "fails"


def _rejects(estimate: Estimate, p: float | None, alpha: float) -> bool:
    return (estimate.p if p is None else p) < alpha


def holm(p: dict[Any, float]) -> dict[Any, float]:
    """Holm's step-down correction of several tests' p, by name (Scand. J. Statist. 6, 1979).

    The k-th smallest of m is multiplied by m - k + 1; none is smaller than one before it.
    """
    adjusted: dict[Any, float] = {}
    largest = 0.0
    for rank, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p) - rank) * value))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p}


def quantile_of(confidence: float) -> float:
    """The normal quantile of a two-sided interval: 1.96 for 95 %."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must be between 0 and 1")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def two_sided(z: float) -> float:
    """The two-sided p of a standard normal ``z``."""
    return 2 * NormalDist().cdf(-abs(z))
