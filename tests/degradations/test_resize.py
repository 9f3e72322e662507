"""Resizing against PyTorch's own, against averages, and on ramps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from unclip.degradations.resize import AREA, BICUBIC, BILINEAR, GAUSSIAN, resize_each

SIZES = [(9, 40), (31, 17), (64, 33), (5, 64)]


def one(image, kind, after, **options):
    return resize_each(image[None], torch.tensor([kind]), torch.tensor([after]), **options)[0]


@pytest.mark.parametrize(("kind", "mode"), [(BILINEAR, "bilinear"), (BICUBIC, "bicubic")])
@pytest.mark.parametrize("after", SIZES)
def test_interpolation_is_that_of_pytorch(kind, mode, after):
    image = torch.rand(3, 31, 33, generator=torch.Generator().manual_seed(0))
    theirs = F.interpolate(image[None], after, mode=mode, align_corners=False)[0]
    torch.testing.assert_close(one(image, kind, after), theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("after", SIZES)
def test_matrices_interpolate_as_pytorch_does(after):
    images = torch.rand(2, 3, 31, 33, generator=torch.Generator().manual_seed(0))
    ours = resize_each(images, torch.tensor([BILINEAR, BICUBIC]), torch.tensor([after, after]))
    for image, found, mode in zip(images, ours, ("bilinear", "bicubic")):
        theirs = F.interpolate(image[None], after, mode=mode, align_corners=False)[0]
        torch.testing.assert_close(found, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_area_at_whole_factors_is_the_average(factor):
    image = torch.rand(3, 48, 24)
    ours = one(image, AREA, (48 // factor, 24 // factor))
    torch.testing.assert_close(ours, F.avg_pool2d(image, factor), rtol=0, atol=1e-6)


@pytest.mark.parametrize("after", [4, 9, 12])
def test_area_at_other_factors_is_the_average_of_parts(after):
    image = torch.rand(1, 6, 6)
    parts = image.repeat_interleave(36, 1).repeat_interleave(36, 2)
    exact = F.avg_pool2d(parts.double(), 216 // after).float()
    torch.testing.assert_close(one(image, AREA, (after, after)), exact, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", [BILINEAR, BICUBIC, AREA, GAUSSIAN])
@pytest.mark.parametrize("after", [17, 30, 60])
def test_a_ramp_stays_a_ramp_at_half_pixel_centres(kind, after):
    image = torch.arange(60.0).expand(1, 60, 60)
    found = one(image, kind, (60, after), sigma=torch.tensor([1.3]))[0, 30]
    expected = (torch.arange(after) + 0.5) * 60 / after - 0.5
    inside = (expected > 14) & (expected < 45)
    # Bicubic with a = -0.75 bends ramps a little, and to area averages they are stairs.
    tolerance = {BICUBIC: 0.08, AREA: 0.03, GAUSSIAN: 1e-3}.get(kind, 1e-4)
    torch.testing.assert_close(found[inside], expected[inside], rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", [BILINEAR, BICUBIC, AREA, GAUSSIAN])
def test_a_constant_stays_constant(kind):
    image = torch.full((3, 40, 7), 0.3)
    for after in [(10, 3), (13, 7), (1, 1), (80, 9)]:
        found = one(image, kind, after, sigma=torch.tensor([2.0]))
        torch.testing.assert_close(found, torch.full((3, *after), 0.3))


def test_the_gaussian_reads_its_window_about_the_new_pixels_centre():
    sigma = 1.7
    found = one(torch.eye(64)[None], GAUSSIAN, (16, 64), sigma=torch.tensor([sigma]))
    row = one(torch.eye(64)[None], GAUSSIAN, (16, 16), sigma=torch.tensor([sigma]))[0]
    assert found.shape == (1, 16, 64)
    away = torch.arange(64) - (4 * torch.arange(16)[:, None] + 1.5)
    weight = torch.exp(-0.5 * (away / sigma) ** 2) * (away.abs() <= 12.5)
    weight = weight / weight.sum(1, keepdim=True)
    inner = slice(4, 12)  # where no border is near
    torch.testing.assert_close(row[inner, inner], (weight @ weight.T)[inner, inner])


def test_samples_of_one_canvas_do_not_see_each_other():
    sizes, after = torch.tensor([[20, 31], [32, 9], [7, 32]]), torch.tensor(SIZES[:3])
    kinds = torch.tensor([GAUSSIAN, BICUBIC, AREA])
    sigma = torch.tensor([0.4, 1.0, 1.0])
    canvas = torch.rand(3, 3, 32, 32)
    together = resize_each(canvas, kinds, after, size=sizes, sigma=sigma)
    for k, ((h, w), (new_h, new_w)) in enumerate(zip(sizes.tolist(), after.tolist())):
        sample = canvas[k : k + 1, :, :h, :w]
        alone = resize_each(sample, kinds[k : k + 1], after[k : k + 1], sigma=sigma[k : k + 1])
        torch.testing.assert_close(together[k : k + 1, :, :new_h, :new_w], alone)
