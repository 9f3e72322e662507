"""Mixtures of sources in given shares, and which order a source is trained in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from unclip.common.errors import UserError
from unclip.common.seeding import derive_seed
from unclip.data.order import Draws, Order, PermutedOrder, ShardedOrder, lanes_of, permutations

_BLOCK = 4096  # positions over which the shares of a mixture come out right; more for rare sources
_RAREST = 4096  # a source has at least one in so many samples of a mixture


class MixtureOrder(Order):
    """Samples of several orders in given shares; each source has epochs of its own.

    An epoch of the mixture is as long as those of its sources together.

    In a block of some thousand positions each source has its share, up to the rounding of the
    shares of all blocks before it. Every lane shuffles the sources for itself, and its draws of a
    source are those of that lane in the source's own order.

    Args:
        orders: One per source; their samples are numbered one source after the other.
        lengths: Samples of each source.
        weights: Shares of the sources, up to a common factor.
        batch_size: Samples per optimizer step.
        seed: Chooses the pattern.

    Raises:
        UserError: A source has less than a 4096th of the mixture.
    """

    def __init__(
        self,
        orders: Sequence[Order],
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
                f"data.mixture: source {shares.index(rarest) + 1} of {len(shares)} has "
                f"{float(rarest):.2g} of the weight; give it at least 1/{_RAREST} or leave it out"
            )
        self._orders = orders
        self._starts = list(itertools.accumulate(lengths, initial=0))
        self._length = self._starts[-1] // batch_size * batch_size
        self._bounds = list(itertools.accumulate(shares, initial=Fraction(0)))
        self._lanes = lanes_of(batch_size)
        # Two rows of the rarest source or more: with less, rounding could make a share negative.
        self._rows = max(_BLOCK // self._lanes, math.ceil(2 / rarest))
        self._seed = seed

    def __len__(self) -> int:
        return self._length

    def _stretch(self, position: int) -> tuple[int, Draws]:
        lanes, block = self._lanes, position // (self._rows * self._lanes)
        before, after = self._rows_until(block), self._rows_until(block + 1)
        pattern = np.repeat(np.arange(len(self._orders)), np.subtract(after, before))
        source_at = pattern[permutations(lanes, self._rows, "mixture", self._seed, block)]
        epochs, numbers = np.empty_like(source_at), np.empty_like(source_at)  # [lanes, rows]
        for number, order in enumerate(self._orders):
            draws = order.draws(before[number] * lanes, after[number] * lanes)
            here = source_at == number
            epochs[here] = draws.epochs.reshape(-1, lanes).T.ravel()
            numbers[here] = draws.numbers.reshape(-1, lanes).T.ravel() + self._starts[number]
        return block * self._rows * lanes, Draws(epochs.T.ravel(), numbers.T.ravel())

    def _rows_until(self, block: int) -> list[int]:
        """Rows of each source in all blocks before ``block``."""
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
        lengths: Samples of each source of a mixture, or of the one source.
        shards: As of `Source.shards`, those of all sources in a row.
        weights: Shares of a mixture's sources; None where there is no mixture.
        batch_size: Samples per optimizer step, over all processes and accumulated batches.
        window: Up to so many samples, or those of a single shard, have one permutation; of more,
            the shards are permuted, and the samples in windows of about that size.
        seed: Chooses the order.
        run: As of `permutation`; shards are not kept in runs.

    Raises:
        UserError: There are too few samples for a batch, or in a source of a mixture.
    """
    total = sum(lengths)
    if total < batch_size:
        raise UserError(
            f"data.batch_size: {batch_size} is more than the {total} training samples; "
            f"use at most {total}"
        )

    def of_source(length: int, shards: np.ndarray | None, seed: int) -> Order:
        if shards is None or len(shards) == 1 or length <= max(window, batch_size):
            return PermutedOrder(length, seed=seed, run=run)
        return ShardedOrder(shards, window=window, lanes=lanes_of(batch_size), seed=seed)

    if weights is None:
        return of_source(total, shards, seed)
    if 0 in lengths:
        raise UserError(
            f"data.mixture: source {lengths.index(0) + 1} has no training samples; leave it out"
        )
    each: Sequence[np.ndarray | None] = [None] * len(lengths)
    if shards is not None:
        ends = np.searchsorted(np.cumsum(shards), np.cumsum(lengths)[:-1], side="right")
        each = np.split(shards, ends)
    seeds = (derive_seed("part", seed, number) for number in range(len(lengths)))
    return MixtureOrder(
        list(map(of_source, lengths, each, seeds)),
        lengths=lengths,
        weights=weights,
        batch_size=batch_size,
        seed=seed,
    )
