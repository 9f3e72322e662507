"""How sure a Fréchet distance is: a jackknife, since no bootstrap fits it.

A resample with replacement has fewer different samples, and FD measures their number too. Leaving
a tenth out changes N by little, and FD's bias of order 1/N is the same whichever tenth it is.
Shapes: N samples, D features, R directions in which the other set varies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unclip.evaluation.metrics.gaussians import Gaussian, root

GROUPS = 10
LEAST = 2 * GROUPS
"""Samples below which there is no standard error."""

T95 = 2.2621571628  # Student's, of GROUPS - 1 degrees of freedom, 95 % two-sided


def frechet_error(rows: Tensor, other: Gaussian) -> float:
    """Standard error of the Fréchet distance to ``other`` from the choice of ``rows``.

    The delete-a-group jackknife, sqrt((G - 1)/G Σ (FD_g - mean)²), FD_g without every G-th row
    (Efron and Tibshirani, An Introduction to the Bootstrap, sections 11.3 and 11.5).

    Args:
        rows: ``[N, D]``, in random order, at least `LEAST`.
        other: Taken as known.
    """
    factor = root(other)  # R_b [R, D]; tr (C_a C_b)^½ is the sum of the roots of R_b C_a R_bᵀ's
    mean, groups = rows.double().mean(0), []
    for group in range(GROUPS):
        x = rows[group::GROUPS].double() - mean
        seen = x @ factor.T
        groups.append((len(x), x.sum(0), x.square().sum(), seen.T @ seen))
    squares, seconds = (sum(group[k] for group in groups) for k in (2, 3))
    distances = []
    for n, of_x, of_squares, of_seen in groups:
        left = len(rows) - n
        moved = -of_x / left
        across = factor @ moved
        seen = (seconds - of_seen - left * torch.outer(across, across)) / (left - 1)
        trace = (squares - of_squares - left * moved.square().sum()) / (left - 1)
        shared = torch.linalg.eigvalsh(seen).clamp(min=0).sqrt().sum()
        between = (mean + moved - other.mean).square().sum()
        distances.append(between + trace + other.covariance.trace() - 2 * shared)
    each = torch.stack(distances)
    return ((GROUPS - 1) / GROUPS * (each - each.mean()).square().sum()).sqrt().item()
