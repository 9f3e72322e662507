"""How often training visits each timestep."""

from __future__ import annotations

from math import log

import pytest
import torch

from unclip.diffusion.config import DiffusionConfig
from unclip.diffusion.timesteps import timesteps_of

U = (torch.arange(100_000) + 0.5) / 100_000  # every quantile once


def test_uniform_draws_visit_every_timestep_equally():
    counts = timesteps_of(U, DiffusionConfig(steps=50)).bincount(minlength=50)
    assert counts.min() >= 1999
    assert counts.max() <= 2001


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.6, 0.8)])
def test_logit_normal_draws_have_a_normal_logit(mean, std):
    config = DiffusionConfig(timesteps="logit_normal", logit_mean=mean, logit_std=std)
    t = timesteps_of(U, config)
    logit = torch.logit((t + 0.5) / 1000)
    assert logit.mean().item() == pytest.approx(mean, abs=0.005)
    assert logit.std().item() == pytest.approx(std, abs=0.01)
    below = (t < 300).float().mean().item()  # Phi((logit(0.3) - m) / s)
    exact = torch.special.ndtr(torch.tensor((log(0.3 / 0.7) - mean) / std)).item()
    assert below == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("timesteps", ["uniform", "logit_normal"])
def test_the_ends_of_the_draw_stay_in_the_chain(timesteps):
    ends = torch.tensor([0.0, 1 - 2**-24])
    config = DiffusionConfig(timesteps=timesteps)
    first, last = timesteps_of(ends, config).tolist()
    assert first == 0
    assert 990 < last < 1000
