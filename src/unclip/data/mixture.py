"""Mixtures of sources in given shares, and which order a source is trained in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from unclip.common.errors import UserError
from unclip.common.seeding import derive_seed
from unclip.data.order import Draws, Order, PermutedOrder, ShardedOrder, lanes_of, shuffled

_BLOCK = 4096  # positions over which the shares of a mixture come out right; more for rare parts
_RAREST = 4096  # a part has at least one in so many samples of a mixture


class MixtureOrder(Order):
    """Samples of several orders in given shares; each part has epochs of its own.

    An epoch of the mixture is as long as those of its parts together.

    In a block of some thousand positions each part has its share, up to the rounding of the shares
    of all blocks before it. Every lane shuffles the parts for itself, and its draws of a part are
    those of that lane in the part's own order.

    Args:
        parts: An order each; their samples are numbered one part after the other.
        lengths: Samples of each part.
        weights: Shares of the parts, up to a common factor.
        batch_size: Samples per optimizer step.
        seed: Chooses the pattern.

    Raises:
        UserError: A part has less than a 4096th of the mixture.
    """

    def __init__(
        self,
        parts: Sequence[Order],
        *,
        lengths: Sequence[int],
        weights: Sequence[float],
        batch_size: int,
        seed: int,
    ):
        super().__init__()
        total = sum(map(Fraction, weights))
        shares = [Fraction(weight) / total for weight in weights]
        rarest = min(shares)
        if rarest * _RAREST < 1:
            raise UserError(
                f"data.mixture: part {shares.index(rarest) + 1} of {len(shares)} has "
                f"{float(rarest):.2g} of the weight; give it at least 1/{_RAREST} or leave it out"
            )
        self._parts = parts
        self._starts = list(itertools.accumulate(lengths, initial=0))
        self._length = self._starts[-1] // batch_size * batch_size
        self._bounds = list(itertools.accumulate(shares, initial=Fraction(0)))
        self._lanes = lanes_of(batch_size)
        # Two rows of the rarest part or more: with less, rounding could make a share negative.
        self._rows = max(_BLOCK // self._lanes, math.ceil(2 / rarest))
        self._seed = seed

    def __len__(self) -> int:
        return self._length

    def _stretch(self, position: int) -> tuple[int, Draws]:
        lanes, block = self._lanes, position // (self._rows * self._lanes)
        before, after = self._rows_until(block), self._rows_until(block + 1)
        pattern = np.repeat(np.arange(len(self._parts)), np.subtract(after, before))
        part_at = pattern[shuffled(lanes, self._rows, "mixture", self._seed, block)]
        epochs, numbers = np.empty_like(part_at), np.empty_like(part_at)  # [lanes, rows]
        for part, order in enumerate(self._parts):
            draws = order.draws(before[part] * lanes, after[part] * lanes)
            here = part_at == part
            epochs[here] = draws.epochs.reshape(-1, lanes).T.ravel()
            numbers[here] = draws.numbers.reshape(-1, lanes).T.ravel() + self._starts[part]
        return block * self._rows * lanes, Draws(epochs.T.ravel(), numbers.T.ravel())

    def _rows_until(self, block: int) -> list[int]:
        """Rows of each part in all blocks before ``block``."""
        bounds = [int(block * self._rows * bound) for bound in self._bounds]
        return [stop - start for start, stop in itertools.pairwise(bounds)]


def order_of(
    lengths: Sequence[int],
    shards: np.ndarray | None,
    *,
    weights: Sequence[float] | None = None,
    batch_size: int,
    window: int,
    seed: int,
    run: int = 1,
) -> Order:
    """The order in which a source is trained.

    Args:
        lengths: Samples of each part of a mixture, or of the one source.
        shards: As of `Source.shards`, those of all parts in a row.
        weights: Shares of a mixture's parts; None where there is no mixture.
        batch_size: Samples per optimizer step, over all processes and accumulated batches.
        window: Up to so many samples, or those of a single shard, have one permutation; of more,
            the shards are permuted, and the samples in windows of about that size.
        seed: Chooses the order.
        run: As of `permutation`; shards are not kept in runs.

    Raises:
        UserError: There are too few samples for a batch, or in a part of a mixture.
    """
    total = sum(lengths)
    if total < batch_size:
        raise UserError(
            f"data.batch_size: {batch_size} is more than the {total} training samples; "
            f"use at most {total}"
        )

    def of_part(length: int, shards: np.ndarray | None, seed: int) -> Order:
        if shards is None or len(shards) == 1 or length <= max(window, batch_size):
            return PermutedOrder(length, seed=seed, run=run)
        return ShardedOrder(shards, window=window, lanes=lanes_of(batch_size), seed=seed)

    if weights is None:
        return of_part(total, shards, seed)
    if 0 in lengths:
        part = lengths.index(0) + 1
        raise UserError(f"data.mixture: part {part} has no training samples; leave it out")
    each: Sequence[np.ndarray | None] = [None] * len(lengths)
    if shards is not None:
        ends = np.searchsorted(np.cumsum(shards), np.cumsum(lengths)[:-1], side="right")
        each = np.split(shards, ends)
    seeds = (derive_seed("part", seed, part) for part in range(len(lengths)))
    return MixtureOrder(
        list(map(of_part, lengths, each, seeds)),
        lengths=lengths,
        weights=weights,
        batch_size=batch_size,
        seed=seed,
    )
