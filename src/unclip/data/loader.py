"""Loaders: a rank's batches of an order, and training that resumes at any of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.processes import killed_worker
from unclip.common.seeding import derive_seed
from unclip.data.ahead import ahead
from unclip.data.order import Draws, Order
from unclip.data.skips import ReportingCollate, Skips


class BatchOrder(Sampler[Draws]):
    """One rank's batches of an epoch, from batch ``start``; both are set before iterating.

    Args:
        order: Of the samples, at least ``batch_size`` an epoch.
        batch_size: Samples per optimizer step, over all ranks and accumulated batches; the tail of
            an epoch that does not fill one is left out.
        rank: This process, in [0, world).
        world: Processes.
        accumulate: Loader batches per optimizer step.

    Raises:
        UserError: ``batch_size`` cannot be split evenly.
    """

    def __init__(
        self, order: Order, *, batch_size: int, rank: int = 0, world: int = 1, accumulate: int = 1
    ):
        self._order = order
        self._span = local_batch_size(batch_size, world=world, accumulate=accumulate) * world
        self._batches = len(order) // batch_size * accumulate
        self._rank = rank
        self._world = world
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        """Batches in a whole epoch, wherever the next iteration starts."""
        return self._batches

    def __iter__(self) -> Iterator[Draws]:
        return self._iterate(self.epoch, self.start)

    def _iterate(self, epoch: int, start: int) -> Iterator[Draws]:
        for batch in range(start, self._batches):
            first = epoch * len(self._order) + batch * self._span
            yield self._order.draws(first, first + self._span)[self._rank :: self._world]


def local_batch_size(batch_size: int, *, world: int, accumulate: int) -> int:
    """Samples in one process's loader batch, or a `UserError` if they cannot be split evenly."""
    parts = world * accumulate
    if batch_size % parts:
        raise UserError(
            f"data.batch_size: {batch_size} cannot be split over {counted(world, 'process')} x "
            f"{counted(accumulate, 'accumulated batch')}; use a multiple of {parts}"
        )
    return batch_size // parts


class Loader(DataLoader):
    """A DataLoader that draws nothing from the global generator and passes `UserError` on whole.

    Args:
        dataset: Takes a `Draw`, or with `__getitems__` a batch's `Draws`.
        batches: The draws of each batch.
        collate: Makes a batch of a list of examples.
        num_workers: Loader processes; never more than this process's share of the cores, as no
            sample depends on their number. Without any a thread makes the next batch meanwhile.
        processes: Of the machine, which share its cores.
        skips: Is told of the bad samples, for a dataset of `Example`s.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batches: Any,
        collate: Callable[[Any], Any],
        num_workers: int = 0,
        skips: Skips | None = None,
        processes: int = 1,
    ):
        self._skips = skips
        num_workers = min(num_workers, share_of_cores(processes))
        super().__init__(
            dataset,
            batch_sampler=batches,
            collate_fn=collate if skips is None else ReportingCollate(collate),
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(0),
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            batches = iter(super().__iter__())
            for batch in batches if self.num_workers else ahead(batches):
                yield batch if self._skips is None else self._skips.noted(batch)
        except UserError as error:
            error.__traceback__ = None  # its frames would keep the workers alive, and exit waiting
            raise _without_trace(error) from None
        except RuntimeError as error:
            raise killed_worker(error) or error from None


class ResumableLoader(Loader):
    """Training batches without end of state: epoch after epoch, from wherever it was stopped.

    Each iteration gives the rest of the current epoch. The state counts the batches handed out, so
    what workers have prepared ahead is not lost. The state is the same on every rank.

    Args:
        dataset: As for `Loader`.
        order: This rank's batches.
        collate: As for `Loader`.
        fingerprint: Names data and order; a state saved with others is refused.
        num_workers: As for `Loader`.
        skips: As for `Loader`.
        processes: As for `Loader`.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        order: BatchOrder,
        collate: Callable[[Any], Any],
        fingerprint: str,
        num_workers: int = 0,
        skips: Skips | None = None,
        processes: int = 1,
    ):
        super().__init__(
            dataset,
            batches=order,
            collate=collate,
            num_workers=num_workers,
            skips=skips,
            processes=processes,
        )
        self._order = order
        self._fingerprint = fingerprint
        self._epoch = 0
        self._yielded = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # Lightning stops at the last batch without asking for one more, so the end of an epoch is
        # noticed here and in `state_dict`, not after the loop.
        self._normalise()
        self._order.epoch, self._order.start = self._epoch, self._yielded
        self.generator.manual_seed(derive_seed("loader", self._epoch))
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
                "data.limit, data.held_out, data.batch_size, data.shuffle_window and accumulation"
            )
        self._epoch, self._yielded = state["epoch"], state["yielded"]

    def _normalise(self) -> None:
        if self._yielded >= len(self):
            self._epoch, self._yielded = self._epoch + 1, 0


def share_of_cores(processes: int) -> int:
    """Cores for each of a machine's ``processes``, at least one.

    srun may have given each its own (--cpus-per-task); then `cores` has divided already.
    """
    if "SLURM_CPUS_PER_TASK" in os.environ:
        return cores()
    return max(1, cores() // processes)


def cores() -> int:
    """Those that this process may use (taskset, containers and job schedulers give it fewer)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _without_trace(error: UserError) -> UserError:
    """A worker's error arrives with its stack trace as its text; keep the message alone."""
    last = str(error).strip().splitlines()[-1]
    kind = type(error)
    prefix = f"{kind.__module__}.{kind.__qualname__}: "
    return kind(last.removeprefix(prefix)) if last.startswith(prefix) else error
