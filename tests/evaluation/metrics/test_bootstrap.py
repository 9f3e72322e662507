"""Resampled measures against loops over pairs, and against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from unclip.evaluation.metrics import bootstrap, kernels
from unclip.evaluation.metrics.bootstrap import Draws, Resampled


@pytest.fixture
def sets():
    rng = torch.Generator().manual_seed(0)
    return torch.randn(9, 4, generator=rng), torch.randn(7, 4, generator=rng) + 0.5


def test_kid_of_all_samples_is_that_of_one_block(sets):
    x, y = sets
    found = bootstrap.kid(x, y, bootstrap.resample(9, 7, draws=2))
    assert found.value == pytest.approx(_pairs(x, y, torch.ones(9), torch.ones(7)))
    square = bootstrap.kid(x[:7], y, bootstrap.resample(7, 7, draws=2))
    assert square.value == pytest.approx(kernels.kid(x[:7], y)[0])


def test_kid_of_a_resample_leaves_out_pairs_of_a_sample_with_itself(sets, monkeypatch):
    monkeypatch.setattr(bootstrap, "CHUNK", 4)
    x, y = sets
    draws = bootstrap.resample(9, 7, draws=5)
    assert (draws.generated.max(), draws.generated.sum(1).tolist()) == (
        draws.generated.max().clamp(min=2),
        [9.0] * 5,
    )
    found = bootstrap.kid(x, y, draws)
    for k in range(5):
        assert found.draws[k] == pytest.approx(_pairs(x, y, draws.generated[k], draws.real[k]))


def test_kid_of_a_resample_without_doubles_is_that_of_a_subset(sets):
    x, y = sets
    half = Draws(
        torch.tensor([[1.0, 0, 1, 1, 0, 0, 0, 0, 1]]), torch.tensor([[0, 1.0, 1, 0, 0, 1, 1]])
    )
    half = Draws(half.generated.double(), half.real.double())
    found = bootstrap.kid(x, y, half)
    (want,) = kernels.kid(x[half.generated[0] > 0], y[half.real[0] > 0])
    assert found.draws[0] == pytest.approx(want)


def _pairs(x, y, a, b):
    """The same by loops."""

    def kernel(u, v):
        return (u.double() @ v.double() / 4 + 1) ** 3

    def within(z, w):
        pairs = [(i, j) for i in range(len(z)) for j in range(len(z)) if i != j]
        total = sum(w[i] * w[j] * kernel(z[i], z[j]) for i, j in pairs)
        return total / sum(w[i] * w[j] for i, j in pairs)

    across = sum(a[i] * b[j] * kernel(x[i], y[j]) for i in range(len(x)) for j in range(len(y)))
    return float(within(x, a) + within(y, b) - 2 * across / (a.sum() * b.sum()))


def test_the_spread_of_a_resampled_mean_is_that_of_the_mean():
    values = torch.randn(400, generator=torch.Generator().manual_seed(1)).double()
    found = bootstrap.mean(values, bootstrap.resample(400, 1).generated)
    assert found.value == pytest.approx(values.mean().item())
    assert found.draws.std().item() == pytest.approx(values.std().item() / 20, rel=0.1)
    low, high = found.interval
    assert high - low == pytest.approx(2 * 1.96 * values.std().item() / 20, rel=0.15)
    assert low < found.value < high


def test_all_sets_of_a_size_have_the_same_draws():
    one, two = bootstrap.resample(30, 20), bootstrap.resample(30, 20)
    assert torch.equal(one.generated, two.generated)
    assert torch.equal(one.real, two.real)
    assert not torch.equal(one.generated[:, :20], one.real)


def test_a_slope_is_per_doubling_and_pairs_cancel():
    scales = [1.0, 1.25, 3.0, 4.0]
    noise = torch.randn(50, generator=torch.Generator().manual_seed(2)).double()
    points = [Resampled(2 - 0.3 * math.log2(s), 2 - 0.3 * math.log2(s) + noise) for s in scales]
    found = bootstrap.slope(points, scales)
    assert found.value == pytest.approx(-0.3)
    assert found.interval == pytest.approx((-0.3, -0.3))  # what all scales share is no doubt
    flat = bootstrap.slope([Resampled(1.0, 1 + noise)] * 4, scales)
    assert bootstrap.difference(found, flat).value == pytest.approx(-0.3)
    assert torch.allclose(bootstrap.difference(found, flat).draws, torch.tensor(-0.3).double())


def test_what_each_pair_adds_to_kid_is_what_leaving_it_out_takes_away():
    """Jackknife pseudo-values by brute force; the mean is the distance without own pairs."""
    rng = torch.Generator().manual_seed(1)
    x, y = (torch.randn(9, 4, generator=rng).double() + shift for shift in (0.0, 0.5))

    def k(a, b):
        return ((a @ b).item() / 4 + 1) ** 3

    def distance(x, y):
        n = len(x)
        pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
        terms = [k(x[i], x[j]) + k(y[i], y[j]) - 2 * k(x[i], y[j]) for i, j in pairs]
        return sum(terms) / len(pairs)

    without = [[i for i in range(9) if i != k] for k in range(9)]
    want = [9 * distance(x, y) - 8 * distance(x[rest], y[rest]) for rest in without]
    found = kernels.kid_of_pairs(x, y)
    assert found.tolist() == pytest.approx(want)
    assert found.mean().item() == pytest.approx(distance(x, y))
    with pytest.raises(ValueError, match="3 pairs or more"):
        kernels.kid_of_pairs(x, y[:8])
    with pytest.raises(ValueError, match="3 pairs or more"):
        kernels.kid_of_pairs(x[:2], y[:2])


def test_the_error_of_a_paired_kid_is_that_of_new_samples():
    """Spread of KID over 300 draws; what one draw's pairs say of it errs on the safe side."""
    rng = torch.Generator().manual_seed(2)
    draws = [
        kernels.kid_of_pairs(1.2 * torch.randn(60, 5, generator=rng), z + 0.3)
        for z in torch.randn(300, 60, 5, generator=rng)
    ]
    spread = torch.stack([draw.mean() for draw in draws]).std()
    told = torch.stack([draw.std() / 60**0.5 for draw in draws]).mean()
    assert 0.95 < (told / spread).item() < 1.2
