"""What the stages compute: losses, metrics and conditions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from unclip.degradations.blur import gaussian_blur
from unclip.degradations.downsample import resize
from unclip.nn.config import UNetConfig
from unclip.stages.clip.stage import contrastive_loss, retrieval
from unclip.stages.upsampler.config import UpsamplerExperiment
from unclip.stages.upsampler.stage import UpsamplerStage, psnr
from unclip.training.means import quartiles
from unclip.training.random import StepRandom


def test_unrelated_embeddings_lose_the_logarithm_of_the_batch():
    z = torch.zeros(8, 4)
    assert contrastive_loss(z, z, torch.tensor(10.0)).item() == pytest.approx(math.log(8))


def test_perfect_pairs_lose_nothing_at_a_high_temperature():
    z = torch.eye(8)
    assert contrastive_loss(z, z, torch.tensor(100.0)).item() == pytest.approx(0, abs=1e-6)


def test_retrieval_counts_equal_captions_as_one():
    z_t = F.normalize(torch.eye(3)[[0, 0, 1, 2]], dim=-1)
    z_i = torch.eye(3)[[0, 0, 1, 0]]
    assert retrieval(z_i, z_t, ["a", "a", "b", "c"]) == 0.75


def test_quartiles_split_the_timesteps_in_four():
    t = torch.tensor([0, 249, 250, 600, 999])
    means = quartiles(torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0]), t, 1000)
    assert {k: v.value.item() for k, v in means.items()} == {
        "loss_q0": 2.0,
        "loss_q1": 5.0,
        "loss_q2": 7.0,
        "loss_q3": 9.0,
    }
    few = quartiles(torch.ones(1), torch.tensor([10]), 1000)
    assert few["loss_q0"].value == 1
    assert all(few[f"loss_q{q}"].value.isnan() for q in (1, 2, 3))  # no sample there


def test_psnr_of_a_known_error():
    a = torch.zeros(1, 3, 4, 4)
    assert psnr(a, a + 0.02).item() == pytest.approx(40.0)  # 20 log10(2 / 0.02)


def test_resizing_keeps_a_constant_and_the_range():
    image = torch.full((1, 3, 16, 16), -0.4)
    torch.testing.assert_close(resize(image, 4), torch.full((1, 3, 4, 4), -0.4))
    assert resize(torch.rand(1, 3, 16, 16).round() * 2 - 1, 40).abs().max() <= 1


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_each_condition_is_blurred_by_its_own_draw(probability, share):
    experiment = UpsamplerExperiment()
    experiment.model.unet = UNetConfig(channels=32, blocks=1, multiples=[1])
    experiment.corruption.probability = probability
    stage = UpsamplerStage(experiment)
    low = torch.rand(400, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = stage.corrupt(low, StepRandom(0, 0))
    blurred = gaussian_blur(low, kernel=3, sigma=0.6)
    is_blurred = (found == blurred).flatten(1).all(1)
    assert torch.equal(is_blurred, ~(found == low).flatten(1).all(1))
    assert is_blurred.float().mean().item() == pytest.approx(share, abs=0.08)  # 3 sigma


def test_training_draws_timesteps_as_configured_and_validation_evenly():
    experiment = UpsamplerExperiment()
    experiment.model.unet = UNetConfig(channels=32, blocks=1, multiples=[1])
    experiment.diffusion.timesteps = "logit_normal"
    experiment.diffusion.logit_mean = 4.0
    stage = UpsamplerStage(experiment)
    x0, draws = torch.ones(2000, 1), StepRandom(0, 0)
    trained = stage.add_noise(x0, draws, training=True)
    assert trained.t.float().median().item() == pytest.approx(982, abs=3)  # 1000 sigmoid(4)
    validated = stage.add_noise(x0, draws, training=False)
    assert validated.t.float().mean().item() == pytest.approx(499.5, abs=20)  # 3 sigma
    alpha_bar = stage.schedule.alpha_bar[validated.t][:, None]
    expected = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * validated.noise
    torch.testing.assert_close(validated.x_t, expected.to(validated.x_t.dtype))


def test_every_process_validates_with_the_same_draws(monkeypatch):
    experiment = UpsamplerExperiment()
    experiment.model.unet = UNetConfig(channels=32, blocks=1, multiples=[1])
    stage = UpsamplerStage(experiment)
    draws = []
    for rank in (0, 1):
        monkeypatch.setattr(UpsamplerStage, "global_rank", rank)
        draws.append(stage.validation_rng(0).uniform("t", 8))
    # Else the quarters of t that each logs differ, and they wait for each other for ever.
    assert torch.equal(*draws)
