"""Gaussian blur of the low-resolution condition (first upsampler, paper appendix C)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_blur(image: Tensor, *, kernel: int = 3, sigma: float = 0.6) -> Tensor:
    """Blur ``image`` ``[B, C, H, W]`` with a ``kernel`` x ``kernel`` Gaussian, edges replicated.

    ``sigma`` is in pixels of ``image``. The taps sum to one, so a constant image is unchanged.
    Autocast is off: in bfloat16 training would see other images than a pipeline makes, by up to
    half a grey level.
    """
    with torch.autocast(image.device.type, enabled=False):
        return _blur(image, kernel, sigma)


def _blur(image: Tensor, kernel: int, sigma: float) -> Tensor:
    offsets = torch.arange(kernel, device=image.device, dtype=torch.float32) - kernel // 2
    taps = torch.exp(-0.5 * (offsets / sigma) ** 2)
    taps = (taps / taps.sum()).to(image.dtype)
    channels = image.shape[1]
    pad = kernel // 2
    padded = F.pad(image, (pad, pad, pad, pad), mode="replicate")
    rows = F.conv2d(padded, taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(rows, taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
