"""Gaussian kernels against their definition, and filtering against scipy's convolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from unclip.degradations.filters import LARGEST, convolve, gaussian_kernels

OFFSET = torch.arange(LARGEST, dtype=torch.float64) - LARGEST // 2


def kernel(variance, angle, size):
    return gaussian_kernels(
        torch.tensor([variance], dtype=torch.float64),
        torch.tensor([angle], dtype=torch.float64),
        torch.tensor([size]),
    )[0]


@pytest.mark.parametrize("size", [5, 6, 13, 14, 24, 25])
def test_kernels_sum_to_one_and_are_centred(size):
    k = kernel([7.0, 0.4], 0.6, size)
    assert k.sum().item() == pytest.approx(1)
    assert (k * OFFSET).sum().item() == pytest.approx(0, abs=1e-12)
    assert (k * OFFSET[:, None]).sum().item() == pytest.approx(0, abs=1e-12)


def test_large_kernels_have_the_covariance_asked_for():
    k = kernel([6.0, 1.5], 0.5, 25)
    x, y = OFFSET[None, :], OFFSET[:, None]
    c, s = np.cos(0.5), np.sin(0.5)
    xx, yy, xy = 6 * c**2 + 1.5 * s**2, 6 * s**2 + 1.5 * c**2, (6 - 1.5) * s * c
    for product, expected in ((x * x, xx), (y * y, yy), (x * y, xy)):
        assert (k * product).sum().item() == pytest.approx(expected, rel=1e-3)


def test_a_window_of_even_size_holds_half_of_its_outermost_taps():
    odd, even = kernel([50.0, 50.0], 0.0, 7), kernel([50.0, 50.0], 0.0, 8)
    middle = LARGEST // 2
    row_odd, row_even = odd[middle] / odd[middle, middle], even[middle] / even[middle, middle]
    torch.testing.assert_close(row_even[middle - 3 : middle + 4], row_odd[middle - 3 : middle + 4])
    assert row_odd[middle + 4] == 0
    assert row_even[middle + 4].item() == pytest.approx(0.5 * np.exp(-(4**2) / 100))
    assert row_even[middle + 5] == 0


def test_a_gaussian_of_no_width_is_a_point():
    point = torch.zeros(LARGEST, LARGEST, dtype=torch.float64)
    point[LARGEST // 2, LARGEST // 2] = 1
    torch.testing.assert_close(kernel([0.0, 0.0], 0.0, 6), point)


@pytest.mark.parametrize("shape", [(40, 56), (9, 30), (3, 2), (1, 5)])
def test_filtering_is_scipys_convolution_with_mirrored_borders(shape):
    image = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(0))
    k = kernel([8.0, 0.5], 0.9, 19)
    k = k * (1 + 0.3 * OFFSET.sign())  # uneven: a correlation would show
    ours = convolve(image, k[None].float())[0].numpy()
    theirs = np.stack([ndimage.convolve(c, k.numpy(), mode="mirror") for c in image[0].numpy()])
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.parametrize("shape", [(40, 56), (9, 30), (3, 2), (1, 5)])
def test_products_of_two_lines_are_convolved_like_any_other_kernel(shape, monkeypatch):
    image = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(1))
    k = kernel([3.0, 3.0], 0.9, 11)
    k = k * (1 + 0.3 * OFFSET.sign()) * (1 - 0.2 * OFFSET.sign()[:, None])
    k = k / k.sum()
    with monkeypatch.context() as patch:
        patch.setattr(torch.fft, "rfft2", None)  # goes without
        ours = convolve(image, k[None].float())
    theirs = np.stack([ndimage.convolve(c, k.numpy(), mode="mirror") for c in image[0].numpy()])
    np.testing.assert_allclose(ours[0].numpy(), theirs, atol=2e-6)
    on_a_canvas = convolve(image.expand(2, -1, -1, -1), k[None].float().expand(2, -1, -1))
    torch.testing.assert_close(on_a_canvas[:1], ours, rtol=0, atol=2e-6)


def test_samples_of_one_canvas_do_not_see_each_other():
    sizes = torch.tensor([[20, 31], [32, 9], [32, 32]])
    kernels = torch.stack([kernel([4.0, 1.0], 0.1 * k, 9 + k) for k in range(3)]).float()
    canvas = torch.rand(3, 3, 32, 32)
    together = convolve(canvas, kernels, sizes)
    for k, (h, w) in enumerate(sizes.tolist()):
        alone = convolve(canvas[k : k + 1, :, :h, :w], kernels[k : k + 1])
        torch.testing.assert_close(together[k : k + 1, :, :h, :w], alone)
