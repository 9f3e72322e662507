"""How well a prior's samples stand for image embeddings: by pair, by rank, as a distribution.

Shapes: N samples, D dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.common.devices import widened

CHUNK = 512  # rows of the N x N similarities that are held at once
TIE = 1e-6  # similarities closer than this, float32's precision, are equal


class PriorMetrics(NamedTuple):
    """Of N sampled embeddings ẑ, each for one pair of z_i and z_t."""

    cosine: float  # mean of ẑ·z_i
    cosine_z_t: float  # mean of ẑ·z_t
    true_cosine_z_t: float  # mean of z_i·z_t, what cosine_z_t should be
    retrieval_rank: float  # mean rank of the true z_i by similarity to ẑ: 1 to N, a tie counts half
    retrieval_top1: float  # share of samples whose true z_i is first, and alone
    frechet: float  # of the distributions of ẑ and z_i, see `frechet_distance`
    variance_kept: float  # tr Cov(ẑ) / tr Cov(z_i): below 1, samples vary less than images
    n: int


def prior_metrics(sampled: Tensor, z_i: Tensor, z_t: Tensor) -> PriorMetrics:
    """Compare ``sampled`` ``[N, D]`` with the ``z_i`` and ``z_t`` ``[N, D]`` of the same pairs.

    Cosines and ranks are of directions, whatever the lengths; the distributions are compared as
    they are given. Similarities are made in chunks: N² is never held.

    Raises:
        ValueError: shapes that differ or are not ``[N, D]``, N below 2, values that are not finite.
    """
    _require_samples(sampled=sampled, z_i=z_i, z_t=z_t)
    if not sampled.shape == z_i.shape == z_t.shape:
        raise ValueError(
            f"shapes differ: sampled {tuple(sampled.shape)}, z_i {tuple(z_i.shape)},"
            f" z_t {tuple(z_t.shape)}"
        )
    z, image, text = (F.normalize(each.float(), dim=1) for each in (sampled, z_i, z_t))
    with torch.autocast(z.device.type, enabled=False):  # it would rank bfloat16 similarities
        rank = _ranks(z, image)
    return PriorMetrics(
        cosine=_mean_dot(z, image),
        cosine_z_t=_mean_dot(z, text),
        true_cosine_z_t=_mean_dot(image, text),
        retrieval_rank=rank.mean().item(),
        retrieval_top1=widened(rank == 1).mean().item(),
        frechet=frechet_distance(sampled, z_i),
        variance_kept=(_total_variance(sampled) / _total_variance(z_i)).item(),
        n=len(sampled),
    )


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|m_a - m_b|² + tr(C_a + C_b - 2 (C_a C_b)^½) of the Gaussians fitted to two sets of samples.

    Dowson and Landau, 1982; FID (arXiv 1706.08500) is this of Inception features. With C = RᵀR,
    where R is a QR factor of the centred samples, tr (C_a C_b)^½ = tr (R_a C_b R_aᵀ)^½ is the sum
    of the singular values of R_a R_bᵀ. No root is taken of a covariance, which may be singular.

    Args:
        a: Samples ``[N, D]``; computed in float64.
        b: Samples ``[M, D]``.

    Raises:
        ValueError: not two-dimensional, another D, fewer than 2 samples, values not finite.
    """
    _require_samples(a=a, b=b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a has {a.shape[1]} dimensions, b {b.shape[1]}")
    a, b = widened(a), widened(b)
    between = (a.mean(0) - b.mean(0)).square().sum()
    r_a, r_b = _root_of_covariance(a), _root_of_covariance(b)
    shared = torch.linalg.svdvals(r_a @ r_b.T).sum()
    distance = between + r_a.square().sum() + r_b.square().sum() - 2 * shared
    return max(distance.item(), 0.0)


def _root_of_covariance(x: Tensor) -> Tensor:
    """R ``[min(N, D), D]`` with RᵀR the unbiased covariance of ``x`` ``[N, D]``."""
    return torch.linalg.qr(x - x.mean(0), mode="r").R / (len(x) - 1) ** 0.5


def _total_variance(x: Tensor) -> Tensor:
    return widened(x).var(dim=0).sum()


def _mean_dot(a: Tensor, b: Tensor) -> float:
    return widened((a * b).sum(1)).mean().item()


def _ranks(z: Tensor, image: Tensor) -> Tensor:
    """1 + how many images are nearer to each sample than its own; a tie counts half. ``[N]``."""
    ranks = []
    for first in range(0, len(z), CHUNK):
        similarity = z[first : first + CHUNK] @ image.T
        own = similarity.diagonal(first)[:, None]
        nearer = (similarity > own + TIE).sum(1)
        tied = ((similarity - own).abs() <= TIE).sum(1) - 1  # but itself
        ranks.append(1 + nearer + 0.5 * tied)
    return widened(torch.cat(ranks))


def _require_samples(**sets: Tensor) -> None:
    for name, x in sets.items():
        if x.ndim != 2 or len(x) < 2:
            raise ValueError(f"{name} is {tuple(x.shape)}, not [N, D] with N of 2 or more")
        if not x.isfinite().all():
            raise ValueError(f"{name} has values that are not finite")
