"""Closed forms, other packages on the same features, and no dependence on how samples are split."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from prdc import compute_prdc
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image.fid import _compute_fid

from unclip.embeddings.metrics import frechet_distance  # by QR factors of the samples
from unclip.embeddings.moments import Moments
from unclip.evaluation.features.statistics import Statistics
from unclip.evaluation.metrics import kernels
from unclip.evaluation.metrics import neighbours as neighbours_module
from unclip.evaluation.metrics.gaussians import (
    Gaussian,
    UnitMoments,
    frechet,
    frechet_infinity,
    gaussian,
    vendi,
    vendi_of_few,
)
from unclip.evaluation.metrics.images import (
    InceptionScore,
    clip_scores,
    mean_interval,
    wilson,
)
from unclip.evaluation.metrics.jackknife import frechet_error
from unclip.evaluation.metrics.kernels import cmmd, kid
from unclip.evaluation.metrics.neighbours import neighbours
from unclip.evaluation.protocols.images import frechet_figure


def features(n, d=8, seed=0, shift=0.0):
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=rng, dtype=torch.float64)
    return torch.randn(n, d, generator=rng, dtype=torch.float64) @ mix + shift


def fitted(x, batches=1):
    moments = Moments(x.shape[1])
    for some in x.chunk(batches):
        moments.update(some)
    return gaussian(moments)


# --- Fréchet ---


def test_the_frechet_distance_of_gaussians_along_the_axes_is_their_closed_form():
    """(m - m')² + (s - s')² in each direction, where covariances commute."""
    s, t = torch.tensor([1.0, 2.0, 0.0]).double(), torch.tensor([3.0, 0.5, 1.0]).double()
    m = torch.tensor([1.0, -1.0, 0.5]).double()
    a = Gaussian(10, m, torch.diag(s**2))
    b = Gaussian(10, torch.zeros(3).double(), torch.diag(t**2))
    want = (m**2).sum() + ((s - t) ** 2).sum()
    assert frechet(a, b) == pytest.approx(want.item(), rel=1e-12)


def test_the_frechet_distance_is_that_of_torch_fidelity_and_torchmetrics():
    x, y = features(400), features(300, seed=1, shift=0.5)
    both = [fid_features_to_statistics(z) for z in (x, y)]
    theirs = fid_statistics_to_metric(*both, False)["frechet_inception_distance"]
    ours = frechet(fitted(x), fitted(y))
    assert ours == pytest.approx(theirs, rel=1e-6)
    other = _compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov()).item()
    assert ours == pytest.approx(other, rel=1e-6)


def test_covariances_of_fewer_samples_than_features_have_no_rounding_error_in_them():
    """The distance of the same samples turned about 0: theirs has none of its own error either."""
    x, y = features(20, d=64) + 3, features(25, d=64, seed=1) + 3
    assert frechet(fitted(x), fitted(y)) == pytest.approx(frechet_distance(x, y), rel=1e-9)
    assert frechet(fitted(x), fitted(x)) < 1e-9 * x.var(0).sum()


def test_the_frechet_distance_of_two_means_far_from_zero():
    x, y = features(200) + 100, features(200) + 101
    assert frechet(fitted(x), fitted(y)) == pytest.approx(8, rel=1e-7)


@pytest.mark.parametrize("batches", [1, 7, 100])
def test_statistics_do_not_depend_on_batches(batches):
    x, whole = features(100), fitted(features(100))
    found = fitted(x, batches)
    assert torch.allclose(found.covariance, whole.covariance, rtol=1e-12)
    assert torch.allclose(whole.covariance, x.T.cov(), rtol=1e-10)
    assert found.n == 100


def test_the_line_in_one_over_n_removes_the_bias():
    """FD of two samples of one Gaussian grows as 1/N; at endless N it is 0, and 9 where shifted."""
    d = 4
    exact = Gaussian(None, torch.zeros(d).double(), torch.eye(d).double())
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(4000, d, generator=rng, dtype=torch.float64)
    assert abs(frechet_infinity(x, exact)) < 0.005
    x[:, 0] += 3
    assert frechet_infinity(x, exact) == pytest.approx(9, abs=0.3)
    with pytest.raises(ValueError, match="20 samples"):
        frechet_infinity(x[:19], exact)


def test_the_line_is_that_of_least_squares_in_one_over_n():
    """Against the same line through distances of the samples themselves, by QR factors."""
    x, y = features(60, d=3), features(500, d=3, seed=1)
    sizes = [round(s) for s in np.linspace(6, 60, 15)]
    distances = [frechet_distance(x[:n], y) for n in sizes]
    design = np.stack([np.ones(15), 1 / np.array(sizes)], 1)
    want = np.linalg.lstsq(design, np.array(distances), rcond=None)[0][0]
    assert frechet_infinity(x, fitted(y)) == pytest.approx(want, rel=1e-8)


def test_the_jackknife_is_what_leaving_a_tenth_out_gives():
    """Against the same distances by QR factors, where there are fewer samples than features too."""
    for n, d in ((60, 3), (30, 40)):
        x, y = features(n, d=d), features(50, d=d, seed=1, shift=1.0)
        keep = torch.arange(n)
        each = np.array([frechet_distance(x[keep % 10 != g], y) for g in range(10)])
        want = math.sqrt(9 / 10 * np.square(each - each.mean()).sum())
        assert frechet_error(x, fitted(y)) == pytest.approx(want, rel=1e-6)


def test_the_jackknife_gives_the_standard_error_of_a_mean_far_away():
    """In one dimension FD is (m - m')² + (s - s')²: the error is 2 |m - m'| s / √N at s = s'."""
    rng = torch.Generator().manual_seed(0)
    exact = Gaussian(None, torch.zeros(1).double(), torch.eye(1).double())
    x = 3 + torch.randn(50, 500, 1, generator=rng, dtype=torch.float64)
    found = np.mean([frechet_error(rows, exact) for rows in x])
    assert found == pytest.approx(6 / math.sqrt(500), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_interval_of_a_frechet_distance_holds_that_of_as_many_others(shift):
    """In about 95 % of 200 simulations; the distance of few samples is above that of endless."""
    rng = torch.Generator().manual_seed(7)
    found = []
    for _ in range(200):
        x, y = (torch.randn(n, 4, generator=rng, dtype=torch.float64) for n in (150, 200))
        found.append(
            frechet_figure(Statistics(fitted(x + shift), x + shift), Statistics(fitted(y), y))
        )
    truth = np.mean([each.value for each in found])
    covered = np.mean([each.low <= truth <= each.high for each in found])
    print(shift, covered)
    assert 0.91 <= covered <= 0.99


def test_statistics_alone_have_no_interval_and_a_reference_of_them_is_known():
    x, y = features(100), features(100, seed=1, shift=1.0)
    both, known = Statistics(fitted(x), x), Statistics(fitted(y))
    narrow = frechet_figure(both, known)
    wide = frechet_figure(both, Statistics(fitted(y), y))
    assert wide.value == narrow.value
    assert wide.high - wide.value > narrow.high - narrow.value > 0
    assert frechet_figure(known, both).low is None
    assert frechet_figure(Statistics(fitted(x[:19]), x[:19]), both).low is None


# --- kernels ---


def test_kid_is_torch_fidelitys_of_the_same_blocks():
    x, y = features(90).float(), features(90, seed=1).float()
    ours = kid(x, y, block=30)
    for block, at in zip(ours, range(0, 90, 30)):
        theirs = kid_features_to_metric(
            x[at : at + 30].double(),
            y[at : at + 30].double(),
            kid_subsets=1,
            kid_subset_size=30,
            verbose=False,
        )["kernel_inception_distance_mean"]
        assert block == pytest.approx(theirs, rel=1e-6)
    assert len(ours) == 3
    assert len(kid(x[:50], y, block=1000)) == 1


def test_kid_of_two_points_a_side_by_hand():
    """D = 1: k(x, y) = (xy + 1)³; k(0, 1) = 1, k(1, 2) = 27, k(0, 2) = 1, k(0, 3) = 1, ..."""
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    # within x: k(0,1) = 1; within y: k(2,3) = 343; across: k(0,2), k(0,3), k(1,2), k(1,3)
    assert kid(x, y) == [pytest.approx(1 + 343 - 2 * (1 + 1 + 27 + 64) / 4)]


def test_kid_of_one_distribution_is_zero_on_average():
    x = features(8000, d=3)
    _, low, high = mean_interval(kid(x[:4000], x[4000:], block=20))
    assert low < 0 < high


def test_cmmd_of_two_points_by_hand():
    """One point twice against another twice: 1 + 1 - 2 exp(-d²/200), times 1,000."""
    x, y = torch.eye(2)[[0, 0]], torch.eye(2)[[1, 1]]
    assert cmmd(x, y) == pytest.approx(2000 * (1 - math.exp(-2 / 200)), rel=1e-9)
    assert cmmd(x, x) == pytest.approx(0, abs=1e-9)


def test_chunks_change_nothing(monkeypatch):
    x, y = features(50), features(40, seed=1)
    whole = kid(x, y), cmmd(x, y), neighbours(x, y)
    monkeypatch.setattr(kernels, "CHUNK", 7)
    monkeypatch.setattr(neighbours_module, "CHUNK", 7)
    assert kid(x, y) == pytest.approx(whole[0], rel=1e-9)
    assert cmmd(x, y) == pytest.approx(whole[1], rel=1e-9)
    assert neighbours(x, y) == whole[2]


# --- neighbours ---


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_recall_density_and_coverage_are_prdcs_and_torch_fidelitys(k):
    x, y = features(80, d=3), features(120, d=3, seed=1, shift=0.3)
    ours = neighbours(x, y, k=k)
    theirs = compute_prdc(y.numpy(), x.numpy(), k)
    assert ours._asdict() == pytest.approx(theirs, rel=1e-6)
    other = prc_features_to_metric(x, y, prc_neighborhood=k, verbose=False)
    assert ours.precision == pytest.approx(other["precision"], rel=1e-6)
    assert ours.recall == pytest.approx(other["recall"], rel=1e-6)


def test_neighbours_on_a_line_by_hand():
    """Real 0, 1, 3 have balls of 1, 1 and 2; generated 0.5 is in two of them, 10 and 11 in none."""
    real = torch.tensor([[0.0], [1.0], [3.0]])
    found = neighbours(torch.tensor([[0.5], [10.0], [11.0]]), real, k=1)
    assert found.precision == pytest.approx(1 / 3)
    assert found.density == pytest.approx(2 / 3)
    assert found.coverage == pytest.approx(2 / 3)
    assert found.recall == 1  # the ball of 0.5 reaches to 10
    with pytest.raises(ValueError, match="k=3"):
        neighbours(real, real)


def test_fidelity_and_diversity_are_told_apart():
    """Half of the clusters, each well covered: precise, but half is not recalled."""
    centres = torch.arange(10.0).double()[:, None] * 100
    real = (centres + features(20, d=1).T).reshape(-1, 1)
    made = (centres[:5] + features(20, d=1, seed=1).T).reshape(-1, 1)
    found = neighbours(made, real, k=3)
    assert found.precision > 0.8
    assert 0.3 < found.recall <= 0.5
    assert found.coverage <= 0.5


# --- scores ---


def test_vendi_counts_samples_that_have_nothing_in_common():
    unit = UnitMoments(8)
    unit.update(5 * torch.eye(8)[[0, 1, 2, 0, 1, 2]])
    assert vendi(unit) == pytest.approx(3)
    alike = UnitMoments(8)
    alike.update(torch.ones(10, 8))
    assert vendi(alike) == pytest.approx(1)


def test_vendi_is_the_entropy_of_all_pairs_cosines():
    x = features(30, d=50)
    unit = UnitMoments(50)
    for some in x.split(7):
        unit.update(some)
    z = torch.nn.functional.normalize(x, dim=1)
    values = torch.linalg.eigvalsh(z @ z.T / 30).clamp(min=1e-300)
    want = torch.exp(-(values * values.log()).sum()).item()
    assert vendi(unit) == pytest.approx(want, rel=1e-9)
    assert vendi_of_few(x) == pytest.approx(want, rel=1e-9)


def inception_score(logits, splits, batch=1000):
    score = InceptionScore(logits.shape[1], splits)
    for first in range(0, len(logits), batch):
        some = logits[first : first + batch]
        score.update(torch.arange(first, first + len(some)), some)
    return score.scores()


def test_the_inception_score_of_certain_classes_is_their_number():
    logits = 1000 * torch.eye(5)[torch.arange(20) % 5]
    assert inception_score(logits, 1) == [pytest.approx(5)]
    assert inception_score(torch.zeros(20, 5), 4) == pytest.approx([1] * 4)


def test_the_inception_score_is_torch_fidelitys():
    logits = features(60, d=7)
    order = torch.arange(60).reshape(-1, 4).T.flatten()  # their splits are neighbours
    theirs = isc_features_to_metric(logits[order], splits=4, shuffle=False)
    ours = inception_score(logits, 4, batch=9)
    assert np.mean(ours) == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert np.std(ours) == pytest.approx(theirs["inception_score_std"], rel=1e-6)


def test_sums_of_class_scores_go_where_gpus_exchange_them(monkeypatch):
    """nccl, by which `evaluate cascade` joins GPUs, sums nothing that lies on the CPU."""
    score, moved = InceptionScore(3), []
    score.update(torch.arange(4), torch.eye(4, 3))
    before = score.scores()
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_backend", lambda: "nccl")
    monkeypatch.setattr(dist, "all_reduce", lambda sums: sums.mul_(2))
    to = torch.Tensor.to

    def recorded(self, place, *more):
        moved.append(place)
        return to(self, "cpu" if place == "cuda" else place, *more)

    monkeypatch.setattr(torch.Tensor, "to", recorded)
    score.all_reduce()
    assert "cuda" in moved
    assert score.scores() == before


def test_clip_scores_are_cosines_in_percent_and_never_negative():
    z_i = torch.tensor([[2.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    z_t = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert clip_scores(z_i, z_t).tolist() == pytest.approx([100, 100 / math.sqrt(2), 0])


def test_intervals():
    """Wilson's of 1 in 10 is that of the tables; the mean's is t/√n of a known spread."""
    assert wilson(0.1, 10) == pytest.approx((0.01788, 0.40415), abs=1e-5)
    low, high = wilson(1.0, 50)
    assert low < 1 <= high + 1e-12
    mean, low, high = mean_interval([0.0, 2.0])
    assert (mean, high) == pytest.approx((1, 1 + 1.96 * math.sqrt(2) / math.sqrt(2)), rel=1e-4)
    assert math.isnan(mean_interval([1.0])[1])
