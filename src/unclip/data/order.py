"""Which sample comes next: a pure function of seed and position, whoever asks and how often.

An order is an endless stream of draws, epoch after epoch. A global batch is a run of consecutive
positions, of which rank r of w takes r, r + w, ...; so the samples of an optimizer step do not
depend on the number of processes, workers or accumulated batches (docs/adr/0007-order.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from unclip.common.seeding import derive_seed, generator

_MOST_LANES = 64


class Draw(NamedTuple):
    """What a dataset is asked for: sample ``number`` with the randomness of ``epoch``."""

    epoch: int
    number: int


@dataclass(frozen=True)
class Draws:
    """Several draws, kept as two arrays; a loop over them gives each `Draw`."""

    epochs: np.ndarray  # int64 [N]
    numbers: np.ndarray  # int64 [N]

    @classmethod
    def of(cls, epoch: int, numbers: np.ndarray) -> Draws:
        """``numbers`` with the randomness of one epoch."""
        return cls(np.broadcast_to(np.int64(epoch), numbers.shape), numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Draw]:
        return map(Draw, self.epochs.tolist(), self.numbers.tolist())

    def __getitem__(self, part: slice) -> Draws:
        return Draws(self.epochs[part], self.numbers[part])


class Order(ABC):
    """An endless stream of draws, worked out a stretch at a time from the stretch's number alone.

    So it costs no more to start in the middle than at the beginning.
    """

    def __init__(self) -> None:
        nothing = np.empty(0, dtype=np.int64)
        self._held = (0, Draws(nothing, nothing))

    @abstractmethod
    def __len__(self) -> int:
        """Positions of an epoch."""

    @abstractmethod
    def _stretch(self, position: int) -> tuple[int, Draws]:
        """The stretch around ``position``, and the position at which it starts."""

    def draws(self, start: int, stop: int) -> Draws:
        """Those at positions [start, stop), at least one; epoch e starts at ``e * len(self)``."""
        found: list[Draws] = []
        while start < stop:
            first, held = self._held
            if not first <= start < first + len(held):
                first, held = self._held = self._stretch(start)
            found.append(held[start - first : stop - first])
            start += len(found[-1])
        if len(found) == 1:
            return found[0]
        return Draws(
            np.concatenate([draws.epochs for draws in found]),
            np.concatenate([draws.numbers for draws in found]),
        )


class PermutedOrder(Order):
    """A permutation of all samples in each epoch, held in memory whole.

    Args:
        length: Samples.
        seed: Chooses the permutations.
        run: As of `permutation`.
    """

    def __init__(self, length: int, *, seed: int, run: int = 1):
        super().__init__()
        self._length = length
        self._seed = seed
        self._run = run

    def __len__(self) -> int:
        return self._length

    def _stretch(self, position: int) -> tuple[int, Draws]:
        epoch = position // self._length
        numbers = permutation(self._length, seed=self._seed, epoch=epoch, run=self._run)
        return epoch * self._length, Draws.of(epoch, numbers)


def permutation(length: int, *, seed: int, epoch: int, run: int = 1) -> np.ndarray:
    """The order of an epoch's samples, ``int64``: each of [0, length) once.

    Samples k·run to (k + 1)·run stay together, in their order.
    """
    runs = torch.randperm(-(-length // run), generator=generator("order", seed, epoch)).numpy()
    numbers = (runs[:, None] * run + np.arange(run)).ravel()
    return numbers[numbers < length]


class ShardedOrder(Order):
    """Shards in a new order each epoch, and their samples shuffled within windows.

    An epoch's shards are laid end to end and cut into windows, a window into as many contiguous
    pieces as there are lanes, each shuffled in itself. Position p comes from lane p mod lanes: of
    w processes, w dividing the lanes, each reads its own 1/w of every window. At most
    ``lanes - 1`` samples are left out, others in each epoch.

    Args:
        shards: Their lengths, ``int64``.
        window: About how many samples are shuffled together.
        lanes: A divisor of the samples per optimizer step.
        seed: Chooses the order.
    """

    def __init__(self, shards: np.ndarray, *, window: int, lanes: int, seed: int):
        super().__init__()
        self._shards = shards
        self._stops = np.cumsum(shards)
        self._total = int(self._stops[-1])
        self._lanes = lanes
        self._rows = self._total // lanes  # of a position per lane
        self._windows = min(self._rows, max(1, round(self._total / window)))
        self._seed = seed
        # Pieces side by side go to lanes that agree in their last bits: those are of one process.
        pieces = sorted(range(lanes), key=lambda lane: f"{lane:06b}"[::-1])
        self._piece_of_lane = np.argsort(pieces)
        self._layout: _EpochLayout | None = None

    def __len__(self) -> int:
        return self._rows * self._lanes

    def _stretch(self, position: int) -> tuple[int, Draws]:
        epoch, first = divmod(position, len(self))
        # Window i has rows [i · rows / windows, (i + 1) · rows / windows), rounded down.
        window = ((first // self._lanes + 1) * self._windows - 1) // self._rows
        top, bottom = (i * self._rows // self._windows for i in (window, window + 1))
        start, stop = top * self._lanes, bottom * self._lanes
        shuffle = permutations(self._lanes, bottom - top, "window", self._seed, epoch, window)
        pieces = self._numbers(epoch, start, stop).reshape(self._lanes, bottom - top)
        numbers = pieces[self._piece_of_lane[:, None], shuffle]  # [lanes, rows]
        return epoch * len(self) + start, Draws.of(epoch, numbers.T.ravel())

    def _numbers(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """The samples at [start, stop) of the epoch's shards laid end to end."""
        if self._layout is None or self._layout.epoch != epoch:
            order = permutations(1, len(self._shards), "shards", self._seed, epoch)[0]
            # Where the row of shards is cut open, so that windows and what is left out differ too.
            cut = derive_seed("order", "cut", self._seed, epoch) % self._total
            self._layout = _EpochLayout(epoch, order, np.cumsum(self._shards[order]), cut)
        _, order, ends, cut = self._layout
        places = (np.arange(start, stop) + cut) % self._total
        slots = np.searchsorted(ends, places, side="right")
        return self._stops[order[slots]] - (ends[slots] - places)


class _EpochLayout(NamedTuple):
    """An epoch's shards, end to end."""

    epoch: int
    order: np.ndarray  # of the shards
    ends: np.ndarray  # of each in that order
    cut: int  # the place at which the epoch begins


def permutations(count: int, length: int, *seed: int | str) -> np.ndarray:
    """``count`` permutations of [0, length), ``int64 [count, length]``, chosen by ``seed``."""
    # NumPy promises raw Philox numbers for all versions to come, but not its `permutation`.
    raw = np.random.Philox(derive_seed("order", *seed)).random_raw(count * length)
    return raw.reshape(count, length).argsort(axis=1)


def lanes_of(batch_size: int) -> int:
    """Lanes for a global batch: its largest divisor up to 64."""
    return max(lanes for lanes in range(1, _MOST_LANES + 1) if batch_size % lanes == 0)
