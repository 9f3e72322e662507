"""BSR degradation: a small image as blur, noise, resizing and JPEG in random order leave it.

Zhang et al., arXiv 2103.14006, section 3; see `unclip.degradations.bsr_parameters`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from unclip.degradations.borders import full_size
from unclip.degradations.bsr_parameters import (
    BLUR,
    CAMERA,
    JPEG,
    NOISE,
    REDUCE,
    RESIZE,
    SECOND_BLUR,
    SLOTS,
    BsrParameters,
    Variant,
    draw_parameters,
)
from unclip.degradations.filters import convolve, gaussian_kernels
from unclip.degradations.jpeg import jpeg
from unclip.degradations.resize import resize_each

_HALVE, _FINAL = SLOTS, SLOTS + 1  # what comes before and after the seven operations


def bsr(image: Tensor, *, scale: int, variant: Variant, uniforms: Tensor, noise: Tensor) -> Tensor:
    """Degraded images ``[B, 3, H/scale, W/scale]`` in [-1, 1], in steps of 2/255.

    A sample depends on nothing but its own rows of the arguments. On a CPU that holds bit for bit:
    each is processed alone, at the size it has. On other devices the batch goes as a whole.

    Args:
        image: ``[B, 3, H, W]`` in [-1, 1]; ``scale`` divides H and W.
        scale: An integer above 1.
        variant: `FULL` or `LIGHT` of `unclip.degradations.bsr_parameters`.
        uniforms: ``[B, UNIFORMS]`` in [0, 1): order and parameters of the operations.
        noise: ``[B, 3, H, W]`` standard normal; its upper left corner is added where noise is due.

    Raises:
        ValueError: The shapes do not fit one another.
    """
    height, width = image.shape[2:]
    if height % scale or width % scale:
        raise ValueError(f"{height} x {width} pixels cannot be divided by {scale}")
    if image.shape[1] != 3:
        raise ValueError(f"{image.shape[1]} channels, not 3 (RGB)")
    if noise.shape != image.shape or len(uniforms) != len(image):
        shapes = [tuple(x.shape) for x in (image, noise, uniforms)]
        raise ValueError(f"images, noise and uniforms do not fit: {shapes}")
    if not len(image):
        return image[..., ::scale, ::scale]
    parameters = draw_parameters(uniforms, scale=scale, variant=variant)
    group = 1 if image.device.type == "cpu" else len(image)
    return torch.cat(
        [
            apply(
                image[start : start + group],
                parameters.rows(slice(start, start + group)),
                noise[start : start + group],
                scale=scale,
            )
            for start in range(0, len(image), group)
        ]
    )


@torch.no_grad()
def apply(image: Tensor, parameters: BsrParameters, noise: Tensor, *, scale: int) -> Tensor:
    """`bsr` of one group of samples with drawn ``parameters``, on one canvas."""
    p, device = parameters, image.device
    with torch.autocast(device.type, enabled=False):
        canvas = _Canvas((image.float().contiguous() + 1).mul_(0.5))
        small = canvas.size // scale
        blurs = (p.blur_variance, p.blur_angle, p.blur_size)
        kernels = gaussian_kernels(*(x.flatten(0, 1).to(device, torch.float32) for x in blurs))
        kernels = kernels.unflatten(0, (-1, 2))
        mix = (p.noise_mix * p.noise_level[:, None, None] / 255).to(noise)
        for op, rows in _plan(p):
            size, part = canvas.size[rows], canvas.corner(rows)
            after = size
            inside = None if len(image) == 1 else size
            if op in (BLUR, SECOND_BLUR):
                part = convolve(part, kernels[rows, op], inside)
            elif op == _HALVE:
                after = size // 2
                part = resize_each(part, p.halving[rows], after, size=inside).clamp_(0, 1)
            elif op == REDUCE:
                after = (size / p.reduction[rows, None]).long().clamp(min=1)
                sigma = p.reduction_sigma[rows]
                part = resize_each(part, p.reducing[rows], after, size=inside, sigma=sigma).clamp_(
                    0, 1
                )
            elif op == RESIZE:
                after = small[rows]
                part = resize_each(part, p.resizing[rows], after, size=inside).clamp_(0, 1)
            elif op == NOISE:
                drawn = _corner(noise, rows, part.shape[2:]).flatten(2)
                part = (mix[rows] @ drawn).view(part.shape).add_(part).clamp_(0, 1)
            else:
                quality = p.quality if op == JPEG else p.final_quality
                part = jpeg(part, quality[rows], inside)
            canvas.put(rows, part, after)
        return canvas.corner([*range(len(image))]) * 2 - 1


def _plan(p: BsrParameters) -> Iterator[tuple[int, list[int]]]:
    """Operations in order, each with the samples to which it happens then, if there are any."""
    order, everyone = p.order.tolist(), [True] * len(p.order)
    due = dict.fromkeys((BLUR, REDUCE, RESIZE, NOISE, _FINAL), everyone)
    due |= {SECOND_BLUR: p.blurred_twice.tolist(), JPEG: p.compressed.tolist()}
    due |= {_HALVE: p.halved.tolist(), CAMERA: [False] * len(order)}
    for ops in zip(*([_HALVE, *ops, _FINAL] for ops in order)):  # of all samples, place by place
        together: dict[int, list[int]] = {}
        for k, op in enumerate(ops):
            if due[op][k]:
                together.setdefault(op, []).append(k)
        yield from together.items()


class _Canvas:
    """Samples of different sizes, each in the upper left corner of its image.

    A lone one fills it at any time.
    """

    def __init__(self, image: Tensor):
        self.image = image  # [G, 3, H, W] in [0, 1]
        self.size = full_size(image).clone()

    def corner(self, rows: list[int]) -> Tensor:
        """The samples ``rows``, as large as the largest of them."""
        if len(self.image) == 1:
            return self.image
        return _corner(self.image, rows, self.size[rows].amax(0).tolist())

    def put(self, rows: list[int], part: Tensor, size: Tensor) -> None:
        """Replace these samples by ``part``, in which they have the sizes ``size``."""
        if len(self.image) == 1:
            self.image, self.size = part, size
        else:
            self.size[rows] = size
            self.image[rows, :, : part.shape[2], : part.shape[3]] = part


def _corner(image: Tensor, rows: list[int], size: Sequence[int]) -> Tensor:
    image = image[..., : size[0], : size[1]]
    return image if len(rows) == len(image) else image[rows]
