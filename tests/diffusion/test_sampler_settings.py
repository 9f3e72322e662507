"""Each setting of a sampler, followed to the number it changes, where that is known."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch

from unclip.common.seeding import SampleNoise
from unclip.diffusion.analytic import optimal_variance, x0_error
from unclip.diffusion.config import DiffusionConfig, ImageDiffusionConfig, SamplerConfig
from unclip.diffusion.inversion import invert
from unclip.diffusion.losses import variational_bound
from unclip.diffusion.predictor import Predictor
from unclip.diffusion.process import Prediction
from unclip.diffusion.samplers import ddim_step, sample
from unclip.diffusion.schedules import full_schedule, sampling_schedule

X0 = DiffusionConfig(prediction="x0")
CHAIN = sampling_schedule(X0, 8)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seen_on_the_way(sampler: SamplerConfig, x0: float, prediction: str = "x0") -> list:
    """What a network sees that always means ``x0``, and what comes out; from x_T = 0.7."""
    diffusion = DiffusionConfig(prediction=prediction)
    alpha_bar, trail = full_schedule(diffusion).alpha_bar, []

    def denoise(x, t):
        trail.append(x)
        level = alpha_bar[t][:, None]
        eps = (x - level.sqrt() * x0) / (1 - level).sqrt()
        v = level.sqrt() * eps - (1 - level).sqrt() * x0
        return {"x0": torch.full_like(x, x0), "eps": eps, "v": v}[prediction]

    found = sample(
        Predictor(denoise, CHAIN, diffusion, sampler.clip, sampler.clip_range),
        torch.full((1, 1), 0.7, dtype=torch.float64),
        sampler,
        noise=SampleNoise([0]),
    )
    return [*trail, found]


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
@pytest.mark.parametrize(
    ("clip", "believed"),
    [
        ({"clip": "none"}, 3.0),
        ({"clip": "static"}, 1.0),
        ({"clip": "static", "clip_range": 2.0}, 2.0),
        ({"clip": "static", "clip_range": 5.0}, 3.0),
        ({"clip": "dynamic"}, 1.0),
    ],
)
def test_ddim_goes_the_straight_way_to_the_clipped_x0(prediction, clip, believed):
    """With one x̂_0 all the way ε̂ is one as well: x_s = √ᾱ_s x̂_0 + √(1-ᾱ_s) ε̂."""
    trail = seen_on_the_way(SamplerConfig(**clip), 3.0, prediction)
    top = CHAIN.alpha_bar[-1]
    eps = (0.7 - top.sqrt() * believed) / (1 - top).sqrt()
    levels = [*CHAIN.alpha_bar.flip(0), torch.tensor(1.0)]
    for x, level in zip(trail, levels, strict=True):
        expected = level.sqrt() * believed + (1 - level).sqrt() * eps
        assert x.item() == pytest.approx(expected.item(), abs=1e-4)


def some_prediction() -> Prediction:
    return Prediction(normal(8, 2), normal(8, 2, seed=1), torch.zeros(8, 1))


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddims_noise_has_the_part_eta_of_the_posteriors_deviation(eta):
    rows = torch.arange(8)
    step = ddim_step(some_prediction(), rows, schedule=CHAIN, eta=eta)
    torch.testing.assert_close(step.sigma[:, 0] ** 2, eta**2 * CHAIN.posterior_variance)
    # What is not noise anew is the old: the two together are the level's.
    x0, eps, _ = some_prediction()
    level = CHAIN.alpha_bar_prev[:, None]
    kept = (1 - level - eta**2 * CHAIN.posterior_variance[:, None]).clamp(min=0).sqrt()
    torch.testing.assert_close(step.mean, level.sqrt() * x0 + kept * eps)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_analytic_is_ancestral_whatever_eta_and_analytic_ddim_heeds_it(eta):
    """After one step samples are N(mean, σ*²), with the mean of DDIM for the η that counts."""
    errors, count = torch.linspace(0.01, 0.2, 8, dtype=torch.float64), 20_000
    for name, expected in (("analytic", 1.0), ("analytic_ddim", eta)):
        trail = []

        def denoise(x, t, trail=trail):
            trail.append(x)
            return torch.full_like(x, 0.3)

        sample(
            Predictor(denoise, CHAIN, X0),
            torch.full((count, 1), 0.7, dtype=torch.float64),
            SamplerConfig(sampler=name, eta=eta),
            noise=lambda shape, device: normal(*shape, seed=3),
            x0_errors=errors,
        )
        top = torch.tensor([7])
        first = Predictor(denoise, CHAIN, X0)(trail[0][:1], 7)
        mean = ddim_step(first, top, schedule=CHAIN, eta=expected).mean.item()
        variance = optimal_variance(errors, top, schedule=CHAIN, eta=expected).item()
        assert trail[1].mean().item() == pytest.approx(mean, abs=5 * (variance / count) ** 0.5)
        assert trail[1].var().item() == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize(
    ("clip", "believed"),
    [({"clip": "none"}, 3.0), ({"clip": "static"}, 1.0), ({"clip": "static", "clip_range": 2}, 2)],
)
def test_the_error_of_x0_is_measured_as_it_is_clipped_in_sampling(clip, believed):
    x0 = normal(50, 4)
    predictor = Predictor(lambda x, t: torch.full_like(x, 3.0), CHAIN, X0, **clip)
    found = x0_error(predictor, x0, normal(50, 4, seed=1))
    expected = (believed - x0).square().mean()
    torch.testing.assert_close(found, expected.expand(8))


def test_the_error_of_x0_is_measured_at_the_noise_and_the_timestep_of_each_level():
    x0, noise, seen = normal(6, 2), normal(6, 2, seed=1), []

    def denoise(x, t):
        seen.append((x, t))
        return x

    x0_error(Predictor(denoise, CHAIN, X0), x0, noise)
    for level, t, (x, told) in zip(CHAIN.alpha_bar, CHAIN.timesteps, seen, strict=True):
        torch.testing.assert_close(x, level.sqrt() * x0 + (1 - level).sqrt() * noise)
        assert told.tolist() == [t.item()] * 6


@pytest.mark.parametrize("clip_range", [0.3, 0.6])
def test_an_inversion_undoes_steps_clipped_to_the_same_range(clip_range):
    diffusion = DiffusionConfig(prediction="v")
    chain = sampling_schedule(diffusion, 50)
    x0 = torch.tensor([[0.2, -0.1]], dtype=torch.float64)

    def denoise(x, t):
        return 0.8 * x

    how = {"clip": "static", "clip_range": clip_range}
    predictor = Predictor(denoise, chain, diffusion, **how)
    x_T = invert(predictor, x0, convention="fixed_point", iterations=20)
    found = sample(predictor, x_T, SamplerConfig(**how), noise=SampleNoise([0]))
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-6)


def test_the_first_timesteps_bound_is_the_likelihood_of_the_pixel():
    """With x̂_0 = x_0 it is the normal's mass in a bin of 2/255 about its own mean."""
    diffusion = ImageDiffusionConfig(prediction="x0")
    schedule = full_schedule(diffusion)
    grey = torch.full((1, 3, 2, 2), 1 / 255, dtype=torch.float64)  # pixel 128
    bits = variational_bound(
        torch.cat([grey, torch.full_like(grey, 1.0)], dim=1),  # of the range of variances the top
        x0=grey,
        x_t=grey,
        t=torch.zeros(1, dtype=torch.int64),
        schedule=schedule,
        config=diffusion,
    )
    sigma = schedule.betas[0].sqrt().item()
    mass = 2 * scipy.stats.norm.cdf(1 / 255 / sigma) - 1
    assert bits.item() == pytest.approx(-math.log2(mass), rel=1e-6)
