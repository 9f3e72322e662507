"""Blur of each sample by its own Gaussian, however it lies."""

from __future__ import annotations

import torch
from torch import Tensor

from unclip.degradations.borders import mirrored, taken, whole

LARGEST = 25  # pixels a side of the largest kernel
_REACH = LARGEST // 2
_POINT = 1e-4  # pixels^2: a Gaussian of less variance is a point


def gaussian_kernels(variance: Tensor, angle: Tensor, size: Tensor) -> Tensor:
    """Kernels ``[G, 25, 25]`` (rows, columns) that sum to one, centred on the middle tap.

    A kernel of even size covers a window of that many pixels about the same centre, so that half
    of each outermost tap lies inside. (Taps between the pixels would move the image by half a one.)

    Args:
        variance: ``[G, 2]`` along the principal axes, pixels^2.
        angle: ``[G]`` of the first axis, radians from the columns' direction to the rows'.
        size: ``[G]`` side of the window, at most 25 pixels.
    """
    offset = torch.arange(-_REACH, _REACH + 1, device=variance.device, dtype=variance.dtype)
    down, right = offset[:, None], offset[None, :]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    first, second = variance.clamp(min=_POINT)[:, :, None, None].unbind(1)
    along, across = cos * right + sin * down, cos * down - sin * right
    inside = ((size[:, None] + 1) / 2 - offset.abs()).clamp(0, 1)  # share of each tap, per axis
    kernel = torch.exp(-0.5 * (along**2 / first + across**2 / second))
    kernel = kernel * inside[:, :, None] * inside[:, None, :]
    return kernel / kernel.sum((1, 2), keepdim=True)


def filtered(image: Tensor, kernels: Tensor, size: Tensor | None = None) -> Tensor:
    """``image`` ``[G, C, H, W]``, each sample convolved with its kernel, borders mirrored.

    By Fourier transforms, at whose cost every kernel is as cheap as any other.

    Args:
        image: A canvas.
        kernels: ``[G, 25, 25]``.
        size: ``[G, 2]`` of the samples on it (see `unclip.degradations.borders`); all, if None.
    """
    size = whole(image) if size is None else size
    height, width = image.shape[2:]
    sides = [-(-(n + LARGEST - 1) // 32) * 32 for n in (height, width)]  # few lengths, fast ones
    rows, columns = (
        mirrored(torch.arange(side) - _REACH, size[:, axis, None]).to(image.device)
        for axis, side in enumerate(sides)
    )
    spectrum = torch.fft.rfft2(taken(image, rows, columns))
    spectrum = spectrum * torch.fft.rfft2(kernels, s=sides)[:, None]
    # Tap (0, 0) of the kernel, not its middle, is the transform's origin: hence twice the reach.
    blurred = torch.fft.irfft2(spectrum, s=sides)
    return blurred[..., LARGEST - 1 : LARGEST - 1 + height, LARGEST - 1 : LARGEST - 1 + width]
