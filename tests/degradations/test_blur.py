"""The blur against torchvision's, and its invariants."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.functional import gaussian_blur as reference

from unclip.degradations.blur import gaussian_blur


@pytest.mark.parametrize(("kernel", "sigma"), [(3, 0.6), (5, 1.3)])
def test_the_inside_agrees_with_torchvision(kernel, sigma):
    image = torch.rand(2, 3, 16, 12) * 2 - 1
    ours = gaussian_blur(image, kernel=kernel, sigma=sigma)
    theirs = reference(image, [kernel, kernel], [sigma, sigma])
    inside = slice(kernel, -kernel)
    torch.testing.assert_close(ours[..., inside, inside], theirs[..., inside, inside])


def test_a_constant_image_is_unchanged_to_its_edge():
    image = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(gaussian_blur(image), image)


def test_the_image_does_not_move():
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 4] = 1
    blurred = gaussian_blur(image)
    assert blurred[0, 0].argmax() == 4 * 9 + 4
    torch.testing.assert_close(blurred, blurred.flip(-1))
    torch.testing.assert_close(blurred, blurred.transpose(-1, -2))
