"""The small picture of a large one."""

from __future__ import annotations

import math

import pytest
import torch

from unclip.degradations.blur import gaussian_blur
from unclip.degradations.bsr_parameters import UNIFORMS
from unclip.degradations.config import CorruptionConfig
from unclip.degradations.downsample import corrupt, resize


@pytest.mark.parametrize("period", [3.0, 5.0])
def test_stripes_finer_than_the_small_images_pixels_come_out_grey(period):
    """A pixel of the small image covers four of the large one, so it cannot show the stripes."""
    stripes = torch.cos(2 * math.pi * torch.arange(64) / period).expand(1, 3, 64, 64)
    assert resize(stripes, 16)[..., 3:-3].abs().max() < 0.1  # without antialiasing 0.7 and more


def test_a_slope_stays_a_slope_half_a_pixel_in():
    """Pixel j of the small picture lies at (j + 1/2) 4 - 1/2 of the large one."""
    slope = torch.linspace(-0.8, 0.8, 64).expand(1, 3, 64, 64)
    at = (torch.arange(16) + 0.5) * 4 - 0.5
    expected = (-0.8 + at * 1.6 / 63).expand(1, 3, 16, 16)
    torch.testing.assert_close(resize(slope, 16)[..., 3:-3], expected[..., 3:-3])


@pytest.mark.parametrize("kind", ["none", "blur"])
def test_what_is_not_random_heeds_its_settings_and_no_chance(kind):
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    corruption = CorruptionConfig(kind=kind, kernel=5, sigma=1.3, probability=0.0)
    nothing = torch.full((2, UNIFORMS), float("nan"))
    found = corrupt(image, 8, corruption, uniforms=nothing, noise=nothing)
    low = resize(image, 8)
    expected = low if kind == "none" else gaussian_blur(low, kernel=5, sigma=1.3)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("kernel", "sigma"), [(3, 0.6), (5, 1.3)])
def test_a_point_becomes_a_gaussian(kernel, sigma):
    point = torch.zeros(1, 1, 9, 9)
    point[..., 4, 4] = 1
    blurred = gaussian_blur(point, kernel=kernel, sigma=sigma)[0, 0]
    away = torch.arange(9) - 4.0
    line = torch.exp(-0.5 * (away / sigma) ** 2) * (away.abs() <= kernel // 2)
    torch.testing.assert_close(blurred, torch.outer(line, line) / line.sum() ** 2)
