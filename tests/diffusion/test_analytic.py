"""The analytic variance on data of which everything is known: N(0, v) and its optimal denoiser."""

import pytest
import torch
from gaussian_oracle import UnitNoise, V, exact_reverse_variance, optimal_denoiser, optimal_mse

from unclip.diffusion.analytic import optimal_variance, x0_error
from unclip.diffusion.config import DiffusionConfig, SamplerConfig
from unclip.diffusion.predictor import Predictor
from unclip.diffusion.samplers import sample
from unclip.diffusion.schedules import sampling_schedule

KINDS = ["x0", "eps", "v"]
CHAIN = sampling_schedule(DiffusionConfig(), 64)


def ancestral_variance(v: float) -> torch.Tensor:
    rows = torch.arange(len(CHAIN))
    return optimal_variance(optimal_mse(CHAIN.alpha_bar, v), rows, schedule=CHAIN)


def test_optimal_variance_is_beta_for_unit_data_and_beta_tilde_for_a_point():
    torch.testing.assert_close(ancestral_variance(1.0), CHAIN.betas, rtol=1e-9, atol=0)
    point = ancestral_variance(1e-14)
    torch.testing.assert_close(point, CHAIN.posterior_variance, rtol=1e-8, atol=1e-13)


def test_optimal_variance_is_that_of_the_exact_reverse_process():
    expected = exact_reverse_variance(CHAIN)
    torch.testing.assert_close(ancestral_variance(V), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("sampler", "eta"), [("analytic", 0.0), ("analytic_ddim", 0.0), ("analytic_ddim", 0.5)]
)
def test_every_marginal_is_exact_until_the_last_step(kind, sampler, eta):
    """Var(x_s) = k² Var(x_r) + σ*² maps the true variance ᾱ_r v + β̄_r to ᾱ_s v + β̄_s for every η.

    So the start at N(0, 1) has ᾱ_T (1 - v) too much, only carried along (times all k² < 1), and
    the last step, x̂_0 without noise, leaves M_0 out: v - M_0 = v ᾱ_0 v / (ᾱ_0 v + β̄_0).
    """
    diffusion = DiffusionConfig(prediction=kind)
    noise, x_T = UnitNoise(), torch.zeros(len(CHAIN), 1, dtype=torch.float64)
    x_T[0] = 1
    x_0 = sample(
        Predictor(optimal_denoiser(diffusion), CHAIN, diffusion),
        x_T,
        SamplerConfig(sampler=sampler, eta=eta),
        noise=noise,
        x0_errors=optimal_mse(CHAIN.alpha_bar),
    )
    assert noise.calls == len(CHAIN) - 1
    ratio = x_0.square().sum().item() / V
    excess = (CHAIN.alpha_bar[-1] * (1 - V)).item()  # 1.7e-9
    expected = 1 - optimal_mse(CHAIN.alpha_bar)[0].item() / V
    assert expected - 1e-12 <= ratio <= expected + excess / V
    assert ratio == pytest.approx(0.999857, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_error_of_the_optimal_denoiser_is_estimated_at_every_step(kind):
    """In float32, as networks are. By way of E‖ε̂‖² the last row would be 1e5, not 0.289."""
    diffusion = DiffusionConfig(prediction=kind)
    ideal, draw = optimal_denoiser(diffusion), torch.Generator().manual_seed(0)
    found = x0_error(
        Predictor(lambda x_t, t: ideal(x_t.double(), t).float(), CHAIN, diffusion),
        V**0.5 * torch.randn(200_000, 1, generator=draw),
        torch.randn(200_000, 1, generator=draw),
    )
    torch.testing.assert_close(found, optimal_mse(CHAIN.alpha_bar), rtol=0.01, atol=0)


@pytest.mark.parametrize("sampler", ["analytic", "analytic_ddim"])
@pytest.mark.parametrize("x0_errors", [None, torch.zeros(63)])
def test_analytic_samplers_refuse_to_run_without_the_x0_error_of_each_step(sampler, x0_errors):
    diffusion = DiffusionConfig()
    with pytest.raises(ValueError, match="64 steps"):
        sample(
            Predictor(optimal_denoiser(diffusion), CHAIN, diffusion),
            torch.ones(1, 1),
            SamplerConfig(sampler=sampler),
            noise=UnitNoise(),
            x0_errors=x0_errors,
        )
