import pytest
import torch

from unclip.embeddings.moments import Moments
from unclip.embeddings.pca import Pca, fix_signs

EIGENVALUES = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.25], dtype=torch.float64)
DIM = len(EIGENVALUES)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MEAN = draw(DIM, seed=5)
AXES = fix_signs(torch.linalg.qr(draw(DIM, DIM, seed=6)).Q)  # orthonormal rows
COVARIANCE = AXES.T @ EIGENVALUES.diag() @ AXES


def fitted(components: int = DIM) -> Pca:
    return Pca.fit(MEAN, COVARIANCE, components=components)


def test_axes_and_variances_of_a_known_covariance_are_recovered():
    pca = fitted(4)
    torch.testing.assert_close(pca.components, AXES[:4], rtol=0, atol=1e-12)
    torch.testing.assert_close(pca.eigenvalues, EIGENVALUES, rtol=1e-12, atol=0)
    assert torch.equal(pca.mean, MEAN)


def test_axes_of_a_gaussian_are_recovered_from_its_samples():
    z = MEAN + draw(200_000, DIM) * EIGENVALUES.sqrt() @ AXES
    moments = Moments(DIM)
    moments.update(z)
    pca = Pca.fit(moments.mean, moments.covariance, components=DIM)
    # An eigenvalue's relative standard error is √(2/n) = 0.3 %; neighbours here differ by half.
    torch.testing.assert_close(pca.eigenvalues, EIGENVALUES, rtol=0.02, atol=0)
    torch.testing.assert_close(pca.components, AXES, rtol=0, atol=0.03)
    variances = pca.project(z).var(dim=0, correction=0)
    torch.testing.assert_close(variances, pca.eigenvalues, rtol=1e-9, atol=0)


def test_signs_do_not_depend_on_those_the_solver_chose():
    flipped = AXES * torch.tensor([[-1.0], [1.0], [-1.0], [-1.0], [1.0], [-1.0]])
    assert torch.equal(fix_signs(flipped), fix_signs(AXES))
    largest = fix_signs(flipped).gather(1, flipped.abs().argmax(dim=1, keepdim=True))
    assert (largest > 0).all()


def test_with_all_components_reconstruction_is_exact():
    z = draw(3, 5, DIM)
    pca = fitted()
    torch.testing.assert_close(pca.reconstruct(pca.project(z)), z, rtol=0, atol=1e-12)


def test_lost_variance_is_the_error_of_reconstruction():
    z = draw(50, DIM)
    mean, covariance = z.mean(dim=0), z.T.cov(correction=0)
    total = covariance.trace()
    for k in range(1, DIM + 1):
        pca = Pca.fit(mean, covariance, components=k)
        error = (pca.reconstruct(pca.project(z)) - z).square().sum(dim=1).mean()
        torch.testing.assert_close(pca.lost_variance()[k], error / total, rtol=1e-9, atol=1e-12)
    lost = pca.lost_variance()
    assert lost.shape == (DIM + 1,)
    assert lost[0] == 1
    assert lost[DIM] == 0
    assert (lost.diff() <= 0).all()


def test_the_fewest_components_with_less_than_the_error_are_kept():
    lost = fitted().lost_variance()
    for k in range(1, DIM):
        just_above, at = lost[k].item() * (1 + 1e-9), lost[k].item()
        assert len(Pca.fit(MEAN, COVARIANCE, max_error=just_above).components) == k
        assert len(Pca.fit(MEAN, COVARIANCE, max_error=at).components) == k + 1
    assert len(Pca.fit(MEAN, COVARIANCE, max_error=1e-9).components) == DIM
    assert len(Pca.fit(MEAN, COVARIANCE, max_error=1.0).components) == 1


def test_rounding_below_zero_is_no_variance():
    plane = COVARIANCE - AXES[2:].T @ EIGENVALUES[2:].diag() @ AXES[2:]
    pca = Pca.fit(MEAN, plane - 1e-15 * torch.eye(DIM), max_error=0.01)
    assert len(pca.components) == 2
    assert (pca.eigenvalues >= 0).all()


def test_computation_is_in_the_dtype_of_the_components():
    single = fitted(3).to(dtype=torch.float32)
    z = draw(4, DIM)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = single.project(z.bfloat16().float())
        back = single.reconstruct(y)
    assert y.dtype == back.dtype == torch.float32
    precise = fitted(3).project(z.bfloat16().double())
    torch.testing.assert_close(y.double(), precise, rtol=0, atol=1e-5)
    torch.testing.assert_close(back.double(), fitted(3).reconstruct(precise), rtol=0, atol=1e-5)
    assert single.eigenvalues.dtype == torch.float64
    assert single.to("cpu").components.dtype == torch.float32


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"components": 0}, "0 components of 6"),
        ({"components": 7}, "7 components of 6"),
        ({"max_error": 0.0}, "max_error is 0.0"),
        ({"max_error": 1.5}, "max_error is 1.5"),
        ({"max_error": float("nan")}, "max_error is nan"),
        ({}, "exactly one"),
        ({"components": 2, "max_error": 0.1}, "exactly one"),
    ],
)
def test_an_impossible_number_of_components_is_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        Pca.fit(MEAN, COVARIANCE, **choice)


@pytest.mark.parametrize(
    ("covariance", "message"),
    [
        (COVARIANCE * float("nan"), "NaN or inf"),
        (COVARIANCE[:5], "covariance of shape"),
        (torch.zeros(DIM, DIM), "no positive eigenvalue"),
    ],
)
def test_an_impossible_covariance_is_refused(covariance, message):
    with pytest.raises(ValueError, match=message):
        Pca.fit(MEAN, covariance, components=2)


def test_inputs_of_another_dimension_are_refused():
    with pytest.raises(ValueError, match="expected 6"):
        fitted(3).project(draw(4, 1))
    with pytest.raises(ValueError, match=r"expected \[\.\.\., 3\]"):
        fitted(3).reconstruct(draw(4, 6))
