"""Trends over an ordered setting: slopes per caption, and Page's test."""

from __future__ import annotations

from math import sqrt

import numpy as np

from unclip.common.images import Array
from unclip.evaluation.statistics.bootstrap import DRAWS, bootstrap
from unclip.evaluation.statistics.estimate import Estimate, two_sided


def slopes(x: Array, y: Array) -> Array:
    """Least squares slope of each row of ``y`` ``[N, J]`` over ``x`` ``[J]``. ``[N]``"""
    x = np.asarray(x, float) - np.mean(x)
    return np.asarray(y, float) @ x / (x @ x)


def difference_of_slopes(
    x: Array, a: Array, b: Array, *, seed: int, draws: int = DRAWS
) -> Estimate:
    """Mean slope of A minus mean slope of B, for the same captions. ``[N, J]`` each.

    A slope is linear in its values, so the mean of the captions' slopes is the slope of the means.
    """
    return bootstrap([slopes(x, a) - slopes(x, b)], seed=seed, draws=draws)


def page(y: Array, *, seed: int) -> Estimate:
    """Page's test that the columns of ``y`` ``[N, J]`` rise from left to right (JASA 58, 1963).

    L, the sum of j times the rank of column j, is told by its normal approximation, with middle
    ranks for ties. The effect is the mean over rows of Spearman's correlation with the order (ties
    left uncorrected), which is L on a scale of -1 to 1; its interval is bootstrapped over rows.
    """
    y = np.asarray(y, float)
    n, j = y.shape
    if n < 2 or j < 3:
        raise ValueError(f"Page's test of {n} rows and {j} columns: needs 2 and 3 or more")
    order = np.arange(1, j + 1)
    per_row = _ranks(y) @ order
    middle, spread = j * (j + 1) ** 2 / 4, j**2 * (j + 1) ** 2 * (j - 1) / 144
    z = (per_row.sum() - n * middle) / sqrt(n * spread)
    found = bootstrap([(per_row - middle) / (j * (j**2 - 1) / 12)], seed=seed)
    return Estimate(
        effect=found.effect,
        low=found.low,
        high=found.high,
        p=two_sided(z),
        n=n,
        method="Page's trend test, bootstrap over captions",
    )


def _ranks(y: Array) -> Array:
    """Ranks within each row from 1, the mean of them for ties."""
    below = (y[:, None, :] < y[:, :, None]).sum(-1)
    equal = (y[:, None, :] == y[:, :, None]).sum(-1)
    return below + (equal + 1) / 2
