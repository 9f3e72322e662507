"""Simulated arms with a known difference: intervals cover it, effects are found, nulls are not."""

import numpy as np
import pytest

from unclip.evaluation.statistics.bootstrap import bootstrap
from unclip.evaluation.statistics.estimate import holm, verdict
from unclip.evaluation.statistics.means import independent_means, paired_means
from unclip.evaluation.statistics.shares import independent_shares, paired_shares, preference
from unclip.evaluation.statistics.trends import difference_of_slopes

SCALES = np.log([1, 1.5, 2, 3, 4])


def shares(rng, truth):
    a, b = rng.binomial(250, 0.6 + truth), rng.binomial(250, 0.6)
    return independent_shares(int(a), 250, int(b), 250)


def pairs(rng, truth):
    """Each caption has its own difficulty, which makes the arms agree more often than not."""
    ease = rng.beta(2, 1, size=250) * (1 - abs(truth))
    both = rng.random(250)  # the same noise in both arms, as far as it goes
    a = np.where(rng.random(250) < 0.7, both, rng.random(250)) < ease + truth
    b = np.where(rng.random(250) < 0.7, both, rng.random(250)) < ease
    return paired_shares(int((a & ~b).sum()), int((b & ~a).sum()), 250)


def preferences(rng, truth):
    return preference(int(rng.binomial(300, 0.5 + truth)), 300)


def runs_paired_by_seed(rng, truth):
    seed = rng.normal(size=5)
    return paired_means(seed + truth + rng.normal(size=5) / 2, seed + rng.normal(size=5) / 2)


def runs(rng, truth):
    return independent_means(truth + rng.normal(size=6), rng.normal(scale=2, size=8))


def captions(rng, truth):
    """Sixteen images of each caption, which are alike: the mean of a caption is one value."""
    return bootstrap([rng.gamma(2, size=150) / 2 - 1 + truth], seed=int(rng.integers(2**31)))


def captions_in_runs(rng, truth):
    rows = [rng.normal(truth, 0.3) + rng.normal(size=30) for _ in range(20)]
    return bootstrap(rows, seed=int(rng.integers(2**31)), draws=500)


def share_of_ratios(rng, truth):
    """Votes: the ratio of two sums over captions of several votes each, less a half."""
    votes = rng.integers(1, 6, size=120)
    wins = rng.binomial(votes, np.clip(rng.normal(0.5 + truth, 0.1, size=120), 0, 1))
    rows = np.stack([wins, votes], 1)
    return bootstrap(
        [rows],
        lambda r: float(r[:, 0].sum() / r[:, 1].sum() - 0.5),
        seed=int(rng.integers(2**31)),
        draws=500,
    )


def slope(rng, truth):
    level = rng.normal(size=(70, 1))
    a = level + truth * SCALES + rng.normal(scale=0.3, size=(70, 5))
    b = level + rng.normal(scale=0.3, size=(70, 5))
    return difference_of_slopes(SCALES, a, b, seed=int(rng.integers(2**31)))


ARMS = {
    shares: 0.1,
    pairs: 0.1,
    preferences: 0.1,
    runs_paired_by_seed: 1.0,
    runs: 2.0,
    captions: 0.2,
    captions_in_runs: 0.3,
    share_of_ratios: 0.1,
    slope: 0.1,
}


def coverage(arms, truth, times):
    """Share of intervals that cover the truth, and of tests that reject that it is 0."""
    rng = np.random.default_rng(7)
    found = [arms(rng, truth) for _ in range(times)]
    covered = sum(e.low <= truth <= e.high for e in found) / times
    return covered, sum(verdict(e, "greater") != "not told apart" for e in found) / times


@pytest.mark.parametrize("arms", [shares, pairs, preferences, runs_paired_by_seed, runs])
def test_intervals_cover_the_truth(arms):
    for truth in (0.0, ARMS[arms]):
        covered, _ = coverage(arms, truth, 300)
        assert covered >= 0.91


@pytest.mark.slow
@pytest.mark.parametrize("planted", [False, True])
@pytest.mark.parametrize("arms", ARMS)
def test_intervals_cover_the_truth_in_93_to_97_percent(arms, planted):
    covered, told = coverage(arms, ARMS[arms] if planted else 0.0, 1000)
    print(arms.__name__, planted, covered, told)
    assert 0.93 <= covered <= 0.97
    if planted:
        assert told > 0.4
    else:
        assert told <= 0.07


def test_a_planted_effect_is_found_and_a_null_is_not():
    """A page of claims: Holm's correction leaves the effect and none of the twelve nulls."""
    rng = np.random.default_rng(0)
    page = {"effect": pairs(rng, 0.2)} | {f"null {k}": pairs(rng, 0.0) for k in range(12)}
    corrected = holm({name: e.p for name, e in page.items()})
    says = {name: verdict(e, "greater", p=corrected[name]) for name, e in page.items()}
    assert says.pop("effect") == "holds"
    assert set(says.values()) == {"not told apart"}
