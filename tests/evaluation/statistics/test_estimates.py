"""Intervals and tests against SciPy's, against their definitions, and against evaluation tables."""

import itertools
from math import sqrt

import numpy as np
import pytest
import scipy.stats

from unclip.evaluation.statistics import power
from unclip.evaluation.statistics.bootstrap import bootstrap
from unclip.evaluation.statistics.estimate import Estimate, holm, verdict
from unclip.evaluation.statistics.means import independent_means, paired_means, t_quantile, t_within
from unclip.evaluation.statistics.shares import (
    independent_shares,
    paired_shares,
    preference,
    sign_test,
    wilson,
)
from unclip.evaluation.statistics.trends import difference_of_slopes, page, slopes


def estimate(effect, low, high, p=0.001):
    return Estimate(effect=effect, low=low, high=high, p=p, n=10, method="made up")


@pytest.mark.parametrize(("wins", "n"), [(0, 1), (0, 9), (3, 9), (5, 10), (9, 10), (430, 1000)])
def test_the_sign_test_is_scipys(wins, n):
    assert sign_test(wins, n) == pytest.approx(scipy.stats.binomtest(wins, n).pvalue, rel=1e-9)
    seen = scipy.stats.binom.pmf(min(wins, n - wins), n, 0.5)
    tail = 2 * scipy.stats.binom.cdf(min(wins, n - wins), n, 0.5)
    assert sign_test(wins, n, mid=True) == pytest.approx(min(1, tail - seen), rel=1e-9)


def test_newcombes_interval_is_the_one_of_his_paper():
    found = independent_shares(56, 70, 48, 80)  # Newcombe 1998, table II, example (a), method 10
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    table = [[56, 14], [48, 32]]
    assert found.p == pytest.approx(
        scipy.stats.chi2_contingency(table, correction=False).pvalue, rel=1e-6
    )
    assert independent_shares(0, 5, 0, 7).p == 1.0


def test_bonett_and_prices_interval_covers_whatever_the_share_of_pairs():
    """The exact coverage, over all tables of 30 pairs."""
    n = 30
    for a, b in [(0.1, 0.1), (0.25, 0.05), (0.4, 0.3), (0.02, 0.02)]:
        covered = sum(
            scipy.stats.multinomial.pmf([i, j, n - i - j], n, [a, b, 1 - a - b])
            for i, j in itertools.product(range(n + 1), repeat=2)
            if i + j <= n and (e := paired_shares(i, j, n)).low <= a - b <= e.high
        )
        assert 0.935 < covered < 1
    assert paired_shares(7, 2, 40).effect == pytest.approx(0.125)
    assert paired_shares(7, 2, 40).p == sign_test(7, 9, mid=True)


def test_a_preference_is_wilsons_share_less_a_half():
    found = preference(705, 1000)
    assert (found.low + 0.5, found.high + 0.5) == pytest.approx(wilson(705, 1000))
    assert found.effect == pytest.approx(0.205)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 10, 41, 200])
def test_students_t_is_scipys(freedom):
    for t in (0.1, 1.0, -2.5, 12.0):
        wanted = 1 - 2 * scipy.stats.t.sf(abs(t), freedom)
        assert t_within(t, freedom) == pytest.approx(wanted, abs=1e-12)
    wanted = scipy.stats.t.ppf(0.975, freedom)
    assert t_quantile(0.95, freedom) == pytest.approx(wanted, rel=1e-9)


def test_means_are_scipys_paired_and_not():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=12), rng.normal(0.3, 2, size=12)
    paired, theirs = paired_means(a, b), scipy.stats.ttest_rel(a, b)
    assert paired.p == pytest.approx(theirs.pvalue)
    assert (paired.low, paired.high) == pytest.approx(tuple(theirs.confidence_interval()))
    welch, theirs = independent_means(a, b[:9]), scipy.stats.ttest_ind(a, b[:9], equal_var=False)
    assert welch.effect == pytest.approx(a.mean() - b[:9].mean())
    assert welch.p == pytest.approx(theirs.pvalue, rel=0.05)  # degrees of freedom rounded down
    assert welch.p >= theirs.pvalue
    with pytest.raises(ValueError, match="no pairs"):
        paired_means(a, b[:9])


def test_the_bootstrap_of_a_mean_is_near_scipys_reaching_as_far_as_students_t():
    rows = np.random.default_rng(1).exponential(size=60)
    reach = sqrt(60 / 59) * scipy.stats.t.ppf(0.975, 59)
    level = 2 * scipy.stats.norm.cdf(reach) - 1
    for method, theirs in [("percentile", "percentile"), ("bca", "BCa")]:
        ours = bootstrap([rows], seed=0, draws=6000, method=method)
        found = scipy.stats.bootstrap(
            (rows,), np.mean, n_resamples=6000, method=theirs, confidence_level=level, rng=2
        )
        wanted = (found.confidence_interval.low, found.confidence_interval.high)
        assert (ours.low, ours.high) == pytest.approx(wanted, abs=0.025)
        assert ours.effect == rows.mean()


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_the_bootstraps_p_is_the_level_at_which_its_interval_touches_zero(method):
    rows = np.random.default_rng(3).exponential(size=40) - 0.75
    found = bootstrap([rows], seed=5, method=method)
    at = bootstrap([rows], seed=5, method=method, confidence=1 - found.p)
    assert min(abs(at.low), abs(at.high)) < 0.01
    assert 0.01 < found.p < 0.5


def test_captions_of_a_run_are_no_runs():
    """Two-level: equal captions in each run, runs that differ, an interval as wide as the runs."""
    rng = np.random.default_rng(2)
    offsets = rng.normal(size=16)
    runs = [offset + rng.normal(scale=0.1, size=50) for offset in offsets]
    wide, narrow = bootstrap(runs, seed=0), bootstrap([np.concatenate(runs)], seed=0)
    standard = offsets.std(ddof=1) / sqrt(16)
    assert wide.high - wide.low == pytest.approx(2 * 1.96 * standard, rel=0.25)
    assert (narrow.high - narrow.low) * 4 < wide.high - wide.low
    assert (wide.n, narrow.n) == (16, 800)


def test_the_bootstrap_has_a_seed_and_refuses_what_has_no_answer():
    rows = np.arange(10.0)
    assert bootstrap([rows], seed=1) == bootstrap([rows], seed=1) != bootstrap([rows], seed=2)
    assert bootstrap([np.zeros(5)], seed=0).p == 1.0
    with pytest.raises(ValueError, match="2 captions or more"):
        bootstrap([rows[:1]], seed=0)
    with pytest.raises(ValueError, match="not a number"):
        bootstrap([rows], lambda r: float("nan"), seed=0)


def test_pages_test_is_scipys():
    y = np.random.default_rng(4).normal(size=(15, 5)) + 0.2 * np.arange(5)
    y[:, 1] = y[:, 0]  # ties
    found = page(y, seed=0)
    theirs = scipy.stats.page_trend_test(y, method="asymptotic")
    assert found.p / 2 == pytest.approx(theirs.pvalue, rel=1e-6)
    rises = np.arange(5) + np.arange(20)[:, None]
    assert page(rises, seed=0).effect == 1
    assert page(-rises, seed=0).effect == -1


def test_slopes_are_those_of_a_line():
    x = np.log([1, 2, 4, 8])
    y = np.array([3 * x + 1, -x])
    assert slopes(x, y) == pytest.approx([3, -1])
    assert difference_of_slopes(x, y, 0 * y, seed=0).effect == pytest.approx(1)


def test_holm_is_as_in_its_definition():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({"only": 0.04}) == {"only": 0.04}
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize(
    ("found", "expected", "p", "says"),
    [
        (estimate(0.1, 0.05, 0.15), "greater", None, "holds"),
        (estimate(0.1, 0.05, 0.15), "less", None, "fails"),
        (estimate(-0.1, -0.15, -0.05), "less", None, "holds"),
        (estimate(-0.1, -0.15, -0.05), "greater", None, "fails"),
        (estimate(0.1, -0.05, 0.25), "greater", None, "not told apart"),  # the interval first
        (estimate(0.1, 0.05, 0.15), "greater", 0.08, "not told apart"),  # after Holm
        (estimate(0.1, 0.05, 0.15, p=0.06), "greater", None, "not told apart"),
        (estimate(0.01, -0.02, 0.04), "equal", None, "holds"),
        (estimate(0.01, -0.02, 0.06), "equal", None, "not told apart"),
        (estimate(0.1, 0.06, 0.14), "equal", None, "fails"),
        (estimate(-0.1, -0.14, -0.06), "equal", 0.2, "not told apart"),
    ],
)
def test_what_an_estimate_says_of_a_claim(found, expected, p, says):
    assert verdict(found, expected, p=p, margin=0.05 if expected == "equal" else 0.0) == says


def test_equality_needs_a_margin():
    with pytest.raises(ValueError, match="margin"):
        verdict(estimate(0.0, -0.1, 0.1), "equal")
    with pytest.raises(ValueError, match="not a number"):
        estimate(float("nan"), 0, 1)


@pytest.mark.parametrize(
    ("rule", "given", "n"),
    [
        *((power.n_for_shares, (p1, p2), n) for p1, p2, n in [
            (0.97, 0.91, 245), (0.95, 0.90, 434), (0.90, 0.80, 199), (0.80, 0.75, 1094),
            (0.80, 0.70, 293), (0.50, 0.60, 387), (0.50, 0.25, 58),
        ]),
        *((power.n_for_pairs, (d, delta), n) for d, delta, n in [
            (0.10, 0.05, 312), (0.20, 0.05, 626), (0.20, 0.10, 155), (0.30, 0.10, 233),
            (0.30, 0.05, 940), (0.10, 0.03, 870), (0.06, 0.03, 521),
        ]),
        *((power.n_for_preference, (p,), n) for p, n in [
            (0.705, 44), (0.626, 121), (0.411, 245), (0.57, 398), (0.453, 886),
            (0.531, 2039), (0.489, 16214),
        ]),
        (power.n_for_means, (0.5,), 63),
        (power.n_for_paired_means, (0.5, 0.6), 25),
    ],
)  # fmt: skip
def test_samples_are_those_of_the_table(rule, given, n):
    """The table rounds to the nearest; what is enough is rounded up."""
    assert rule(*given) in (n, n + 1)


def test_what_so_many_samples_tell():
    """The paper's 1,000 judgements tell 4.4 points from a half."""
    told = power.resolves(lambda d: power.n_for_preference(0.5 + d), 1000, largest=0.49)
    assert told == pytest.approx(0.044, abs=5e-4)
    assert power.resolves(lambda d: power.n_for_preference(0.5 + d), 3, largest=0.3) is None
    with pytest.raises(ValueError, match="tells them apart"):
        power.n_for_shares(0.5, 0.5)
    with pytest.raises(ValueError, match="discordant"):
        power.n_for_pairs(0.1, 0.2)


@pytest.mark.parametrize("sign", [1, -1])
def test_no_interval_reaches_nothing_from_far_away_on_the_short_side(sign):
    rows = sign * np.array([1.0] * 3 + [1.1])  # 48 deviations off, and skewed away from 0
    found = bootstrap([rows], seed=0, draws=2000)
    assert found.p == pytest.approx(2 / 2001)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_share_near_one_is_told_from_nothing_though_its_draws_are_skewed(sign):
    rows = sign * np.array([1.0] * 147 + [0.0] * 2 + [-1.0])
    found = bootstrap([rows], seed=0, draws=10_000)
    assert found.p == pytest.approx(2 / 10_001)
    assert abs(found.effect) > 0.9


def test_what_some_draws_reach_is_counted_among_them():
    rows = np.array([1.0] * 3 + [0.0] * 200)  # a draw has none of the three by (200/203)^203, 4.9 %
    found = bootstrap([rows], seed=0, draws=10_000, method="percentile")
    assert found.p == pytest.approx(0.049, abs=0.006)  # twice half of them
