"""Probes find a known taste, and are the minimum of what they are said to minimise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression, Ridge

from unclip.evaluation.linear_probes.fit import _logistic, _ridge, fit_pairs, fit_ratings


def embeddings(n, d=8, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, generator=rng, dtype=torch.float64), dim=1)


def taste(d=8):
    return torch.linspace(-2, 3, d).double()


def noise(n, seed=1):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_ratings_without_noise_are_found_exactly():
    z = embeddings(200)
    found = fit_ratings(z, z @ taste() + 5)
    assert torch.allclose(found.weight, taste(), rtol=1e-4)
    assert found.bias == pytest.approx(5, abs=1e-4)
    assert found.held_out == pytest.approx(1, abs=1e-6)


def test_the_ridge_is_scikit_learns():
    z, strength = embeddings(50), 0.03
    rating = z @ taste() + noise(50)
    ((w, b),) = _ridge(z, rating, (strength,))
    theirs = Ridge(alpha=strength * 50).fit(z.numpy(), rating.numpy())
    assert np.allclose(w.numpy(), theirs.coef_, rtol=1e-9)
    assert b == pytest.approx(theirs.intercept_, rel=1e-9)


def test_several_ratings_of_an_image_are_held_out_together():
    """Of images that tell nothing about their ratings, 5 of each: no fit knows one it has seen."""
    z, image = embeddings(40, d=64), torch.arange(40).repeat(5)
    own = noise(40)[image] + 0.01 * noise(200, seed=2)
    assert abs(fit_ratings(z, own, image=image).held_out) < 0.5
    assert fit_ratings(z[image], own).held_out > 0.9  # as if they were 200 images


def test_ratings_that_nothing_is_fitted_to_are_refused():
    z = embeddings(20)
    with pytest.raises(ValueError, match="9 ratings; cross-validation needs 10"):
        fit_ratings(z[:9], noise(9))
    with pytest.raises(ValueError, match="all ratings are equal"):
        fit_ratings(z, torch.ones(20))
    with pytest.raises(ValueError, match="3 different images; cross-validation needs 10"):
        fit_ratings(z[:3], noise(12), image=torch.arange(12) % 3)


def test_noise_alone_gets_a_large_penalty_and_no_correlation():
    found = fit_ratings(embeddings(60, d=40), noise(60))
    real = fit_ratings(embeddings(60), embeddings(60) @ taste() + 0.01 * noise(60))
    assert found.strength > real.strength
    assert abs(found.held_out) < 0.5
    assert found.weight.norm() < 1


def pairs(n_pairs, n=400, scale=3.0, seed=2):
    z = embeddings(n)
    rng = torch.Generator().manual_seed(seed)
    first = torch.randint(0, n, (n_pairs,), generator=rng)
    second = (first + torch.randint(1, n, (n_pairs,), generator=rng)) % n
    p = torch.sigmoid(scale * (z[first] - z[second]) @ taste())
    return z, first, second, torch.bernoulli(p, generator=rng)


def test_a_raters_taste_is_found_from_choices():
    z, first, second, chosen = pairs(4000)
    found = fit_pairs(z, first, second, chosen)
    cosine = F.cosine_similarity(found.weight, taste(), dim=0).item()
    assert cosine > np.cos(np.radians(6))
    assert found.weight.norm() == pytest.approx(3 * taste().norm().item(), rel=0.15)
    assert 0.7 < found.held_out < 1
    assert found.bias == 0


def test_the_logistic_fit_is_scikit_learns_without_intercept():
    z, first, second, chosen = pairs(300)
    x, strength = z[first] - z[second], 0.01
    w = _logistic(x, chosen, strength)
    model = LogisticRegression(C=1 / (strength * 300), fit_intercept=False, tol=1e-12)
    theirs = model.set_params(max_iter=10_000).fit(x.numpy(), chosen.numpy()).coef_[0]
    assert np.allclose(w.numpy(), theirs, rtol=1e-4)


def test_sides_do_not_matter():
    z, first, second, chosen = pairs(300)
    one = fit_pairs(z, first, second, chosen)
    other = fit_pairs(z, second, first, 1 - chosen)
    assert torch.allclose(one.weight, other.weight, rtol=1e-8)


def test_choices_that_nobody_contradicts_have_a_finite_fit():
    z, first, second, _ = pairs(100)
    sure = ((z[first] - z[second]) @ taste() > 0).double()
    found = fit_pairs(z, first, second, sure)
    assert found.weight.isfinite().all()
    assert found.held_out > 0.85


def test_a_pair_is_judged_by_a_fit_that_has_not_seen_its_image():
    """Each image beats its partner for no reason that another image shares: nothing to learn."""
    z = embeddings(202, d=150)
    first, second = torch.arange(0, 202, 2), torch.arange(1, 202, 2)
    first, second = first.repeat(4), second.repeat(4)
    coins = torch.bernoulli(torch.full((101,), 0.5), generator=torch.Generator().manual_seed(0))
    found = fit_pairs(z, first, second, coins.repeat(4))
    assert found.held_out < 0.65  # folds of pairs would find 1


def test_too_little_to_fit_is_refused():
    with pytest.raises(ValueError, match="9 ratings"):
        fit_ratings(embeddings(9), noise(9))
    with pytest.raises(ValueError, match="equal"):
        fit_ratings(embeddings(20), torch.ones(20))
    with pytest.raises(ValueError, match="3 pairs"):
        fit_pairs(embeddings(4), torch.tensor([0, 1, 2]), torch.tensor([1, 2, 3]), torch.ones(3))
