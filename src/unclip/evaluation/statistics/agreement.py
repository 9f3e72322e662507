"""How far raters agree, beyond chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple


class Agreement(NamedTuple):
    """Of raters who chose among categories."""

    alpha: float | None  # Krippendorff's; None where all said one thing, or nothing can be compared
    same: float | None  # share of the pairs of ratings of one unit that are the same
    units: int  # with two ratings or more


def agreement(units: Iterable[Sequence[Hashable]]) -> Agreement:
    """Krippendorff's alpha of nominal ratings: 1 - D_observed / D_expected.

    1 is perfect agreement and 0 that of chance. Any number of raters, each of whom may have left
    units out (Krippendorff, Content Analysis, 2004, section 11.3). With two raters of all units it
    is Scott's pi with a correction for few units.

    Args:
        units: The ratings of each unit; those with fewer than two say nothing and do not count.
    """
    compared = [Counter(ratings) for ratings in units if len(ratings) > 1]
    totals: Counter[Hashable] = Counter()
    differ = pairs = different = 0.0
    for counts in compared:
        m = counts.total()
        totals += counts
        apart = m * m - sum(c * c for c in counts.values())  # ordered pairs that differ
        differ += apart / (m - 1)
        different += apart
        pairs += m * (m - 1)
    n = totals.total()
    expected = n * n - sum(c * c for c in totals.values())
    if not compared:
        return Agreement(None, None, 0)
    same = 1 - different / pairs
    if expected == 0:
        return Agreement(None, same, len(compared))
    return Agreement(1 - (n - 1) * differ / expected, same, len(compared))
