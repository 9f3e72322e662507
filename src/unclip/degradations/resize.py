"""Resizing of each sample to its own size, with its own interpolation.

Pixel j of the result lies at (j + 1/2) · scale − 1/2 of the input (half-pixel centres). Bilinear
and bicubic interpolation read the 2 or 4 nearest pixels a side however much they reduce, without
antialiasing, and bicubic has a = −0.75: what OpenCV's ``resize`` does, and PyTorch's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.common.upload import upload_together
from unclip.degradations.borders import full_size, mirror_index

BILINEAR, BICUBIC, AREA, GAUSSIAN = range(4)
NAMES = ("linear", "cubic", "area", "Gauss")  # for people
_NATIVE = {BILINEAR: "bilinear", BICUBIC: "bicubic"}  # PyTorch's names


def _bilinear(away: Tensor, scale: Tensor, sigma: Tensor) -> Tensor:
    return (1 - away).clamp(min=0)


def _bicubic(away: Tensor, scale: Tensor, sigma: Tensor) -> Tensor:
    """Cubic convolution (Keys, IEEE TASSP 29, 1981), a = -0.75."""
    near = (1.25 * away - 2.25) * away**2 + 1
    far = ((-0.75 * away + 3.75) * away - 6) * away + 3
    return torch.where(away <= 1, near, torch.where(away < 2, far, 0))


def _area(away: Tensor, scale: Tensor, sigma: Tensor) -> Tensor:
    """How much of a pixel lies under one that is ``scale`` wide."""
    return torch.minimum((scale + 1) / 2 - away, scale.clamp(max=1)).clamp(min=0)


def _gaussian(away: Tensor, scale: Tensor, sigma: Tensor) -> Tensor:
    return torch.exp(-0.5 * (away / sigma) ** 2) * (away <= 12.5)


_PROFILES = (_bilinear, _bicubic, _area, _gaussian)


def weights(
    kind: Tensor, before: Tensor, after: Tensor, sigma: Tensor, device: torch.device
) -> Tensor:
    """Matrices ``[G, max(after), max(before)]`` that resize a line of pixels; rows sum to one.

    ``AREA`` averages the pixels under the new one, by how much of each lies there. ``GAUSSIAN``
    weighs a window of 25 pixels about the new pixel's centre. Beyond the border pixels are mirrored
    for it, and repeated for the others.

    Args:
        kind: ``[G]``.
        before: ``[G]`` pixels.
        after: ``[G]`` pixels; rows beyond a sample's own are of no use.
        sigma: ``[G]`` of the Gaussian, pixels of the input.
        device: Of the result; the arguments are on the CPU.
    """
    present, most = set(kind.tolist()), int(before.max())
    farthest = int((before / after).max() / 2) + 2
    reach = max({BILINEAR: 1, BICUBIC: 2, AREA: farthest, GAUSSIAN: 13}[k] for k in present)
    new = torch.arange(int(after.max()), device=device)[:, None]
    numbers = upload_together(kind, before, sigma.float(), before / after, device=device)
    kind, length, sigma, scale = (x[:, None, None] for x in numbers)
    centre = (new + 0.5) * scale - 0.5  # [G, after, 1]
    index = centre.floor() + torch.arange(1 - reach, reach + 1, device=device)
    away = (index - centre).abs()  # [G, after, 2 reach]
    index = index.long()
    beside = index.clamp(min=0).minimum(length - 1)
    weight = torch.zeros_like(away)
    for k in present:
        weight = torch.where(kind == k, _PROFILES[k](away, scale, sigma), weight)
    if GAUSSIAN in present:
        beside = torch.where(kind == GAUSSIAN, mirror_index(index, length), beside)
    weight = weight / weight.sum(2, keepdim=True)
    matrix = torch.zeros(*weight.shape[:2], most, device=device)
    return matrix.scatter_add_(2, beside, weight)


def resize_each(
    image: Tensor,
    kind: Tensor,
    after: Tensor,
    *,
    size: Tensor | None = None,
    sigma: Tensor | None = None,
) -> Tensor:
    """``image`` ``[G, C, H, W]`` with each sample at its size ``after`` ``[G, 2]``, not clamped.

    As two matrix products; a lone sample by PyTorch's own interpolation, where it has that kind.

    Args:
        image: A canvas.
        kind: ``[G]`` interpolation of each sample.
        after: ``[G, 2]`` height and width of the results, of which the largest are the canvas's.
        size: ``[G, 2]`` of the samples (see `unclip.degradations.borders`); all, if None.
        sigma: ``[G]`` of the Gaussian in pixels of the input, if any sample's kind is that.
    """
    if len(image) == 1 and size is None and (mode := _NATIVE.get(int(kind))):
        planes = image.transpose(0, 1)  # three channels at once PyTorch would interleave first
        return F.interpolate(planes, after[0].tolist(), mode=mode).transpose(0, 1)
    size = full_size(image) if size is None else size
    sigma = torch.ones(len(image)) if sigma is None else sigma
    down = across = weights(kind, size[:, 0], after[:, 0], sigma, image.device)
    if not torch.equal(size[:, 0], size[:, 1]) or not torch.equal(after[:, 0], after[:, 1]):
        across = weights(kind, size[:, 1], after[:, 1], sigma, image.device)
    image = image[..., : down.shape[2], : across.shape[2]]
    return down[:, None] @ (image @ across[:, None].mT)
