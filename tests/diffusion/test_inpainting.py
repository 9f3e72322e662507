"""What a network sees while a sample is filled in: the known and the new at the same noise."""

from __future__ import annotations

import pytest
import torch

from unclip.diffusion.config import DiffusionConfig, SamplerConfig
from unclip.diffusion.inpainting import inpaint
from unclip.diffusion.predictor import Predictor
from unclip.diffusion.schedules import sampling_schedule

MEANT, KNOWN, COUNT = 0.5, 2.0, 4000


@pytest.mark.parametrize("resample", [1, 3])
@pytest.mark.parametrize("sampler", [{"sampler": "ddim"}, {"sampler": "ddim", "eta": 0.7}])
def test_both_parts_are_at_the_levels_noise_whenever_the_network_looks(sampler, resample):
    """A network that always means the same x̂_0 keeps what it draws at N(√ᾱ x̂_0, 1 - ᾱ)."""
    diffusion = DiffusionConfig(prediction="x0")
    chain = sampling_schedule(diffusion, 6)
    generator, seen = torch.Generator().manual_seed(0), []

    def draw(shape, device):
        return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)

    def denoise(x, t):
        seen.append((x, t[0].item()))
        return torch.full_like(x, MEANT)

    found = inpaint(
        Predictor(denoise, chain, diffusion),
        draw((COUNT, 2), None),
        SamplerConfig(**sampler),
        known=torch.tensor([[KNOWN, 99.0]]).expand(COUNT, 2),
        keep=torch.tensor([True, False]),
        resample=resample,
        noise=draw,
    )
    looks = [t for t in reversed(chain.timesteps.tolist()) for _ in range(resample)]
    assert [t for _, t in seen] == looks[: len(looks) - resample + 1]  # the last level once
    for x, t in seen:
        level = chain.alpha_bar[chain.timesteps == t].item()
        for part, clean in ((x[:, 0], KNOWN), (x[:, 1], MEANT)):
            error = 5 * ((1 - level) / COUNT) ** 0.5  # 5 standard errors
            assert part.mean().item() == pytest.approx(level**0.5 * clean, abs=error)
            assert part.var().item() == pytest.approx(1 - level, rel=5 * (2 / COUNT) ** 0.5)
    assert torch.equal(found, torch.tensor([KNOWN, MEANT], dtype=torch.float64).expand(COUNT, 2))


def test_the_known_part_is_drawn_anew_at_every_level():
    diffusion = DiffusionConfig(prediction="x0")
    chain = sampling_schedule(diffusion, 6)
    generator, seen = torch.Generator().manual_seed(0), []

    def draw(shape, device):
        return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)

    def denoise(x, t):
        seen.append(x[:, 0])
        return x

    x = draw((COUNT, 2), None)
    inpaint(
        Predictor(denoise, chain, diffusion),
        x,
        SamplerConfig(),
        known=torch.zeros(COUNT, 2),
        keep=torch.tensor([True, False]),
        resample=1,
        noise=draw,
    )
    correlations = torch.corrcoef(torch.stack([x[:, 0], *seen])) - torch.eye(len(seen) + 1)
    assert correlations.abs().max() < 5 / COUNT**0.5
