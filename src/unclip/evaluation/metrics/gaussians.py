"""Fréchet distances of Gaussians fitted to features: FID, its value for endless samples, Vendi.

Shapes: N samples, D features. All of it in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.embeddings.moments import Moments

POINTS = 15  # sample sizes that the line of FD∞ is drawn through (arXiv 1911.07023, section 4)


class Gaussian(NamedTuple):
    """What a Fréchet distance needs to know of a set of features."""

    n: int | None  # samples; None where statistics of others do not tell
    mean: Tensor  # [D], float64
    covariance: Tensor  # [D, D], float64, divided by N - 1


def gaussian(moments: Moments) -> Gaussian:
    """The Gaussian of all samples in ``moments``.

    Raises:
        ValueError: fewer than 2 samples.
    """
    if moments.count < 2:
        raise ValueError(f"a covariance needs 2 samples or more, not {moments.count}")
    unbiased = moments.covariance * (moments.count / (moments.count - 1))
    return Gaussian(moments.count, moments.mean, unbiased)


def frechet(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|² + tr(C_a + C_b - 2 (C_a C_b)^½) (Dowson and Landau, 1982; arXiv 1706.08500).

    With C = RᵀR the trace of the root is the sum of the singular values of R_a R_bᵀ, so no root is
    taken of a product that may be singular. FID is this of Inception features.

    Raises:
        ValueError: the two have another D.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"{len(a.mean)} features and {len(b.mean)} cannot be compared")
    return _distance(a, b, root(b))


def _distance(a: Gaussian, b: Gaussian, root_b: Tensor) -> float:
    shared = torch.linalg.svdvals(root(a) @ root_b.T).sum()
    between = (a.mean - b.mean).square().sum()
    distance = between + a.covariance.trace() + b.covariance.trace() - 2 * shared
    return max(distance.item(), 0.0)


def root(g: Gaussian) -> Tensor:
    """R ``[rank, D]`` with RᵀR the covariance; directions of rounding errors are left out."""
    values, vectors = torch.linalg.eigh((g.covariance + g.covariance.T) / 2)
    scale = values[-1] + g.mean.square().sum()  # what the sums were rounded at
    kept = values > len(values) * torch.finfo(torch.float64).eps * scale
    return (vectors[:, kept] * values[kept].sqrt()).T


def frechet_infinity(rows: Tensor, reference: Gaussian) -> float:
    """FD∞ (Chong and Forsyth, arXiv 1911.07023): FD at several N, a line in 1/N, its value at 0.

    The N are evenly spaced from a tenth of the samples to all of them; the line is the least
    squares one.

    Args:
        rows: Features ``[N, D]`` in random order: the first few are a sample of all.
        reference: Of the real images, all of them at each N.

    Raises:
        ValueError: fewer than 20 samples.
    """
    if len(rows) < 20:
        raise ValueError(f"FD at several N needs 20 samples or more, not {len(rows)}")
    sizes = sorted({round(s) for s in np.linspace(len(rows) / 10, len(rows), POINTS)})
    if rows.shape[1:] != reference.mean.shape:
        raise ValueError(f"{rows.shape[1]} features, the reference has {len(reference.mean)}")
    moments, factor, distances = Moments(rows.shape[1]), root(reference), []
    for before, size in zip([0, *sizes], sizes):
        moments.update(rows[before:size])
        distances.append(_distance(gaussian(moments), reference, factor))
    return float(np.polyfit(1 / np.array(sizes), np.array(distances), 1)[1])


class UnitMoments(Moments):
    """Moments of features scaled to unit length."""

    def update(self, z: Tensor) -> None:
        """Add ``z`` ``[B, D]``."""
        super().update(F.normalize(z.double(), dim=1))


def vendi(unit: UnitMoments) -> float:
    """exp(-Σ λ log λ), λ the eigenvalues of K/n (Friedman and Dieng, arXiv 2210.02410).

    K is the cosine of each pair; its N x N values are never made, because K/n has the same
    eigenvalues but 0 as the second moment of the unit features. 1 where all samples are alike, at
    most min(N, D).

    Raises:
        ValueError: no samples.
    """
    if not unit.count:
        raise ValueError("no samples")
    return _effective_count(unit.second / unit.count)


def vendi_of_few(rows: Tensor) -> float:
    """The same of features ``[N, D]`` by the N x N cosines."""
    unit = F.normalize(rows.double(), dim=1)
    return _effective_count(unit @ unit.T / len(rows))


def _effective_count(matrix: Tensor) -> float:
    values = torch.linalg.eigvalsh(matrix).clamp(min=0)
    return torch.exp(torch.special.entr(values).sum()).item()
