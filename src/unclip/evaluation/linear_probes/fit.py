"""Ridge regression on ratings and logistic regression on pairs, with strength by cross-validation.

Shapes: N images, P pairs, D the embedding. In float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.common.counted import counted
from unclip.common.seeds import require_seed

STRENGTHS = tuple(10.0**k for k in range(-6, 5))  # of the penalty; small ones fit more
FOLDS = 5
_FEW = f"; cross-validation needs {2 * FOLDS} or more"
_NEWTON = 100  # steps at most; a dozen are enough


class Fitted(NamedTuple):
    """A linear score w·z + b."""

    weight: Tensor  # [D], float64
    bias: float
    strength: float  # of the penalty that was chosen
    held_out: float  # ratings: correlation; pairs: share right; of images that were not fitted


def check_ratings(rating: Tensor) -> None:
    """Refuse ratings ``[R]`` that nothing can be fitted to.

    Raises:
        ValueError: fewer than 10, or all equal.
    """
    if len(rating) < 2 * FOLDS:
        raise ValueError(f"{counted(len(rating), 'rating')}{_FEW}")
    if (rating == rating[0]).all():
        raise ValueError("all ratings are equal")


def check_pairs(count: int) -> None:
    """Refuse too few pairs.

    Raises:
        ValueError: fewer than 10.
    """
    if count < 2 * FOLDS:
        raise ValueError(f"{counted(count, 'pair')}{_FEW}")


def fit_ratings(z: Tensor, rating: Tensor, *, image: Tensor | None = None, seed: int = 0) -> Fitted:
    """Least |w·z + b - rating|² / R + strength · |w|², with the strength by cross-validation.

    The folds are of images: several ratings of one image are held out together.

    Args:
        z: Embeddings ``[N, D]``.
        rating: ``[R]``.
        image: ``[R]``, int64, which image of ``z`` each is of; None: R = N, one of each.
        seed: Of the folds.

    Raises:
        ValueError: see `check_ratings`; or fewer than 10 images.
    """
    z, rating = z.double(), rating.double()
    check_ratings(rating)
    if len(z) < 2 * FOLDS:
        raise ValueError(f"{counted(len(z), 'different image')}{_FEW}")
    image = torch.arange(len(z)) if image is None else image
    fold = _folds(len(z), seed)[image]
    z = z[image]
    predicted = torch.empty(len(STRENGTHS), len(z), dtype=torch.float64)
    for number in range(FOLDS):
        out = fold == number
        for row, (w, b) in zip(predicted, _ridge(z[~out], rating[~out], STRENGTHS)):
            row[out] = z[out] @ w + b
    errors = (predicted - rating).square().mean(1)
    best = int(errors.argmin())
    ((weight, bias),) = _ridge(z, rating, (STRENGTHS[best],))
    both = torch.stack([predicted[best], rating])
    together = both.corrcoef()[0, 1].nan_to_num().item()
    return Fitted(weight, bias, STRENGTHS[best], together)


def _ridge(z: Tensor, rating: Tensor, strengths: tuple[float, ...]) -> list[tuple[Tensor, float]]:
    mean, middle = z.mean(0), rating.mean()
    x = z - mean
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    target = vectors.T @ (x.T @ (rating - middle) / len(x))
    found = []
    for strength in strengths:
        w = vectors @ (target / (values.clamp(min=0) + strength))
        found.append((w, (middle - mean @ w).item()))
    return found


def fit_pairs(z: Tensor, first: Tensor, second: Tensor, chosen: Tensor, *, seed: int = 0) -> Fitted:
    """P(first preferred) = σ(w·z_first - w·z_second): logistic, without intercept, with a penalty.

    The folds are of images, not of pairs: a pair is judged by a fit that has seen neither of its
    images, if both are in the fold, or not the one that is.

    Args:
        z: Embeddings ``[N, D]``.
        first: ``[P]``, int64, which image of ``z``.
        second: ``[P]``, int64.
        chosen: ``[P]``, 1 where the first is preferred, 0 where the second is.
        seed: Of the folds.

    Raises:
        ValueError: fewer than 10 pairs, or too few images to hold any out.
    """
    check_pairs(len(first))
    z, chosen = z.double(), chosen.double()
    difference = z[first] - z[second]
    fold = _folds(len(z), seed)
    losses, right = torch.zeros(len(STRENGTHS)).double(), torch.zeros(len(STRENGTHS)).double()
    judged = 0
    for number in range(FOLDS):
        out = (fold[first] == number) | (fold[second] == number)
        if out.all() or not out.any():
            continue
        judged += int(out.sum())
        for k, strength in enumerate(STRENGTHS):
            logit = difference[out] @ _logistic(difference[~out], chosen[~out], strength)
            losses[k] += F.binary_cross_entropy_with_logits(logit, chosen[out], reduction="sum")
            right[k] += ((logit > 0) == (chosen[out] > 0.5)).sum()
    if not judged:
        raise ValueError("every pair shares an image with every other; none can be held out")
    best = int(losses.argmin())
    weight = _logistic(difference, chosen, STRENGTHS[best])
    return Fitted(weight, 0.0, STRENGTHS[best], (right[best] / judged).item())


def _logistic(x: Tensor, chosen: Tensor, strength: float) -> Tensor:
    """Newton's method on the mean loss plus strength/2 · |w|²; halves a step that climbs."""
    w = torch.zeros(x.shape[1], dtype=torch.float64)
    penalty = strength * torch.eye(len(w), dtype=torch.float64)

    def loss(w: Tensor) -> Tensor:
        fit = F.binary_cross_entropy_with_logits(x @ w, chosen)
        return fit + strength / 2 * w.square().sum()

    for _ in range(_NEWTON):
        p = torch.sigmoid(x @ w)
        gradient = x.T @ (p - chosen) / len(x) + strength * w
        hessian = (x * (p * (1 - p))[:, None]).T @ x / len(x) + penalty
        step = torch.linalg.solve(hessian, gradient)
        before = loss(w)
        while loss(w - step) > before and step.norm() > 1e-12:
            step = step / 2
        w = w - step
        if step.norm() <= 1e-10 * (1 + w.norm()):
            break
    return w


def _folds(n: int, seed: int) -> Tensor:
    """Which fold each of ``n`` is in, at random and in equal shares."""
    require_seed(seed, "seed")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order % FOLDS
