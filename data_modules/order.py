"""Which sample comes next: a pure function of (seed, epoch, position), and a loader that resumes.

A global batch is a run of consecutive positions of ``permutation(seed, epoch)``; rank r of w takes
positions r, r + w, ... of it. So the samples of an optimizer step do not depend on the number of
processes, workers or accumulated batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from unclip.seeding import derive_seed, generator
from unclip.types import UserError


class Draw(NamedTuple):
    """What a dataset is asked for: sample ``number`` with the randomness of ``epoch``."""

    epoch: int
    number: int


def permutation(length: int, *, seed: int, epoch: int, run: int = 1) -> list[int]:
    """The order of an epoch's samples: each of [0, length) once.

    Samples k·run to (k + 1)·run stay together, in their order.
    """
    runs = torch.randperm(-(-length // run), generator=generator("order", seed, epoch)).tolist()
    return [i for first in runs for i in range(first * run, min((first + 1) * run, length))]


class BatchOrder(Sampler[list[Draw]]):
    """One rank's batches of an epoch, from batch ``start``; both are set before iterating.

    Args:
        length: Samples in the dataset, at least ``batch_size``.
        batch_size: Samples per optimizer step, over all ranks and accumulated batches; the tail of
            an epoch that does not fill one is left out.
        seed: Chooses the permutations.
        rank: This process, in [0, world).
        world: Processes.
        accumulate: Loader batches per optimizer step.
        run: As of `permutation`.

    Raises:
        UserError: ``batch_size`` cannot be split evenly, or is more than ``length``.
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        run: int = 1,
    ):
        if length < batch_size:
            raise UserError(
                f"data.batch_size: {batch_size} is more than the {length} training samples; "
                f"use at most {length}"
            )
        self._length = length
        self._local = local_batch_size(batch_size, world=world, accumulate=accumulate)
        self._batches = length // batch_size * accumulate
        self._rank = rank
        self._world = world
        self._run = run
        self.seed = seed
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        """Batches in a whole epoch, wherever the next iteration starts."""
        return self._batches

    def __iter__(self) -> Iterator[list[Draw]]:
        return self._iterate(self.epoch, self.start)

    def _iterate(self, epoch: int, start: int) -> Iterator[list[Draw]]:
        order = permutation(self._length, seed=self.seed, epoch=epoch, run=self._run)
        span = self._local * self._world
        for batch in range(start, self._batches):
            first = batch * span
            positions = range(first + self._rank, first + span, self._world)
            yield [Draw(epoch, order[position]) for position in positions]


def local_batch_size(batch_size: int, *, world: int, accumulate: int) -> int:
    """Samples in one process's loader batch, or a `UserError` if they cannot be split evenly."""
    parts = world * accumulate
    if batch_size % parts:
        raise UserError(
            f"data.batch_size: {batch_size} cannot be split over {world} processes x {accumulate} "
            f"accumulated batches; use a multiple of {parts}"
        )
    return batch_size // parts


class Loader(DataLoader):
    """A DataLoader that draws nothing from the global generator and passes `UserError` on whole."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        batches: Any,
        collate: Callable[[list[Any]], Any],
        num_workers: int = 0,
    ):
        super().__init__(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(0),
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except UserError as error:
            error.__traceback__ = None  # its frames would keep the workers alive, and exit waiting
            raise _without_trace(error) from None


class ResumableLoader(Loader):
    """Training batches without end of state: epoch after epoch, from wherever it was stopped.

    Each iteration gives the rest of the current epoch. The state counts the batches handed out, so
    what workers have prepared ahead is not lost. The state is the same on every rank.

    Args:
        dataset: Takes a `Draw`.
        order: This rank's batches.
        collate: Makes a batch of a list of examples.
        fingerprint: Names the data; a state saved with other data is refused.
        num_workers: Loader processes.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        order: BatchOrder,
        collate: Callable[[list[Any]], Any],
        fingerprint: str,
        num_workers: int = 0,
    ):
        super().__init__(dataset, batches=order, collate=collate, num_workers=num_workers)
        self._order = order
        self._fingerprint = fingerprint
        self._epoch = 0
        self._yielded = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # Lightning stops at the last batch without asking for one more, so the end of an epoch is
        # noticed here and in `state_dict`, not after the loop.
        self._normalise()
        self._order.epoch, self._order.start = self._epoch, self._yielded
        self.generator.manual_seed(derive_seed("loader", self._order.seed, self._epoch))
        for batch in super().__iter__():
            self._yielded += 1
            yield batch

    def state_dict(self) -> dict[str, int | str]:
        """Where the next batch comes from, in plain numbers and text."""
        self._normalise()
        return {
            "epoch": self._epoch,
            "yielded": self._yielded,
            "batches": len(self),
            "data": self._fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            UserError: It was saved with other data or other batches.
        """
        if (state["batches"], state["data"]) != (len(self), self._fingerprint):
            raise UserError(
                f"data.source: the run was stopped at batch {state['yielded']} of "
                f"{state['batches']} of an epoch (data {state['data']}), but now an epoch has "
                f"{len(self)} (data {self._fingerprint}); resume with the same data.source, "
                "data.limit, data.held_out, data.batch_size and accumulation"
            )
        self._epoch, self._yielded = state["epoch"], state["yielded"]

    def _normalise(self) -> None:
        if self._yielded >= len(self):
            self._epoch, self._yielded = self._epoch + 1, 0


def _without_trace(error: UserError) -> UserError:
    """A worker's error arrives with its stack trace as its text; keep the message alone."""
    last = str(error).strip().splitlines()[-1]
    kind = type(error)
    prefix = f"{kind.__module__}.{kind.__qualname__}: "
    return kind(last.removeprefix(prefix)) if last.startswith(prefix) else error
