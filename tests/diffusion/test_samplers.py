import pytest
import torch
from gaussian_oracle import UnitNoise, V, optimal_denoiser

from unclip.common.seeding import SampleNoise
from unclip.diffusion.config import DiffusionConfig, ImageDiffusionConfig, SamplerConfig
from unclip.diffusion.inversion import invert
from unclip.diffusion.predictor import Predictor, build_predictor
from unclip.diffusion.samplers import sample
from unclip.diffusion.schedules import sampling_schedule

KINDS = ["x0", "eps", "v"]


def predictor_of(denoise, diffusion: DiffusionConfig, sampler: SamplerConfig) -> Predictor:
    return build_predictor(denoise, diffusion=diffusion, sampler=sampler, device="cpu")


def variance_of_samples(diffusion: DiffusionConfig, sampler: SamplerConfig) -> float:
    """The variance of what the sampler makes of N(0, 1), by its linear coefficients."""
    chain = sampling_schedule(diffusion, sampler.steps)
    x_T = torch.zeros(len(chain), 1, dtype=torch.float64)
    x_T[0] = 1
    noise = UnitNoise()
    predictor = predictor_of(optimal_denoiser(diffusion, chain), diffusion, sampler)
    x_0 = sample(predictor, x_T, sampler, noise=noise)
    random = sampler.sampler == "ddpm" or sampler.eta > 0
    assert noise.calls == (len(chain) - 1 if random else 0)
    return x_0.square().sum().item()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("variance", "sampler", "eta", "ratio"),
    [
        ("fixed_small", "ddpm", 0.0, 0.902108),
        ("fixed_large", "ddpm", 0.0, 1.025919),
        ("learned_range", "ddpm", 0.0, 0.999857),  # with the exact variance, as Analytic-DPM has it
        ("fixed_small", "ddim", 0.0, 0.954175),
        ("learned_range", "ddim", 0.0, 0.954175),
        ("fixed_large", "ddim", 1.0, 0.902108),
    ],
)
def test_gaussian_samples_have_the_variance_of_the_closed_form(kind, variance, sampler, eta, ratio):
    diffusion = ImageDiffusionConfig(prediction=kind, variance=variance)
    config = SamplerConfig(sampler=sampler, steps=64, eta=eta)
    assert variance_of_samples(diffusion, config) / V == pytest.approx(ratio, abs=1e-6)


@pytest.mark.parametrize(
    ("convention", "errors"),
    [
        ("guided_diffusion", {1000: -0.31, 250: -1.19, 50: -5.8, 27: -10.7}),
        ("inverse_scheduler", {1000: -0.16, 250: -0.65, 50: -3.2, 27: -6.0}),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_inversion_then_ddim_shrinks_gaussian_data_by_the_known_amount(convention, errors, kind):
    diffusion = DiffusionConfig(prediction=kind)
    for steps, percent in errors.items():
        sampler = SamplerConfig(sampler="ddim", steps=steps)
        predictor = predictor_of(optimal_denoiser(diffusion), diffusion, sampler)
        x_T = invert(predictor, torch.ones(1, 1, dtype=torch.float64), convention=convention)
        x_0 = sample(predictor, x_T, sampler, noise=UnitNoise())
        digits = 0.005 if abs(percent) < 2 else 0.05
        assert 100 * (x_0.item() - 1) == pytest.approx(percent, abs=digits), steps


def test_unknown_inversion_convention_is_refused():
    diffusion = DiffusionConfig()
    predictor = predictor_of(optimal_denoiser(diffusion), diffusion, SamplerConfig())
    with pytest.raises(ValueError, match="inverse_scheduler"):
        invert(predictor, torch.ones(1, 1), convention="backwards")


@pytest.mark.parametrize("shape", [(3, 8), (3, 2, 4, 4)])
@pytest.mark.parametrize("steps", [64, "10,10,3,2,2"])
def test_ddim_with_eta_one_is_ancestral_sampling_step_for_step(shape, steps):
    diffusion = DiffusionConfig(prediction="eps")
    chain = sampling_schedule(diffusion, steps)
    network = torch.Generator().manual_seed(0)
    bend = torch.randn(shape[1:], generator=network)
    trails = {}
    for name in ("ddpm", "ddim"):
        trail: list[torch.Tensor] = []

        def denoise(x, t, trail=trail):
            trail.append(x)
            return torch.tanh(x + bend) + t.reshape(-1, *[1] * (x.ndim - 1)) / 1000

        noise = SampleNoise([1, 2, 3])
        sampler = SamplerConfig(sampler=name, eta=1.0, steps=steps)
        predictor = predictor_of(denoise, diffusion, sampler)
        x_0 = sample(predictor, noise(shape).double(), sampler, noise=noise)
        trails[name] = [*trail, x_0]
    assert len(trails["ddpm"]) == len(chain) + 1
    for ddpm, ddim in zip(trails["ddpm"], trails["ddim"]):
        torch.testing.assert_close(ddpm, ddim, rtol=1e-6, atol=1e-6)


def test_network_is_given_the_original_timesteps_from_last_to_first():
    diffusion = DiffusionConfig()
    chain = sampling_schedule(diffusion, "10,10,3,2,2")
    seen: list[list[int]] = []
    progress: list[tuple[int, int]] = []

    def denoise(x, t):
        assert t.dtype == torch.int64
        seen.append(t.tolist())
        return torch.zeros_like(x)

    def report(done, total):
        progress.append((done, total))

    predictor = Predictor(denoise, chain, diffusion)
    sample(predictor, torch.ones(2, 3), SamplerConfig(), noise=UnitNoise(), progress=report)
    assert seen == [[t, t] for t in reversed(chain.timesteps.tolist())]
    assert progress == [(k, 27) for k in range(1, 28)]
    seen.clear()
    invert(predictor, torch.ones(2, 3))
    assert seen == [[t, t] for t in chain.timesteps.tolist()]


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_sample_does_not_depend_on_its_batch(sampler):
    diffusion, config = DiffusionConfig(), SamplerConfig(sampler=sampler, eta=0.5, steps=8)
    predictor = predictor_of(optimal_denoiser(diffusion), diffusion, config)

    def run(seeds):
        noise = SampleNoise(seeds)
        return sample(predictor, noise((len(seeds), 4)), config, noise=noise)

    together = run([1, 2, 3])
    torch.testing.assert_close(together[1:2], run([2]))
    assert not torch.allclose(together[0], together[1])


def test_clipped_sampling_ends_within_range():
    x_T = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    for clip in ("static", "dynamic"):
        sampler = SamplerConfig(clip=clip, steps=8)
        predictor = predictor_of(lambda x_t, t: 5 * x_t, DiffusionConfig(), sampler)
        x_0 = sample(predictor, x_T, sampler, noise=UnitNoise())
        assert x_0.abs().max() <= 1 + 1e-6


def test_half_precision_networks_are_sampled_in_float32_without_gradients():
    weight = torch.ones(1, requires_grad=True)

    def denoise(x, t):
        assert x.dtype == torch.float32
        return (weight * x).bfloat16()

    sampler = SamplerConfig(steps=4)
    predictor = predictor_of(denoise, DiffusionConfig(), sampler)
    x_0 = sample(predictor, torch.ones(2, 3, dtype=torch.bfloat16), sampler, noise=UnitNoise())
    assert x_0.dtype == torch.float32
    assert not x_0.requires_grad
