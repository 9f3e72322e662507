"""Whole trajectories against the schedulers of diffusers, an independent implementation.

Their tables are float32 products; to compare the formulas closely, most tests lend them ours.
"""

import pytest
import torch
from gaussian_oracle import as_output

from unclip.diffusion.config import DiffusionConfig, ImageDiffusionConfig, SamplerConfig
from unclip.diffusion.inversion import invert
from unclip.diffusion.predictor import Predictor
from unclip.diffusion.samplers import sample
from unclip.diffusion.schedules import full_schedule, respace

diffusers = pytest.importorskip("diffusers")

SHAPE = (2, 3, 8, 8)
STEPS = 50
BETAS = {"cosine": "squaredcos_cap_v2", "linear": "linear"}
KINDS = {"x0": "sample", "eps": "epsilon", "v": "v_prediction"}


def network(config: DiffusionConfig):
    """A smooth network that means the same, bounded x0 whatever it predicts."""
    bend = torch.randn(SHAPE[1:], generator=torch.Generator().manual_seed(1)).double()
    table = full_schedule(config).alpha_bar

    def denoise(x, t):
        x_t, level = x.double(), table[t].reshape(-1, 1, 1, 1)
        output = as_output(config.prediction, torch.tanh(0.5 * x_t + bend), x_t, level)
        if config.variance == "learned_range":
            output = torch.cat([output, torch.sin(3 * x_t)], dim=1)
        return output.to(x.dtype)

    return denoise


def starting_noise() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))


class Stream:
    """The same draws, in the same order, as a scheduler makes from its generator."""

    def __init__(self, dtype=torch.float64):
        self.generator, self.dtype = torch.Generator().manual_seed(3), dtype

    def __call__(self, shape, device):
        return torch.randn(tuple(shape), generator=self.generator, dtype=self.dtype)


def scheduler(kind: str, config: DiffusionConfig, *, own_tables: bool = False, **settings):
    made = getattr(diffusers, kind)(
        beta_schedule=BETAS[config.schedule],
        prediction_type=KINDS[config.prediction],
        clip_sample=False,
        timestep_spacing="leading",
        **settings,
    )
    if not own_tables:
        made.alphas_cumprod = full_schedule(config).alpha_bar
    return made


def run(stepper, config: DiffusionConfig, x: torch.Tensor, steps: int, **settings) -> torch.Tensor:
    stepper.set_timesteps(steps)
    denoise = network(config)
    for t in stepper.timesteps:
        x = stepper.step(denoise(x, t.expand(len(x))), t, x, **settings).prev_sample
    return x


def leading(config: DiffusionConfig) -> Predictor:
    chain = respace(full_schedule(config), range(0, 1000, 1000 // STEPS))
    return Predictor(network(config), chain, config)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_noise_levels_agree_with_the_schedulers_to_float32(schedule):
    config = DiffusionConfig(schedule=schedule)
    published = scheduler("DDPMScheduler", config, own_tables=True).alphas_cumprod
    expected = full_schedule(config).alpha_bar
    torch.testing.assert_close(published.double(), expected, rtol=2e-5, atol=0)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("kind", ["x0", "eps", "v"])
def test_ancestral_sampling_agrees_with_ddpm_scheduler(schedule, variance, kind):
    config = ImageDiffusionConfig(schedule=schedule, variance=variance, prediction=kind)
    oracle = scheduler("DDPMScheduler", config, variance_type=variance)
    x_T = starting_noise().double()
    found = sample(leading(config), x_T, SamplerConfig(sampler="ddpm"), noise=Stream())
    expected = run(oracle, config, x_T, STEPS, generator=Stream().generator)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["x0", "eps", "v"])
def test_ddim_agrees_with_ddim_scheduler(schedule, eta, kind):
    config = DiffusionConfig(schedule=schedule, prediction=kind)
    oracle = scheduler("DDIMScheduler", config, set_alpha_to_one=True)
    x_T = starting_noise().double()
    sampler = SamplerConfig(sampler="ddim", eta=eta)
    found = sample(leading(config), x_T, sampler, noise=Stream())
    expected = run(oracle, config, x_T, STEPS, eta=eta, generator=Stream().generator)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
def test_float32_sampling_agrees_with_the_published_scheduler_over_the_full_chain(variance):
    config = ImageDiffusionConfig(prediction="eps", variance=variance)
    oracle = scheduler("DDPMScheduler", config, own_tables=True, variance_type=variance)
    found = sample(
        Predictor(network(config), full_schedule(config), config),
        starting_noise(),
        SamplerConfig(sampler="ddpm"),
        noise=Stream(torch.float32),
    )
    generator = Stream().generator
    expected = run(oracle, config, starting_noise(), 1000, generator=generator)
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-5)


def test_inversion_agrees_with_the_inverse_scheduler():
    config = DiffusionConfig(prediction="eps")
    oracle = scheduler("DDIMInverseScheduler", config, set_alpha_to_one=True)
    x0 = torch.tanh(starting_noise()).double()
    found = invert(leading(config), x0, convention="inverse_scheduler")
    torch.testing.assert_close(found, run(oracle, config, x0, STEPS), rtol=0, atol=1e-9)
