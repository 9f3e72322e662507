"""The clustered bootstrap: captions are drawn again, never the images of one caption apart.

A sample is one array per run, ``[N, ...]``: a row for each caption, which holds what its images
gave. With several runs the runs are drawn again first, then the captions within each (Davison and
Hinkley, Bootstrap Methods and their Application, section 3.8). One run says how one trained
cascade differs; only several say how a method does. With fewer than about ten runs the draws are
too few kinds: take Student's t over the runs' means (`means`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, sqrt
from statistics import NormalDist
from typing import Literal

import numpy as np

from unclip.common.images import Array
from unclip.common.seeding import derive_seed
from unclip.evaluation.statistics.estimate import Estimate
from unclip.evaluation.statistics.means import t_quantile, t_within

Statistic = Callable[[Array], float]
"""From rows ``[M, ...]``, which may repeat, to a number whose zero means no effect."""

DRAWS = 2000


def mean(rows: Array) -> float:
    """The mean over all rows."""
    return float(rows.mean())


def bootstrap(
    runs: Sequence[Array],
    statistic: Statistic = mean,
    *,
    seed: int,
    draws: int = DRAWS,
    confidence: float = 0.95,
    method: Literal["percentile", "bca"] = "bca",
) -> Estimate:
    """The statistic of all rows with its interval, and the p at which that interval touches 0.

    Args:
        runs: Rows of each trained run, ``[N, ...]``.
        statistic: Of the rows of all runs, one after the other.
        seed: Of the draws.
        draws: How many; the smallest p is 2 / (draws + 1).
        confidence: Of the interval.
        method: ``percentile``, or ``bca``: corrected for bias and acceleration (Efron, JASA 82,
            1987), by leaving out one unit of the outer level at a time. Both reach as far as
            Student's t does with so many units, for draws vary less than samples (Hesterberg, The
            American Statistician 69, 2015, the expanded percentile interval).

    Raises:
        ValueError: fewer than 2 units at the outer level, or a statistic that is not a number.
    """
    runs = [np.asarray(rows, np.float64) for rows in runs]
    several = len(runs) > 1
    n = len(runs) if several else len(runs[0])
    if n < 2:
        raise ValueError("needs 2 captions or more")
    rng = np.random.default_rng(derive_seed("bootstrap", seed))
    effect = statistic(np.concatenate(runs))
    values = np.sort([statistic(_again(runs, rng)) for _ in range(draws)])
    if not np.isfinite(values).all():
        raise ValueError("a statistic that is not a number")
    bias, acceleration = 0.0, 0.0
    if method == "bca":
        bias = _normal((values < effect).mean() + (values == effect).mean() / 2, draws)
        without = [statistic(_without(runs, k)) for k in range(n)]
        acceleration = _acceleration(np.array(without))

    def end(z: float) -> float:
        """Where the interval's end with normal quantile ``z`` lies among the draws."""
        moved = bias + (bias + z) / max(1e-9, 1 - acceleration * (bias + z))
        return float(np.quantile(values, NormalDist().cdf(moved)))

    wider = sqrt(n / (n - 1))
    reach = wider * t_quantile(confidence, n - 1)
    w = _quantile_of_zero(values) - bias
    stretch = 1 + acceleration * w  # where it is not above 0 no interval reaches 0
    z = w / stretch - bias if stretch > 0 else inf  # `end` solved for z where it is 0
    return Estimate(
        effect=effect,
        low=end(-reach),
        high=end(reach),
        p=max(1 - t_within(z / wider, n - 1), 2 / (draws + 1)),
        n=n,
        method=f"{method} bootstrap over {'runs and captions' if several else 'captions'}",
    )


def _again(runs: Sequence[Array], rng: np.random.Generator) -> Array:
    """One draw, with replacement: of the runs if there are several, then of their rows."""
    drawn = runs if len(runs) == 1 else [runs[k] for k in rng.integers(len(runs), size=len(runs))]
    return np.concatenate([rows[rng.integers(len(rows), size=len(rows))] for rows in drawn])


def _without(runs: Sequence[Array], k: int) -> Array:
    """All rows but those of run ``k``; of one run, but row ``k``."""
    if len(runs) == 1:
        return np.delete(runs[0], k, axis=0)
    return np.concatenate([rows for number, rows in enumerate(runs) if number != k])


def _quantile_of_zero(values: Array) -> float:
    """The normal quantile of 0 among the draws; beyond all of them that of a normal tail.

    To count one draw there in place of none would bound p by what few draws can tell: far too high
    where acceleration is strong, as of a share near 1.
    """
    if values.min() <= 0 <= values.max() or not values.std():
        below = (values < 0).mean() + (values == 0).mean() / 2
        return _normal(below, len(values))
    return float(-values.mean() / values.std())


def _normal(share: float, draws: int) -> float:
    least = 1 / (draws + 1)
    return NormalDist().inv_cdf(float(min(max(share, least), 1 - least)))


def _acceleration(without: Array) -> float:
    """Efron's acceleration, of the statistic without one unit each: their skewness over 6."""
    influence = without.mean() - without
    spread = (influence**2).sum() ** 1.5
    return float((influence**3).sum() / (6 * spread)) if spread else 0.0
