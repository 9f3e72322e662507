"""Maximum mean discrepancies of two sets of features: KID and CMMD. In float64, in chunks of rows.

Shapes: N and M samples, D features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CHUNK = 1024  # rows of the kernel's matrix that are held at once
BLOCK = 1000  # samples a block of KID
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0


def kid(generated: Tensor, real: Tensor, *, block: int = BLOCK) -> list[float]:
    """KID of each block: the unbiased MMD² with k(x, y) = (x·y / D + 1)³ (arXiv 1801.01401).

    Its mean is unbiased whatever N; it can be below 0. With fewer than ``block`` samples on one
    side there is one block, of as many as there are.

    Args:
        generated: ``[N, D]`` in random order; ``block`` after ``block`` is compared.
        real: ``[M, D]`` in random order.
        block: Samples of each side in a block.

    Raises:
        ValueError: fewer than 2 samples, or another D.
    """
    least = _checked(generated, real)
    block = min(block, least)
    return [
        _unbiased(generated[first : first + block].double(), real[first : first + block].double())
        for first in range(0, least - block + 1, block)
    ]


def kid_of_pairs(generated: Tensor, real: Tensor) -> Tensor:
    """What each pair of a generated and a real sample adds to KID: ``[N]``, whose mean is KID.

    The pseudo-values of the jackknife that leaves a pair out (Efron and Tibshirani, An Introduction
    to the Bootstrap, section 11.5): KID and the difference of two KIDs are as sure as their mean. A
    pair has one caption, so that its two samples, which are not independent, are not compared.

    Args:
        generated: ``[N, D]``.
        real: ``[N, D]``, row k of the caption of row k.

    Raises:
        ValueError: fewer than 3 pairs, or not pairs.
    """
    if generated.shape != real.shape or len(real) < 3:
        raise ValueError(f"{list(generated.shape)} and {list(real.shape)}: needs 3 pairs or more")
    x, y, n = generated.double(), real.double(), len(real)
    across = cubic(x, y)
    h = (cubic(x, x) + cubic(y, y) - across - across.T).fill_diagonal_(0).sum(1) / (n - 1)
    return (2 * (n - 1) * h - n * h.mean()) / (n - 2)


def cubic(x: Tensor, y: Tensor) -> Tensor:
    """KID's kernel of each pair ``[N, M]``."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def _unbiased(x: Tensor, y: Tensor) -> float:
    n, m = len(x), len(y)
    within_x = _total(cubic, x, x) - ((x.square().sum(1) / x.shape[1] + 1) ** 3).sum()
    within_y = _total(cubic, y, y) - ((y.square().sum(1) / y.shape[1] + 1) ** 3).sum()
    across = _total(cubic, x, y)
    return (within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / (n * m)).item()


def cmmd(generated: Tensor, real: Tensor) -> float:
    """CMMD (arXiv 2401.09603): 1,000 times the biased MMD² with exp(-|x - y|² / (2 · 10²)).

    Args:
        generated: Unit CLIP embeddings ``[N, D]``.
        real: Unit CLIP embeddings ``[M, D]``.

    Raises:
        ValueError: fewer than 2 samples, or another D.
    """
    _checked(generated, real)
    x, y = generated.double(), real.double()
    n, m = len(x), len(y)
    within = _total(_gaussian, x, x) / n**2 + _total(_gaussian, y, y) / m**2
    return (CMMD_SCALE * (within - 2 * _total(_gaussian, x, y) / (n * m))).item()


def _gaussian(x: Tensor, y: Tensor) -> Tensor:
    squared = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
    return torch.exp(-squared / (2 * CMMD_SIGMA**2))


def _total(kernel: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([kernel(some, y).sum() for some in x.split(CHUNK)]).sum()


def _checked(x: Tensor, y: Tensor) -> int:
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{x.shape[1]} features and {y.shape[1]} cannot be compared")
    least = min(len(x), len(y))
    if least < 2:
        raise ValueError(f"needs 2 samples or more a side, not {least}")
    return least
