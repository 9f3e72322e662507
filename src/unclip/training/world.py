"""The processes that train together."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import distributed

from unclip.types import Interrupted, UserError


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

    def ending(self, error: UserError) -> UserError | SystemExit:
        """What to raise for an ``error`` that all processes come to: the first one prints it."""
        status = 75 if isinstance(error, Interrupted) else 2
        return error if self.rank == 0 else SystemExit(status)

    def gathered(self, value: Any) -> list[Any]:
        """``value`` of every process; all of them wait here for each other."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values
