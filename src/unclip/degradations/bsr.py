"""BSR degradation: a small image as blur, noise, resizing and JPEG in random order leave it.

Zhang et al., arXiv 2103.14006, section 3; see `unclip.degradations.bsr_parameters`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from unclip.common.upload import upload, upload_together
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
# Operations that are computed together, in the order in which they have their turns.
_BLURS, _NOISES, _RESIZES, _JPEGS = (
    (BLUR, SECOND_BLUR),
    (NOISE,),
    (_HALVE, REDUCE, RESIZE),
    (JPEG, _FINAL),
)


def bsr(image: Tensor, *, scale: int, variant: Variant, uniforms: Tensor, noise: Tensor) -> Tensor:
    """Degraded images ``[B, 3, H/scale, W/scale]`` in [-1, 1], in steps of 2/255.

    A sample depends on nothing but its own rows of the arguments. On a CPU that holds bit for bit:
    each is processed alone, at the size it has. On other devices the batch goes as a whole, and is
    never waited for: all that is drawn lies on the CPU.

    Args:
        image: ``[B, 3, H, W]`` in [-1, 1]; ``scale`` divides H and W.
        scale: An integer above 1.
        variant: `FULL` or `LIGHT` of `unclip.degradations.bsr_parameters`.
        uniforms: ``[B, UNIFORMS]`` in [0, 1), on the CPU: order and parameters of the operations.
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
    with exact_float32(device):
        canvas = _Canvas((image.float().contiguous() + 1).mul_(0.5))
        small = canvas.size // scale
        qualities = torch.stack([p.quality, p.final_quality], dim=1)  # as in _JPEGS
        two = torch.full_like(p.reduction, 2)
        kinds = torch.stack([p.halving, p.reducing, p.resizing], dim=1)  # as in _RESIZES
        factors = torch.stack([two, p.reduction, two], dim=1)  # RESIZE has none
        mix = (p.noise_mix * p.noise_level[:, None, None] / 255).to(noise.dtype)
        blurs = [x.flatten(0, 1).float() for x in (p.blur_variance, p.blur_angle, p.blur_size)]
        mix, *blurs = upload_together(mix, *blurs, device=device)
        kernels = gaussian_kernels(*blurs)
        for together, rows, which in _plan(p):
            size = after = canvas.size[rows]
            part, there = canvas.corner(rows)
            inside = None if len(rows) == 1 or (size == size[0]).all() else size
            if together == _BLURS:
                own = upload(2 * rows + which, device)
                part = convolve(part, kernels[own], inside)
            elif together == _NOISES:
                drawn = _corner(noise, there, part.shape[2:]).flatten(2)
                part = (_rows(mix, there) @ drawn).view(part.shape).add_(part).clamp_(0, 1)
            elif together == _RESIZES:
                final = which == _RESIZES.index(RESIZE)
                after = (size / factors[rows, which, None]).long().clamp(min=1)
                after = torch.where(final[:, None], small[rows], after)
                sigma, kind = p.reduction_sigma[rows], kinds[rows, which]
                part = resize_each(part, kind, after, size=inside, sigma=sigma).clamp_(0, 1)
            else:
                part = jpeg(part, qualities[rows, which], inside)
            canvas.put(there, part, rows, after)
        return canvas.corner(torch.arange(len(image)))[0] * 2 - 1


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """No mixed precision, and no TensorFloat-32 in matrix products: JPEG counts in whole levels."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.fp32_precision = before


def _plan(p: BsrParameters) -> Iterator[tuple[tuple[int, ...], Tensor, Tensor]]:
    """Operations that are computed together, with the samples (int64) to which they happen then.

    A sample's own order is kept. Kinds take turns, and all samples whose next operation is of the
    kind take part, whatever its place in their order: so there are few groups, and large ones. The
    last tensor is each sample's operation, by its place among those of the kind.
    """
    left = []
    due = {SECOND_BLUR: p.blurred_twice.tolist(), JPEG: p.compressed.tolist()}
    due[CAMERA] = [False] * len(p.order)
    for k, order in enumerate(p.order.tolist()):
        ops = [_HALVE] if p.halved[k] else []
        ops += [op for op in order if op not in due or due[op][k]]
        left.append([*ops, _FINAL][::-1])
    while any(left):
        for together in (_BLURS, _NOISES, _RESIZES, _JPEGS):
            rows = [k for k, ops in enumerate(left) if ops and ops[-1] in together]
            if rows:
                which = [together.index(left[k].pop()) for k in rows]
                yield together, torch.tensor(rows), torch.tensor(which)


class _Canvas:
    """Samples of different sizes, each in the upper left corner of its image.

    A lone one fills it at any time.
    """

    def __init__(self, image: Tensor):
        self.image = image  # [G, 3, H, W] in [0, 1]
        self.size = full_size(image).clone()

    def corner(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """The samples ``rows``, as large as the largest of them, and ``rows`` on the device.

        Those are None where they are all samples.
        """
        if len(self.image) == 1:
            return self.image, None
        there = None
        if len(rows) < len(self.image):
            there = upload(rows, self.image.device)
        height, width = self.size[rows].amax(0).tolist()
        return _corner(self.image, there, (height, width)), there

    def put(self, there: Tensor | None, part: Tensor, rows: Tensor, size: Tensor) -> None:
        """Replace these samples by ``part``, in which they have the sizes ``size``."""
        self.size[rows] = size
        if len(self.image) == 1:
            self.image = part
            return
        room = self.image[..., : part.shape[2], : part.shape[3]]
        if there is None:
            room.copy_(part)
        else:
            room.index_copy_(0, there, part)


def _corner(image: Tensor, rows: Tensor | None, size: tuple[int, ...]) -> Tensor:
    return _rows(image[..., : size[0], : size[1]], rows)


def _rows(values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None else values.index_select(0, rows)
