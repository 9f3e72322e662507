"""Precision, recall, density and coverage: who lies in whose neighbourhood, in chunks of rows.

Shapes: N generated and M real samples, D features. Distances are Euclidean, in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1024  # rows of the N x M distances that are held at once


class Neighbours(NamedTuple):
    """How two sets overlap. Each real sample's ball reaches to its k-th real neighbour."""

    precision: float  # share of generated samples in the ball of any real one
    recall: float  # share of real samples in the ball of any generated one
    density: float  # mean number of real balls that a generated sample lies in, over k
    coverage: float  # share of real samples with a generated one in their ball


class Overlap(NamedTuple):
    """The same, sample by sample."""

    precise: Tensor  # [N], whether a generated sample is in the ball of any real one
    recalled: Tensor  # [M], whether a real sample is in the ball of any generated one
    density: float
    covered: Tensor  # [M], whether a real sample has a generated one in its ball


def neighbours(generated: Tensor, real: Tensor, *, k: int = 3) -> Neighbours:
    """The shares of `overlap`."""
    found = overlap(generated, real, k=k)
    return Neighbours(
        precision=found.precise.double().mean().item(),
        recall=found.recalled.double().mean().item(),
        density=found.density,
        coverage=found.covered.double().mean().item(),
    )


def overlap(generated: Tensor, real: Tensor, *, k: int = 3) -> Overlap:
    """Precision and recall (arXiv 1904.06991, eq. 1), density and coverage (arXiv 2002.09797).

    A sample is not its own neighbour. As in those papers' code, a ball holds its border for
    precision and recall, and not for density and coverage; this matters only to samples that are
    equal.

    Args:
        generated: ``[N, D]``.
        real: ``[M, D]``.
        k: 3 in the first paper, 5 in the second.

    Raises:
        ValueError: a set has no k-th neighbour, or another D.
    """
    if generated.shape[1] != real.shape[1]:
        raise ValueError(f"{generated.shape[1]} features and {real.shape[1]} cannot be compared")
    if min(len(generated), len(real)) <= k:
        raise ValueError(f"k={k} neighbours need {k + 1} samples or more a side")
    centre = real.double().mean(0)  # short vectors lose fewer digits
    x, y = generated.double() - centre, real.double() - centre
    of_x, of_y = _radii(x, k), _radii(y, k)
    recalled = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    covered = torch.zeros_like(recalled)
    precise, inside = [], 0.0
    for some, radii in zip(x.split(CHUNK), of_x.split(CHUNK)):
        distance = _squared(some, y)
        precise.append((distance <= of_y).any(1))
        inside += (distance < of_y).sum().item()
        recalled |= (distance <= radii[:, None]).any(0)
        covered |= (distance < of_y).any(0)
    return Overlap(torch.cat(precise), recalled, inside / (k * len(x)), covered)


def _squared(x: Tensor, y: Tensor) -> Tensor:
    squared = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
    return squared.clamp(min=0)


def _radii(x: Tensor, k: int) -> Tensor:
    """Squared distance of each row of ``x`` to its k-th neighbour. ``[N]``"""
    found = []
    for first in range(0, len(x), CHUNK):
        distance = _squared(x[first : first + CHUNK], x)
        distance.diagonal(first).fill_(torch.inf)
        found.append(distance.kthvalue(k, dim=1).values)
    return torch.cat(found)
