"""The processes that train together."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch
from torch import distributed

from unclip.common.devices import find_device
from unclip.common.errors import Interrupted, UserError
from unclip.common.local_rank import local_rank


class World(NamedTuple):
    """One process among those that train together."""

    rank: int
    size: int

    @classmethod
    def here(cls) -> World:
        """Of this moment."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls(0, 1)

    def exit_for(self, error: UserError) -> UserError | SystemExit:
        """What to raise for an ``error`` that all processes come to: the first one prints it."""
        status = 75 if isinstance(error, Interrupted) else 2
        return error if self.rank == 0 else SystemExit(status)

    def gather(self, value: Any) -> list[Any]:
        """``value`` of every process; all of them wait here for each other."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values


def device_of(accelerator: str) -> torch.device:
    """The device of this process, of the kind that ``trainer.accelerator`` names.

    Raises:
        UserError: this machine has none.
    """
    name = "cuda" if accelerator == "gpu" else accelerator  # Lightning's word
    device = find_device(name, key="trainer.accelerator")
    return torch.device("cuda", local_rank()) if device.type == "cuda" else device


def join_processes() -> int:
    """Join the processes that torchrun started, if any; this one's rank."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")  # only sums on the CPU are exchanged
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return rank_and_world()[0]


def rank_and_world() -> tuple[int, int]:
    """Rank and number of the processes that torchrun or Lightning started, or (0, 1)."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
