"""Blur of each sample by its own Gaussian, however it lies."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.common.upload import upload_together
from unclip.degradations.borders import full_size, gather_pixels, mirror_index

LARGEST = 25  # pixels a side of the largest kernel
_REACH = LARGEST // 2
_ROUNDING = 1e-6  # of pixels in [0, 1]: what Fourier transforms leave as well
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


def convolve(image: Tensor, kernels: Tensor, size: Tensor | None = None) -> Tensor:
    """``image`` ``[G, C, H, W]``, each sample convolved with its kernel, borders mirrored.

    By Fourier transforms, at whose cost every kernel is as cheap as any other; but a lone sample on
    a CPU tap by tap, once down and once across, if its kernel is a product of two lines.

    Args:
        image: A canvas.
        kernels: ``[G, 25, 25]``.
        size: ``[G, 2]`` of the samples on it (see `unclip.degradations.borders`); all, if None.
    """
    height, width = image.shape[2:]
    padded = _pad(image, size)
    if len(image) == 1 and image.device.type == "cpu":
        down, across = kernels[0].sum(1), kernels[0].sum(0)
        if (torch.outer(down, across) - kernels[0]).abs().sum() < _ROUNDING:
            return _convolve_line(_convolve_line(padded, 2, height, down), 3, width, across)
    sides = [-(-n // 32) * 32 for n in padded.shape[2:]]  # few lengths, fast ones
    spectrum = torch.fft.rfft2(padded, s=sides).mul_(torch.fft.rfft2(kernels, s=sides)[:, None])
    # Tap (0, 0) of the kernel, not its middle, is the transform's origin: hence twice the reach.
    blurred = torch.fft.irfft2(spectrum, s=sides)
    return blurred[..., 2 * _REACH : 2 * _REACH + height, 2 * _REACH : 2 * _REACH + width]


def _pad(image: Tensor, size: Tensor | None) -> Tensor:
    """With as many mirrored pixels on each side as a kernel reaches."""
    if size is None and min(image.shape[2:]) > _REACH:
        return F.pad(image, (_REACH,) * 4, mode="reflect")
    size = full_size(image) if size is None else size
    rows, columns = (
        mirror_index(torch.arange(-_REACH, side + _REACH), size[:, axis, None])
        for axis, side in enumerate(image.shape[2:])
    )
    return gather_pixels(image, *upload_together(rows, columns, device=image.device))


def _convolve_line(padded: Tensor, dim: int, length: int, taps: Tensor) -> Tensor:
    """``padded`` convolved with ``taps`` along ``dim``; ``length`` is what it was before."""
    (start, tap), *others = [
        (2 * _REACH - place, tap)
        for place, tap in enumerate(taps.tolist())
        if abs(tap) > _ROUNDING / LARGEST
    ]
    total = padded.narrow(dim, start, length) * tap
    for start, tap in others:
        total.add_(padded.narrow(dim, start, length), alpha=tap)
    return total
