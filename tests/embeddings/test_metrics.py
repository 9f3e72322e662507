"""The prior's metrics on samples of which they are known in closed form."""

import math

import pytest
import torch

from unclip.embeddings.metrics import CHUNK, frechet_distance, prior_metrics


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def samples(root, mean=0.0, *, n=60, seed=0):
    """n samples whose mean is ``mean`` and whose unbiased covariance is root.T @ root, exactly."""
    white = randn(n, len(root), seed=seed)
    white = torch.linalg.qr(white - white.mean(0)).Q * (n - 1) ** 0.5
    return white @ root + mean


A, B = torch.tensor([1.0, 0.5, 2.0, 0.1]).double(), torch.tensor([0.3, 0.5, 1.0, 0.7]).double()
ROTATION = torch.linalg.qr(randn(4, 4, seed=9)).Q


def test_frechet_distance_of_diagonal_gaussians():
    a, b = samples(A.diag(), seed=1), samples(B.diag(), mean=A, n=80, seed=2)
    expected = (A.square().sum() + (A - B).square().sum()).item()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(a @ ROTATION, b @ ROTATION) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_where_the_covariances_do_not_commute():
    """In two dimensions tr (C_a C_b)^½ = √(tr C_a C_b + 2 √(det C_a det C_b))."""
    root_a, root_b = randn(2, 2, seed=3), randn(2, 2, seed=4)
    c_a, c_b = root_a.T @ root_a, root_b.T @ root_b
    shared = ((c_a @ c_b).trace() + 2 * (c_a.det() * c_b.det()).sqrt()).sqrt()
    expected = (c_a.trace() + c_b.trace() - 2 * shared).item()
    assert frechet_distance(samples(root_a), samples(root_b)) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_to_itself_is_0_with_fewer_samples_than_dimensions_too():
    for shape in ((50, 4), (5, 40)):
        x = randn(*shape)
        assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-12)


def test_frechet_distance_of_singular_covariances():
    """Two lines at an angle, in 40 dimensions: s² + r² - 2 s r |cos|."""
    angle, s, r = 1.0, 2.0, 0.5
    a, b = torch.zeros(60, 40, dtype=torch.float64), torch.zeros(60, 40, dtype=torch.float64)
    a[:, :1] = samples(torch.tensor([[s]]).double(), seed=1)
    line = torch.tensor([[r * math.cos(angle), r * math.sin(angle)]], dtype=torch.float64)
    b[:, :2] = samples(line, seed=2)
    expected = s**2 + r**2 - 2 * s * r * math.cos(angle)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_perfect_samples():
    z_i = randn(CHUNK + 100, 16)
    found = prior_metrics(z_i, z_i, -z_i)
    expected = (1, -1, -1, 1, 1, 0, 1, CHUNK + 100)
    assert found == pytest.approx(expected, abs=1e-6)


def test_opposite_samples_are_last_in_rank():
    z_i = randn(CHUNK + 100, 16)
    found = prior_metrics(-z_i, z_i, z_i)
    assert (found.cosine, found.cosine_z_t) == pytest.approx((-1, -1))
    assert (found.retrieval_rank, found.retrieval_top1) == (CHUNK + 100, 0)


def test_cosines_are_told_apart_and_known():
    """z_t is z_i turned by an angle towards the next image; the samples by another one."""
    eye = torch.eye(6)
    turned = {a: math.cos(a) * eye + math.sin(a) * eye.roll(1, 0) for a in (0.3, 1.0)}
    found = prior_metrics(5 * turned[1.0], eye, turned[0.3])
    assert found.cosine == pytest.approx(math.cos(1.0))
    assert found.cosine_z_t == pytest.approx(math.cos(0.7))
    assert found.true_cosine_z_t == pytest.approx(math.cos(0.3))
    assert (found.retrieval_rank, found.retrieval_top1) == (2, 0)


def test_images_that_are_there_twice_tie():
    z_i = randn(5, 8).repeat(2, 1)
    found = prior_metrics(z_i, z_i, z_i)
    assert (found.retrieval_rank, found.retrieval_top1) == (1.5, 0)


def test_samples_shrunk_to_their_mean_keep_the_square_of_the_variance():
    z_i = samples(A.diag(), mean=2.0)
    found = prior_metrics(2 + 0.6 * (z_i - 2), z_i, z_i)
    assert found.variance_kept == pytest.approx(0.36)
    assert found.frechet == pytest.approx(0.16 * A.square().sum().item())


def test_what_cannot_be_compared_is_refused():
    z, bad = randn(4, 3), randn(4, 3)
    bad[2, 1] = torch.nan
    for sampled, message in ((bad, "finite"), (z[:3], "differ"), (z[:1], "2 or more"), (z[0], "N")):
        with pytest.raises(ValueError, match=message):
            prior_metrics(sampled, z, z)
    with pytest.raises(ValueError, match="dimensions"):
        frechet_distance(z, z[:, :2])
