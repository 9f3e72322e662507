"""Intervals by resampling images, with the same draws for all sets that are compared.

Sets of samples of the same captions and seeds are paired: row k of each is of the same caption.
Shapes: N generated and M real samples, D features, B draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unclip.common.seeding import derive_seed
from unclip.evaluation.metrics.kernels import CHUNK, cubic

DRAWS = 400
MOST = 5000  # rows of either side that KID is bootstrapped on


class Draws(NamedTuple):
    """How often each sample is in each of B resamples of as many samples."""

    generated: Tensor  # [B, N], float64
    real: Tensor  # [B, M]


def resample(n: int, m: int, *, draws: int = DRAWS, seed: int = 0) -> Draws:
    """Counts of ``n`` generated and ``m`` real samples."""
    counts = []
    for name, size in (("generated", n), ("real", m)):
        rng = torch.Generator().manual_seed(derive_seed("bootstrap", seed, name))
        chosen = torch.randint(size, (draws, size), generator=rng)
        counts.append(torch.zeros(draws, size, dtype=torch.float64))
        counts[-1].scatter_add_(1, chosen, torch.ones(draws, size, dtype=torch.float64))
    return Draws(*counts)


class Resampled(NamedTuple):
    """A measure of all samples, and of each resample."""

    value: float
    draws: Tensor  # [B]

    @property
    def interval(self) -> tuple[float, float]:
        """That holds 95 % of the resamples."""
        low, high = self.draws.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
        return low, high


def mean(values: Tensor, counts: Tensor) -> Resampled:
    """Mean of one value per sample ``[N]``, resampled by ``counts`` ``[B, N]``."""
    values = values.double()
    return Resampled(values.mean().item(), counts @ values / counts.sum(1))


def kid(generated: Tensor, real: Tensor, draws: Draws) -> Resampled:
    """The unbiased MMD² of KID over all rows, and of each resample.

    A sample that a resample holds twice is not compared with itself, which would raise the
    distance of every resample above that of the samples. No N × N values are held.

    Args:
        generated: ``[N, D]``.
        real: ``[M, D]``.
        draws: Of these N and M.
    """
    x, y = generated.double(), real.double()
    ones = Draws(*(torch.ones(1, counts.shape[1]).double() for counts in draws))
    own = [torch.cat(pair) for pair in zip(ones, draws)]  # the first "resample" is the samples
    found = _within(x, own[0]) + _within(y, own[1]) - 2 * _across(x, y, own[0], own[1])
    return Resampled(found[0].item(), found[1:])


def _within(x: Tensor, counts: Tensor) -> Tensor:
    """Mean kernel of two different samples, by their counts ``[B, N]``: ``[B]``."""
    itself = (x.square().sum(1) / x.shape[1] + 1) ** 3
    pairs = counts.sum(1).square() - counts.square().sum(1)
    return (_products(x, x, counts, counts) - counts.square() @ itself) / pairs


def _across(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return _products(x, y, a, b) / (a.sum(1) * b.sum(1))


def _products(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Σ a_i k(x_i, y_j) b_j of each draw, in chunks of rows."""
    chunks = zip(x.split(CHUNK), a.split(CHUNK, dim=1))
    sums = [(some @ cubic(rows, y) * b).sum(1) for rows, some in chunks]
    return torch.stack(sums).sum(0)


def slope(points: Sequence[Resampled], scales: Sequence[float]) -> Resampled:
    """Of the least squares line of a measure over log2 of the guidance scale: per doubling."""
    at = torch.tensor([math.log2(scale) for scale in scales]).double()
    at = at - at.mean()
    weights = at / at.square().sum()
    values = torch.tensor([point.value for point in points]).double()
    draws = torch.stack([point.draws for point in points])
    # The weights sum to 0: what is alike at every scale changes by exactly 0.
    values, draws = values - values[0], draws - draws[0]
    return Resampled((weights @ values).item(), weights @ draws)


def difference(a: Resampled, b: Resampled) -> Resampled:
    """``a`` less ``b``, draw by draw."""
    return Resampled(a.value - b.value, a.draws - b.draws)
