import math

import pytest
import scipy.stats
import torch
from gaussian_oracle import V, as_output, exact_fraction, optimal_mse, optimal_x0

from unclip.diffusion.config import DiffusionConfig, ImageDiffusionConfig
from unclip.diffusion.losses import (
    diffusion_loss,
    normal_kl,
    pixel_log_likelihood,
    variational_bound,
)
from unclip.diffusion.process import Gaussian, q_sample, training_target
from unclip.diffusion.schedules import full_schedule, sampling_schedule

KINDS = ["x0", "eps", "v"]
T = torch.tensor([0, 1, 250, 600, 950, 999])
SHAPE = (len(T), 3, 4, 4)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, shape, generator=generator).double() / 127.5 - 1


def learned(kind: str, **settings) -> DiffusionConfig:
    return ImageDiffusionConfig(prediction=kind, variance="learned_range", **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_mse_is_zero_at_the_target_and_one_a_unit_away(kind):
    config = DiffusionConfig(prediction=kind)
    schedule = full_schedule(config)
    x0, noise = images(*SHAPE), draw(*SHAPE)
    x_t = q_sample(x0, noise, T, schedule=schedule)
    target = training_target(kind, x0, noise, schedule.alpha_bar[T])
    shift = torch.arange(len(T)).double().reshape(-1, 1, 1, 1)
    terms = diffusion_loss(
        target + shift, x0=x0, x_t=x_t, t=T, noise=noise, schedule=schedule, config=config
    )
    torch.testing.assert_close(terms.mse, torch.arange(len(T)).double() ** 2)
    assert torch.equal(terms.loss, terms.mse)
    assert terms.vb is None


def test_the_same_denoiser_has_the_same_bound_in_every_parametrisation():
    schedule = full_schedule(learned("x0"))
    x0, fraction = images(*SHAPE), draw(*SHAPE, seed=2).tanh()
    x_t = q_sample(x0, draw(*SHAPE), T, schedule=schedule)
    level = schedule.alpha_bar[T].reshape(-1, 1, 1, 1)
    guess = optimal_x0(x_t, level)
    bounds = []
    for kind in KINDS:
        output = torch.cat([as_output(kind, guess, x_t, level), fraction], dim=1)
        bounds.append(
            variational_bound(output, x0=x0, x_t=x_t, t=T, schedule=schedule, config=learned(kind))
        )
    assert (bounds[0] > 0).all()
    for other in bounds[1:]:
        torch.testing.assert_close(other, bounds[0], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_trains_the_variance_and_leaves_the_mean_alone(kind):
    config = learned(kind)
    schedule = full_schedule(config)
    x0, output = images(*SHAPE), draw(len(T), 6, 4, 4, seed=3).requires_grad_()
    x_t = q_sample(x0, draw(*SHAPE), T, schedule=schedule)
    vb = variational_bound(output, x0=x0, x_t=x_t, t=T, schedule=schedule, config=config)
    (gradient,) = torch.autograd.grad(vb.sum(), output)
    assert torch.equal(gradient[:, :3], torch.zeros(SHAPE))
    assert gradient.isfinite().all()
    assert (gradient[:, 3:].flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize("steps", [100, 1000])
def test_the_bound_is_weighted_by_lambda_and_a_thousandth_of_the_steps(steps):
    config = learned("eps", steps=steps, vb_weight=0.5)
    schedule = full_schedule(config)
    t = torch.tensor([0, 40, 99])
    x0, noise, output = images(3, 3, 2, 2), draw(3, 3, 2, 2), draw(3, 6, 2, 2, seed=3)
    x_t = q_sample(x0, noise, t, schedule=schedule)
    terms = diffusion_loss(
        output, x0=x0, x_t=x_t, t=t, noise=noise, schedule=schedule, config=config
    )
    assert terms.vb is not None
    torch.testing.assert_close(terms.loss, terms.mse + 0.5 * steps / 1000 * terms.vb)


def test_bound_of_the_exact_model_is_the_entropy_plus_the_mismatch_at_the_end():
    # VLB - H(data) = KL(q_T ‖ N(0, 1)) for the exact reverse process of N(0, v) data, when x_0 is
    # scored by a density. Every term is quadratic in x0 - x0_hat, so one draw with x_t = 0, where
    # x0_hat = 0, and x0 = √M has the value of the expectation.
    config = learned("eps", schedule="linear")
    schedule = full_schedule(config)
    mse, t = optimal_mse(schedule.alpha_bar), torch.arange(1, 1000)
    x_t = torch.zeros(999, 1, dtype=torch.float64)
    output = torch.stack([torch.zeros(999, dtype=torch.float64), exact_fraction(schedule)[1:]], 1)
    bits = variational_bound(
        output, x0=mse[1:, None].sqrt(), x_t=x_t, t=t, schedule=schedule, config=config
    )
    q_T = 1 - (1 - V) * schedule.alpha_bar[-1]
    mismatch = 0.5 * (q_T - 1 - q_T.log())
    # KL(q(x_T|x_0) ‖ N(0, 1)), in expectation over x_0
    last = 0.5 * ((1 - schedule.alpha_bar[-1]) + schedule.alpha_bar[-1] * V - 1)
    last = last - 0.5 * (1 - schedule.alpha_bar[-1]).log()
    first = 0.5 * (math.log(2 * math.pi) + mse[0].log() + 1)
    vlb = first + bits.sum() * math.log(2) + last
    entropy = 0.5 * (math.log(2 * math.pi * V) + 1)
    assert mismatch.item() == pytest.approx(2.06e-10, rel=2e-3)
    assert (vlb - entropy).item() == pytest.approx(mismatch.item(), abs=1e-12)


def test_kl_agrees_with_torch_distributions():
    means, logs = draw(2, 50), draw(2, 50, seed=1)
    q, p = Gaussian(means[0], logs[0]), Gaussian(means[1], logs[1])
    normal = [torch.distributions.Normal(g.mean, (0.5 * g.log_variance).exp()) for g in (q, p)]
    torch.testing.assert_close(normal_kl(q, p), torch.distributions.kl_divergence(*normal))


@pytest.mark.parametrize(("mean", "sigma"), [(0.1, 0.02), (-0.98, 0.5), (1.3, 3.0)])
def test_pixel_probabilities_agree_with_scipy_and_add_up_to_one(mean, sigma):
    x = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    model = Gaussian(torch.full_like(x, mean), torch.full_like(x, 2 * math.log(sigma)))
    found = pixel_log_likelihood(x, model).exp()
    edges = torch.cat([x[:1] - math.inf, (x[1:] + x[:-1]) / 2, x[-1:] + math.inf])
    expected = torch.tensor(scipy.stats.norm.cdf(edges.numpy(), mean, sigma)).diff()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1.1e-12)
    assert found.sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_float32_under_bfloat16_autocast(kind):
    config = learned(kind)
    schedule = full_schedule(config)
    x0, noise = images(*SHAPE).float(), draw(*SHAPE).float()
    x_t = q_sample(x0, noise, T, schedule=schedule)
    level = schedule.alpha_bar[T].reshape(-1, 1, 1, 1)
    main = as_output(kind, optimal_x0(x_t.double(), level), x_t.double(), level)
    output = torch.cat([main, draw(*SHAPE, seed=2).tanh()], dim=1).bfloat16()

    def terms(output, dtype):
        return diffusion_loss(
            output,
            x0=x0.to(dtype),
            x_t=x_t.to(dtype),
            t=T,
            noise=noise.to(dtype),
            schedule=schedule,
            config=config,
        )

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = terms(output, torch.float32)
    expected = terms(output.double(), torch.float64)
    for name in found._fields:
        value = getattr(found, name)
        assert value.dtype == torch.float32, name
        torch.testing.assert_close(value, getattr(expected, name).float(), rtol=2e-3, atol=1e-5)


def test_gradients_stay_finite_for_outputs_that_are_far_off():
    # An ε-model that is 100 off at t = T means an x0 that is two million off.
    config = learned("eps")
    schedule = full_schedule(config)
    x0 = images(*SHAPE).float()
    output = (100 * draw(len(T), 6, 4, 4)).float()
    output[:, 3:].clamp_(-1, 1)
    output.requires_grad_()
    x_t = q_sample(x0, draw(*SHAPE).float(), T, schedule=schedule)
    terms = diffusion_loss(
        output, x0=x0, x_t=x_t, t=T, noise=draw(*SHAPE), schedule=schedule, config=config
    )
    (gradient,) = torch.autograd.grad(terms.loss.sum(), output)
    assert terms.loss.isfinite().all()
    assert gradient.isfinite().all()


def test_a_respaced_schedule_cannot_be_trained_on():
    config = DiffusionConfig()
    x = draw(1, 2)
    with pytest.raises(ValueError, match="full schedule"):
        diffusion_loss(
            x,
            x0=x,
            x_t=x,
            t=torch.tensor([3]),
            noise=x,
            schedule=sampling_schedule(config, 64),
            config=config,
        )
