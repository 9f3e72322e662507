import pytest
import torch
from gaussian_oracle import V, as_output, exact_fraction, exact_reverse_variance, optimal_mse

from unclip.diffusion.config import DiffusionConfig, ImageDiffusionConfig
from unclip.diffusion.process import (
    clip_x0,
    eps_from_v,
    eps_from_x0,
    learned_log_variance,
    posterior,
    predict,
    q_sample,
    training_target,
    x0_from_eps,
    x0_from_v,
)
from unclip.diffusion.schedules import full_schedule, sampling_schedule

KINDS = ["x0", "eps", "v"]
SCHEDULE = full_schedule(DiffusionConfig())


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 4, 4)])
def test_clean_sample_and_noise_are_recovered_from_each_parametrisation(shape):
    x0, noise, t = draw(*shape), draw(*shape, seed=1), torch.tensor([0, 10, 500, 900, 999])
    x_t = q_sample(x0, noise, t, schedule=SCHEDULE)
    level = SCHEDULE.alpha_bar[t]
    v = training_target("v", x0, noise, level)
    for recovered in (x0_from_eps(x_t, noise, level), x0_from_v(x_t, v, level)):
        torch.testing.assert_close(recovered, x0, rtol=0, atol=1e-10)
    for recovered in (eps_from_x0(x_t, x0, level), eps_from_v(x_t, v, level)):
        torch.testing.assert_close(recovered, noise, rtol=0, atol=1e-10)


def test_v_is_the_velocity_of_the_sample_on_the_unit_circle():
    # With ᾱ = cos² φ, v = dx/dφ: it is found here by differentiating x(φ).
    x0, noise = draw(3, 4), draw(3, 4, seed=1)
    phi = torch.tensor([0.2, 0.8, 1.4], dtype=torch.float64)
    _, velocity = torch.autograd.functional.jvp(
        lambda angle: angle.cos()[:, None] * x0 + angle.sin()[:, None] * noise,
        phi,
        torch.ones_like(phi),
    )
    torch.testing.assert_close(training_target("v", x0, noise, phi.cos() ** 2), velocity)


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_output_of_any_kind_is_read_as_the_same_clean_sample_and_noise(kind):
    x0, noise, t = draw(4, 3, 2, 2), draw(4, 3, 2, 2, seed=1), torch.tensor([0, 300, 700, 999])
    x_t = q_sample(x0, noise, t, schedule=SCHEDULE)
    output = training_target(kind, x0, noise, SCHEDULE.alpha_bar[t])
    config = DiffusionConfig(prediction=kind)
    read = predict(output, x_t, t, schedule=SCHEDULE, config=config)
    torch.testing.assert_close(read.x0, x0, rtol=0, atol=1e-10)
    torch.testing.assert_close(read.eps, noise, rtol=0, atol=1e-10)


@pytest.mark.parametrize("chain", [SCHEDULE, sampling_schedule(DiffusionConfig(), 64)])
def test_posterior_is_bayes_rule(chain):
    # q(x_s | x_r, x_0) ∝ q(x_s | x_0) q(x_r | x_s): precisions add, means are weighted by them.
    rows = torch.arange(1, len(chain))
    x0, x_r = draw(len(rows), 1), draw(len(rows), 1, seed=1)
    keep = (1 - chain.betas[rows]).sqrt()[:, None]
    prior, likelihood = 1 / (1 - chain.alpha_bar_prev[rows]), keep[:, 0] ** 2 / chain.betas[rows]
    variance = 1 / (prior + likelihood)
    level = chain.alpha_bar_prev[rows].sqrt()[:, None]
    mean = variance[:, None] * (prior[:, None] * level * x0 + likelihood[:, None] * x_r / keep)
    found = posterior(x0, x_r, rows, schedule=chain)
    torch.testing.assert_close(found.mean, mean, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.log_variance[:, 0].exp(), variance, rtol=1e-7, atol=0)


def test_posterior_of_the_last_step_is_the_clean_sample():
    x0, x_t = draw(2, 3), draw(2, 3, seed=1)
    found = posterior(x0, x_t, torch.zeros(2, dtype=torch.int64), schedule=SCHEDULE)
    torch.testing.assert_close(found.mean, x0)


def test_learned_range_ends_at_the_two_fixed_variances():
    index = torch.tensor([0, 1, 500, 999])
    x_t = draw(4, 3, 2, 2)
    learned = ImageDiffusionConfig(variance="learned_range")
    for end, fixed in ((-1.0, "fixed_small"), (1.0, "fixed_large")):
        output = torch.cat([x_t, torch.full_like(x_t, end)], dim=1)
        found = predict(output, x_t, index, schedule=SCHEDULE, config=learned).log_variance
        other = predict(
            x_t, x_t, index, schedule=SCHEDULE, config=DiffusionConfig(variance=fixed)
        ).log_variance
        torch.testing.assert_close(found, other.expand_as(found))


def test_learned_range_is_geometric_in_between():
    small, large = torch.tensor(1e-4).log(), torch.tensor(1e-2).log()
    middle = learned_log_variance(torch.tensor(0.0), small=small, large=large)
    assert middle.exp().item() == pytest.approx(1e-3, rel=1e-5)


def test_exact_reverse_variance_of_gaussian_data_lies_in_the_learned_range():
    # It is β at v = 1 and β̃ at v = 0, so it can be learned for anything in between.
    assert torch.allclose(exact_reverse_variance(SCHEDULE, 1.0)[1:], SCHEDULE.betas[1:])
    small = exact_reverse_variance(SCHEDULE, 0.0)
    torch.testing.assert_close(small[1:], SCHEDULE.posterior_variance[1:])
    fraction = exact_fraction(SCHEDULE, V)[1:]
    assert fraction.abs().max() <= 1
    assert optimal_mse(SCHEDULE.alpha_bar)[-1].item() == pytest.approx(V, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_outputs_are_read_in_float32(kind):
    x_t, t = draw(4, 3, 2, 2).float(), torch.tensor([0, 300, 700, 999])
    output = draw(4, 6, 2, 2, seed=1).bfloat16()
    config = ImageDiffusionConfig(prediction=kind, variance="learned_range")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        read = predict(output, x_t, t, schedule=SCHEDULE, config=config)
    precise = predict(output.double(), x_t.double(), t, schedule=SCHEDULE, config=config)
    for found, expected in zip(read, precise):
        assert found.dtype == torch.float32
        # Next to t = T the reading of ε as x0 magnifies float32's rounding by 1/√ᾱ = 20000.
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)


def test_static_clipping_also_corrects_the_noise():
    x_t, t = draw(3, 5), torch.tensor([100, 500, 900])
    output = 3 * draw(3, 5, seed=1)
    read = predict(output, x_t, t, schedule=SCHEDULE, config=DiffusionConfig(), clip="static")
    level = SCHEDULE.alpha_bar[t][:, None]
    assert torch.equal(read.x0, output.clamp(-1, 1))
    assert (output.abs() > 1).any()
    torch.testing.assert_close(read.eps, as_output("eps", read.x0, x_t, level))


def test_dynamic_clipping_rescales_only_samples_that_saturate():
    tame = torch.linspace(-0.9, 0.9, 1001)
    wild = torch.linspace(-4, 4, 1001)
    clipped = clip_x0(torch.stack([tame, wild]), "dynamic")
    assert torch.equal(clipped[0], tame)
    s = 4 * 0.995  # |x| is uniform on [0, 4]
    torch.testing.assert_close(clipped[1], wild.clamp(-s, s) / s, rtol=0, atol=2e-3)
    assert clipped.abs().max() <= 1


def test_an_output_with_the_wrong_number_of_channels_is_refused():
    x_t, t = draw(2, 3, 2, 2), torch.tensor([1, 2])
    with pytest.raises(ValueError, match="6 output channels for 3 channels and fixed_small"):
        predict(draw(2, 6, 2, 2), x_t, t, schedule=SCHEDULE, config=DiffusionConfig())
