"""The second-order solvers against the exact solution of the ODE, and against diffusers."""

import math
from itertools import pairwise

import pytest
import torch
from gaussian_oracle import V, optimal_denoiser, optimal_x0

from unclip.diffusion.config import DiffusionConfig, SamplerConfig
from unclip.diffusion.predictor import Predictor
from unclip.diffusion.process import Prediction, eps_from_x0
from unclip.diffusion.samplers import ddim_step, exponential_step, sample
from unclip.diffusion.schedules import full_schedule, sampling_schedule

KINDS = ["x0", "eps", "v"]


def no_noise(shape, device):
    raise AssertionError("an ODE solver drew noise")


def relative_error(kind: str, sampler: str, steps: int) -> float:
    """Of x_0 for N(0, v) data. There the ODE keeps x / sqrt(alpha_bar v + 1 - alpha_bar).

    The last step, which all samplers share, takes x0_hat of the least noisy level.
    """
    diffusion = DiffusionConfig(prediction=kind)
    chain = sampling_schedule(diffusion, steps)
    x_0 = sample(
        Predictor(optimal_denoiser(diffusion), chain, diffusion),
        torch.ones(1, 1, dtype=torch.float64),
        SamplerConfig(sampler=sampler),
        noise=no_noise,
    )
    variance = chain.alpha_bar * V + 1 - chain.alpha_bar
    x_at_0 = (variance[0] / variance[-1]).sqrt()
    return abs(x_0.item() / optimal_x0(x_at_0, chain.alpha_bar[0]).item() - 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("sampler", "order"), [("ddim", 1), ("dpmpp_2m", 2), ("heun", 2), ("ab2", 2)]
)
def test_error_shrinks_with_the_order_of_the_solver(kind, sampler, order):
    errors = [relative_error(kind, sampler, steps) for steps in (50, 100, 200, 400)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2), errors


def test_ab2_is_exact_where_v_is_linear_in_the_angle():
    """But for its first step and its last; the steps are of several lengths."""
    diffusion = DiffusionConfig(prediction="v")
    chain = sampling_schedule(diffusion, "6,3,2,2")
    theta, trail = chain.alpha_bar.sqrt().acos(), []

    def linear(x_t, t):
        trail.append(x_t.item())
        return (2 - 3 * theta[chain.timesteps == t]).reshape(1, 1)

    x_T = torch.ones(1, 1, dtype=torch.float64)
    predictor = Predictor(linear, chain, diffusion)
    sample(predictor, x_T, SamplerConfig(sampler="ab2"), noise=no_noise)
    found = torch.tensor(trail[1:], dtype=torch.float64).diff()
    integral = (2 * theta - 1.5 * theta**2).flip(0)[1:].diff()
    torch.testing.assert_close(found, integral, rtol=0, atol=1e-12)


def test_exponential_step_with_the_networks_own_x0_is_ddim():
    chain = sampling_schedule(DiffusionConfig(), 50)
    rows = torch.arange(50)
    x_t, x0 = torch.randn(2, 50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    own = Prediction(x0, eps_from_x0(x_t, x0, chain.alpha_bar), torch.zeros(50, 1))
    expected = ddim_step(own, rows, schedule=chain, eta=0.0).mean
    found = exponential_step(x_t, x0, rows, schedule=chain)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [8, 50])
def test_dpmpp_2m_agrees_with_diffusers_step_for_step(schedule, kind, steps):
    diffusers = pytest.importorskip("diffusers")
    from test_diffusers_oracles import KINDS as NAMES
    from test_diffusers_oracles import network, starting_noise

    diffusion = DiffusionConfig(schedule=schedule, prediction=kind)
    chain = sampling_schedule(diffusion, steps)
    denoise, trail = network(diffusion), []

    def watched(x_t, t):
        trail.append(x_t)
        return denoise(x_t, t)

    x = starting_noise().double()
    predictor = Predictor(watched, chain, diffusion)
    trail_end = sample(predictor, x, SamplerConfig(sampler="dpmpp_2m"), noise=no_noise)

    oracle = diffusers.DPMSolverMultistepScheduler(
        prediction_type=NAMES[kind], lower_order_final=False
    )
    oracle.alphas_cumprod = full_schedule(diffusion).alpha_bar.numpy()
    oracle.set_timesteps(timesteps=chain.timesteps.flip(0).tolist())
    for t, expected in zip(oracle.timesteps, [*trail[1:], trail_end], strict=True):
        x = oracle.step(denoise(x, t.expand(len(x))), t, x).prev_sample
        torch.testing.assert_close(x, expected, rtol=0, atol=1e-4)
