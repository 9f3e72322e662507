"""Undoing DDIM's own step, and filling in, with denoisers known in closed form."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from gaussian_oracle import V, optimal_denoiser

from unclip.common.seeding import SampleNoise
from unclip.diffusion.config import INVERSIONS, DiffusionConfig, SamplerConfig
from unclip.diffusion.inpainting import inpaint
from unclip.diffusion.inversion import invert
from unclip.diffusion.predictor import build_predictor
from unclip.diffusion.samplers import sample
from unclip.diffusion.schedules import full_schedule

KINDS = ["x0", "eps", "v"]


def predictor_of(denoise, diffusion: DiffusionConfig, sampler: SamplerConfig):
    return build_predictor(denoise, diffusion=diffusion, sampler=sampler, device="cpu")


def there_and_back(
    kind: str, steps: int, x0: torch.Tensor, denoise=None, clip="none", **how
) -> torch.Tensor:
    diffusion = DiffusionConfig(prediction=kind)
    sampler = SamplerConfig(sampler="ddim", steps=steps, clip=clip)
    predictor = predictor_of(denoise or optimal_denoiser(diffusion), diffusion, sampler)
    x_T = invert(predictor, x0, **how)
    return sample(predictor, x_T, sampler, noise=SampleNoise(range(len(x0))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [27, 50])
def test_fixed_point_inversion_reconstructs_a_gaussian_at_any_number_of_steps(kind, steps):
    x0 = torch.tensor([[1.0], [-0.3], [2.0]], dtype=torch.float64)
    found = there_and_back(kind, steps, x0, convention="fixed_point", iterations=20)
    torch.testing.assert_close(found, x0, rtol=1e-6, atol=0)


def test_each_evaluation_of_the_fixed_point_brings_it_closer():
    x0 = torch.ones(1, 1, dtype=torch.float64)
    errors = []
    for iterations in (1, 2, 3, 4):
        found = there_and_back("v", 27, x0, convention="fixed_point", iterations=iterations)
        errors.append(abs(found.item() - 1))
    # tan δ |∂v/∂x| is at most tan(π/2 / 26) (1 - V) / (2 √V) = 0.04.
    bound = torch.tensor(torch.pi / 2 / 26).tan().item() * (1 - V) / (2 * V**0.5)
    assert errors[0] > 1e-3
    for coarse, fine in pairwise(errors):
        assert fine < 1.1 * bound * coarse


def test_fixed_point_inversion_undoes_a_network_that_is_not_linear():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 6, generator=generator, dtype=torch.float64) / 3
    x0 = torch.randn(4, 6, generator=generator, dtype=torch.float64) / 2

    def denoise(x, t):
        return torch.tanh(x @ weight + t[:, None] / 1000)

    errors = {}
    for convention in INVERSIONS:
        found = there_and_back("v", 20, x0, denoise, convention=convention, iterations=12)
        errors[convention] = (found - x0).abs().max().item()
    assert errors["fixed_point"] < 1e-6
    assert min(errors["guided_diffusion"], errors["inverse_scheduler"]) > 1e-2


def test_fixed_point_inversion_undoes_clipped_steps():
    x0 = torch.tensor([[0.4, -0.2]], dtype=torch.float64)
    how = {"convention": "fixed_point", "iterations": 20, "clip": "static"}
    found = there_and_back("v", 50, x0, lambda x, t: 0.8 * x, **how)
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-6)


# --- filling in -----------------------------------------------------------------------------------

RHO = 0.9


def pair_denoiser(diffusion: DiffusionConfig):
    """The optimal x0_hat of two standard normal numbers with correlation RHO."""
    table = full_schedule(diffusion).alpha_bar
    covariance = torch.tensor([[1, RHO], [RHO, 1]], dtype=torch.float64)

    def denoise(x, t):
        a = table[t][:, None, None]
        noisy = a * covariance + (1 - a) * torch.eye(2, dtype=torch.float64)
        gain = a.sqrt() * torch.linalg.solve(noisy, covariance.expand(len(x), 2, 2))
        return torch.einsum("bji,bj->bi", gain, x.double())

    return denoise


def filled(resample: int, sampler: str, count: int = 1000) -> torch.Tensor:
    """The second numbers, where the first is known to be 1."""
    diffusion = DiffusionConfig(prediction="x0")
    noise = torch.Generator().manual_seed(0)

    def draw(shape, device):
        return torch.randn(tuple(shape), generator=noise, dtype=torch.float64)

    config = SamplerConfig(sampler=sampler, steps=50, eta=1.0)
    found = inpaint(
        predictor_of(pair_denoiser(diffusion), diffusion, config),
        draw((count, 2), None),
        config,
        known=torch.tensor([[1.0, 99.0]]).expand(count, 2),
        keep=torch.tensor([True, False]),
        resample=resample,
        noise=draw,
    )
    assert torch.equal(found[:, 0], torch.ones(count, dtype=torch.float64))
    return found[:, 1]


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_resampling_brings_what_is_filled_in_towards_its_distribution_given_the_known(sampler):
    # The exact mean is RHO. One pass ignores part of what is known.
    assert abs(filled(20, sampler).mean() - RHO) < 0.05 < abs(filled(1, sampler).mean() - RHO)


def test_where_all_is_known_nothing_changes_and_where_nothing_is_it_is_sampling():
    diffusion, sampler, noise = DiffusionConfig(), SamplerConfig(steps=8), SampleNoise([1, 2])
    known, x_T = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    predictor = predictor_of(optimal_denoiser(diffusion), diffusion, sampler)
    seen = []

    def run(keep):
        return inpaint(
            predictor,
            x_T,
            sampler,
            known=known,
            keep=torch.tensor(keep),
            resample=1,
            noise=noise,
            progress=lambda *call: seen.append(call),
        )

    assert torch.equal(run(True), known)
    torch.testing.assert_close(run(False), sample(predictor, x_T, sampler, noise=noise))
    assert seen[:8] == [(k, 8) for k in range(1, 9)]


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m"])
def test_samplers_of_longer_steps_cannot_fill_in(sampler):
    x, diffusion, config = torch.zeros(1, 3), DiffusionConfig(), SamplerConfig(sampler=sampler)
    with pytest.raises(ValueError, match="ddpm and ddim can"):
        inpaint(
            predictor_of(optimal_denoiser(diffusion), diffusion, config),
            x,
            config,
            known=x,
            keep=torch.tensor(True),
            resample=1,
            noise=SampleNoise([0]),
        )
