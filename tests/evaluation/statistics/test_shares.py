"""Wilson's interval against SciPy's."""

import pytest
from scipy.stats import binomtest

from unclip.evaluation.statistics.shares import score, wilson


@pytest.mark.parametrize(("right", "n"), [(0, 1), (0, 32), (1, 32), (17, 32), (32, 32), (500, 999)])
@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_the_interval_is_scipys(right, n, confidence):
    ci = binomtest(right, n).proportion_ci(confidence, method="wilson")
    assert wilson(right, n, confidence) == pytest.approx((ci.low, ci.high), abs=1e-12)


def test_nothing_counted_is_nothing_known():
    assert score(0, 0) == {"right": 0, "n": 0, "share": None, "low": 0.0, "high": 1.0}


def test_a_score_holds_its_counts():
    found = score(3, 4)
    assert (found["right"], found["n"], found["share"]) == (3, 4, 0.75)
    assert found["low"] < 0.75 < found["high"]
