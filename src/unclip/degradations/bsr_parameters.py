"""What happens to each sample under BSR degradation, drawn from one block of uniform numbers.

Zhang, Liang, Van Gool and Timofte, arXiv 2103.14006 (BSRGAN); the light variant is that of Rombach
et al., arXiv 2112.10752. docs/degradations.md has the table, and our readings of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unclip.degradations.resize import AREA, BILINEAR, GAUSSIAN, NAMES

SLOTS = 7
# The definition's operations 0 to 6; the last is a camera's processing, of which there is no model
# here nor there: it only takes up a place in the order.
BLUR, SECOND_BLUR, REDUCE, RESIZE, NOISE, JPEG, CAMERA = range(SLOTS)
GREY, CORRELATED, COLOUR = range(3)  # kinds of noise
UNIFORMS = 40  # numbers per sample that `draw_parameters` reads


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The ranges of a variant. (A `range` stops before its second number.)"""

    blurs: int  # 2, or 1: then the slot of the second stays in the order, and does nothing
    spread: float  # factor of the full variant's blur widths
    anisotropic_sizes: range  # pixels
    isotropic_sizes: range
    interpolated: float  # probability that op 2 interpolates
    noise_levels: range  # of 255
    qualities: range  # of JPEG


FULL = Variant(
    blurs=2,
    spread=1.0,
    anisotropic_sizes=range(7, 26, 2),
    isotropic_sizes=range(7, 26, 2),
    interpolated=0.75,
    noise_levels=range(2, 26),
    qualities=range(30, 96),
)
LIGHT = Variant(
    blurs=1,
    spread=0.25,
    anisotropic_sizes=range(5, 15),
    isotropic_sizes=range(5, 8),
    interpolated=0.8,
    noise_levels=range(1, 3),
    qualities=range(80, 96),
)
VARIANTS = {"bsr": FULL, "bsr_light": LIGHT}


class BsrParameters(NamedTuple):
    """One row per sample, on the CPU; integers are int64, other numbers float64."""

    halved: Tensor  # [B] bool: to half its size first
    halving: Tensor  # [B] with this interpolation
    order: Tensor  # [B, 7] the operations, first to last
    blurred_twice: Tensor  # [B] bool
    blur_variance: Tensor  # [B, 2, 2] along both axes, pixels^2
    blur_angle: Tensor  # [B, 2] radians
    blur_size: Tensor  # [B, 2] pixels
    reduction: Tensor  # [B] op 2: the factor,
    reducing: Tensor  # [B] the interpolation, or GAUSSIAN,
    reduction_sigma: Tensor  # [B] and the Gaussian's width, pixels
    resizing: Tensor  # [B] op 3: the interpolation
    noise_kind: Tensor  # [B]
    noise_level: Tensor  # [B] of 255
    noise_mix: Tensor  # [B, 3, 3] from independent unit noise to the channels' noise at level 1
    compressed: Tensor  # [B] bool: op 5
    quality: Tensor  # [B] of op 5
    final_quality: Tensor  # [B]

    def rows(self, index: list[int] | slice) -> BsrParameters:
        """Those of the samples at ``index``."""
        return BsrParameters(*(values[index] for values in self))


def _choose(u: np.ndarray, values: range) -> np.ndarray:
    """Each of ``values`` with equal probability."""
    return values.start + values.step * (u * len(values)).astype(np.int64)


def _order(u: np.ndarray) -> np.ndarray:
    """Random orders ``[B, 7]``; where op 3 came before op 2, the two have changed places."""
    order = u.argsort(axis=1, kind="stable")
    place = order.argsort(axis=1)
    rows = np.flatnonzero(place[:, REDUCE] > place[:, RESIZE])
    order[rows, place[rows, REDUCE]], order[rows, place[rows, RESIZE]] = RESIZE, REDUCE
    return order


def _noise_mix(kind: np.ndarray, shares: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """``[B, 3, 3]``: of grey noise, of noise of each channel its own, and of correlated noise.

    The latter's covariance is U^T D U with every entry made positive, D diagonal with ``shares``
    ``[B, 3]``, U orthonormal from ``vectors`` ``[B, 3, 3]``. At size 3 that leaves it positive
    semidefinite; the small diagonal keeps rounding from undoing it.
    """
    eye, grey = np.eye(3), np.array([[1.0, 0, 0]] * 3)
    mix = np.where((kind == GREY)[:, None, None], grey, eye)
    rows = np.flatnonzero(kind == CORRELATED)
    if len(rows):
        u = np.linalg.qr(vectors[rows]).Q
        covariance = np.abs(u.swapaxes(1, 2) @ (shares[rows, :, None] * u))
        mix[rows] = np.linalg.cholesky(covariance + 1e-9 * eye)
    return mix


def draw_parameters(uniforms: Tensor, *, scale: int, variant: Variant) -> BsrParameters:
    """Parameters of B samples from ``uniforms`` ``[B, 40]`` in [0, 1), on the CPU.

    Every sample uses its own row, and every number has its own column, so that neither the batch
    nor what else was drawn matters. Numbers that are used only one without the other share one.
    (In NumPy, which takes a fraction of PyTorch's time for so many small steps.)

    Args:
        uniforms: The only source of chance, on the CPU: reading them back would make a GPU wait.
        scale: High-resolution over low-resolution side. It may be halved first if it is
            even and above 2; the widths and factors are then those of the scale that remains.
        variant: `FULL` or `LIGHT`.
    """
    if uniforms.shape[1:] != (UNIFORMS,):
        raise ValueError(f"uniforms of shape {tuple(uniforms.shape)}, not [B, {UNIFORMS}]")
    columns = uniforms.double().numpy()
    order, blur, shares, vectors = (
        columns[:, start:stop] for start, stop in pairwise((11, 18, 28, 31, UNIFORMS))
    )
    half, halving, interpolated, factor, reducing, resizing, *single = columns[:, :11].T
    noise_kind, noise_level, compressed, quality, final_quality = single

    halved = (half < 0.25) & (scale % 2 == 0 and scale > 2)
    rest = np.where(halved, scale / 2, scale)

    blur = blur.reshape(-1, 2, 5)
    (shape, first, _, angle, size), axes = blur.transpose(2, 0, 1), blur[..., 1:3]  # [B, 2] each
    sigma = (2 + 0.2 * rest)[:, None] * first
    isotropic = (variant.spread * sigma[..., None]) ** 2
    anisotropic = variant.spread * (4 + rest)[:, None, None] * axes
    chosen_size = np.where(
        shape < 0.5,
        _choose(size, variant.anisotropic_sizes),
        _choose(size, variant.isotropic_sizes),
    )

    by_interpolation = interpolated < variant.interpolated
    interpolations = range(BILINEAR, AREA + 1)
    kind = np.where(noise_kind < 0.4, GREY, np.where(noise_kind < 0.6, CORRELATED, COLOUR))
    drawn = dict(
        halved=halved,
        halving=_choose(halving, interpolations),
        order=_order(order),
        blurred_twice=np.full_like(halved, variant.blurs == 2),
        blur_variance=np.where((shape < 0.5)[..., None], anisotropic, isotropic),
        blur_angle=math.pi * angle,
        blur_size=chosen_size,
        reduction=np.where(by_interpolation, 1 + (2 * rest - 1) * factor, rest),
        reducing=np.where(by_interpolation, _choose(reducing, interpolations), GAUSSIAN),
        reduction_sigma=0.1 + (0.6 * rest - 0.1) * factor,
        resizing=_choose(resizing, interpolations),
        noise_kind=kind,
        noise_level=_choose(noise_level, variant.noise_levels),
        noise_mix=_noise_mix(kind, shares, vectors.reshape(-1, 3, 3)),
        compressed=compressed < 0.9,
        quality=_choose(quality, variant.qualities),
        final_quality=_choose(final_quality, variant.qualities),
    )
    return BsrParameters(**{name: torch.from_numpy(values) for name, values in drawn.items()})


def describe(p: BsrParameters, sample: int) -> str:
    """What happens to a sample: ``blur 1.2, 1/2.7 area, noise 14, size cubic, JPEG 62``."""
    p = p.rows([sample])
    blurs = (BLUR, SECOND_BLUR) if p.blurred_twice else (BLUR,)
    said = ["half"] if p.halved else []
    for op in p.order[0].tolist():
        if op in blurs:
            axes = p.blur_variance[0, op].sqrt().unique().tolist()
            said.append("blur " + "x".join(f"{axis:.1f}" for axis in axes))
        elif op == REDUCE:
            said.append(f"1/{p.reduction.item():.1f} {NAMES[int(p.reducing)]}")
        elif op == RESIZE:
            said.append(f"size {NAMES[int(p.resizing)]}")
        elif op == NOISE:
            said.append(f"{('grey ', '', 'RGB ')[int(p.noise_kind)]}noise {int(p.noise_level)}")
        elif op == JPEG and p.compressed:
            said.append(f"JPEG {int(p.quality)}")
    return ", ".join([*said, f"JPEG {int(p.final_quality)}"])
