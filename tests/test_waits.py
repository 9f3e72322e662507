"""What runs at every step never makes a GPU wait for the CPU to read something back."""

from __future__ import annotations

import pytest
import torch
from waits import GPU, GpuRandom, Waits

from unclip.common.seeding import SampleNoise
from unclip.common.types import Caption
from unclip.degradations.bsr import bsr
from unclip.degradations.bsr_parameters import FULL, LIGHT, UNIFORMS
from unclip.degradations.jpeg import jpeg
from unclip.diffusion.config import (
    INVERSIONS,
    SAMPLERS,
    DiffusionConfig,
    ImageDiffusionConfig,
    SamplerConfig,
)
from unclip.diffusion.inpainting import inpaint
from unclip.diffusion.inversion import invert
from unclip.diffusion.predictor import build_predictor, guided_denoiser
from unclip.diffusion.samplers import sample
from unclip.embeddings.codec import Codec
from unclip.nn.config import TextEncoderConfig
from unclip.stages.ar_prior.config import ArPriorConfig, ArSamplerConfig
from unclip.stages.ar_prior.network import ArPrior
from unclip.stages.ar_prior.sampling import sample_codes
from unclip.stages.diffusion_prior.config import DiffusionPriorConfig, PriorSamplerConfig
from unclip.stages.diffusion_prior.network import DiffusionPrior
from unclip.stages.diffusion_prior.sampling import sample_prior
from unclip.stages.upsampler.config import UpsamplerExperiment
from unclip.stages.upsampler.stage import UpsamplerStage


@pytest.fixture(autouse=True, scope="module")
def _tables():
    """JPEG's tables are made once per device, whichever test comes first."""
    with Waits():
        jpeg(torch.zeros(1, 3, 16, 16, device=GPU), torch.full((1,), 50))


def test_the_count_sees_what_makes_a_gpu_wait():
    x, rows = torch.zeros(4, device=GPU), torch.tensor([0, 2])
    with Waits() as found:
        x[[0, 2]]
        x[rows]
        rows.to(GPU)
        torch.tensor([1.0], device=GPU)
        x[rows.to(GPU, non_blocking=True)] + 1.0
        x[1:3, None] = 0.0
    assert len(found.waits) == 4
    for read in (x.tolist, x.nonzero, x.cpu, x[0].item, lambda: bool(x[0])):
        with pytest.raises((RuntimeError, NotImplementedError)):
            read()


@pytest.mark.parametrize("variant", [FULL, LIGHT], ids=["full", "light"])
@pytest.mark.parametrize("shape", [(64, 64), (64, 96)])
def test_degrading_a_batch_waits_for_nothing_and_takes_few_operators(variant, shape):
    images = torch.zeros(64, 3, *shape, device=GPU)
    for seed in range(3):
        uniforms = torch.rand(64, UNIFORMS, generator=torch.Generator().manual_seed(seed))
        with Waits() as found:
            bsr(images, scale=4, variant=variant, uniforms=uniforms, noise=images)
        assert found.waits == []
        # Of 64 samples, each with up to nine operations of its own; sides are resized together
        # where they are equal.
        assert found.operators < (1000 if shape[0] == shape[1] else 1300)


@pytest.mark.parametrize("kind", ["none", "blur", "bsr", "bsr_light"])
@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_the_condition_of_a_training_step_waits_for_nothing(kind, probability):
    experiment = UpsamplerExperiment()
    experiment.model.unet.channels, experiment.model.unet.multiples = 32, [1]
    experiment.model.noise_levels = 100
    experiment.corruption.kind, experiment.corruption.probability = kind, probability
    stage = UpsamplerStage(experiment)
    stage.schedule = stage.schedule.to(GPU)
    rng = GpuRandom(0, 0, device=GPU)
    with Waits() as found:
        at = stage.add_noise(torch.zeros(8, 3, 64, 64, device=GPU), rng, training=True)
        low, level = stage.add_noise_to_low(stage.condition(at.x0, rng), rng)
        stage.losses(torch.zeros(8, 6, 64, 64, device=GPU), at)
    assert low.shape == (8, 3, 16, 16)
    assert level.shape == (8,)
    assert found.waits == []


def image_predictor(sampler: SamplerConfig, guidance: float):
    diffusion = ImageDiffusionConfig()
    denoise = guided_denoiser(lambda x, t: torch.cat([x, x], dim=1), guidance, 3)
    return build_predictor(denoise, diffusion=diffusion, sampler=sampler, device=GPU)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("clip", ["none", "static", "dynamic"])
def test_sampling_waits_for_nothing(name, clip):
    sampler = SamplerConfig(sampler=name, steps=6, eta=0.5, clip=clip)
    predictor = image_predictor(sampler, 3.0)
    x_T, errors = torch.zeros(2, 3, 8, 8, device=GPU), torch.zeros(6, device=GPU)
    with Waits() as found:
        sample(predictor, x_T, sampler, noise=SampleNoise([0, 1]), x0_errors=errors)
    assert found.waits == []


@pytest.mark.parametrize("convention", INVERSIONS)
def test_inversion_waits_for_nothing(convention):
    predictor = image_predictor(SamplerConfig(steps=6), 1.0)
    with Waits() as found:
        invert(predictor, torch.zeros(2, 3, 8, 8, device=GPU), convention=convention)
    assert found.waits == []


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_inpainting_waits_for_nothing(name):
    sampler = SamplerConfig(sampler=name, steps=6, eta=1.0)
    image = torch.zeros(2, 3, 8, 8, device=GPU)
    keep = torch.zeros(2, 1, 8, 8, dtype=torch.bool, device=GPU)
    given = dict(known=image, keep=keep, resample=2, noise=SampleNoise([0, 1]))
    predictor = image_predictor(sampler, 1.0)
    with Waits() as found:
        inpaint(predictor, image, sampler, **given)
    assert found.waits == []


def caption() -> Caption:
    return Caption(
        torch.zeros(2, 6, dtype=torch.long, device=GPU),
        None,
        torch.ones(2, 6, dtype=torch.bool, device=GPU),
    )


def waits_of_a_diffusion_prior(steps: int) -> int:
    config = DiffusionPriorConfig(context=6, vocabulary=50, width=16, layers=1, heads=2)
    with GPU:
        net = DiffusionPrior(config, 8)
    with Waits() as found:
        sample_prior(
            net,
            z_t=torch.zeros(2, 8, device=GPU),
            caption=caption(),
            diffusion=DiffusionConfig(),
            sampler=PriorSamplerConfig(sampler="ddpm", steps=steps, guidance=2.0),
            noise=SampleNoise([0, 1]),
        )
    return len(found.waits)


def waits_of_an_ar_prior(codes: int) -> int:
    uniforms = torch.zeros(2, codes, device=GPU)
    text = TextEncoderConfig(context=6, vocabulary=50, width=16, layers=1, heads=2)
    config = ArPriorConfig(context=codes + 2, width=16, layers=1, heads=2, text=text)
    with GPU:
        net = ArPrior(config, Codec.empty(8, codes, 4))
    sampler = ArSamplerConfig(guidance=2.0, top_k=3, top_p=0.9)
    with Waits() as found:
        sample_codes(
            net,
            dot=torch.zeros(2, dtype=torch.long, device=GPU),
            z_t=torch.zeros(2, 8, device=GPU),
            caption=caption(),
            sampler=sampler,
            uniforms=uniforms,
        )
    return len(found.waits)


@pytest.mark.parametrize("waits_of", [waits_of_a_diffusion_prior, waits_of_an_ar_prior])
def test_the_waits_of_a_prior_do_not_grow_with_its_steps(waits_of):
    assert waits_of(8) == waits_of(4)
