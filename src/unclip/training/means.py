"""Means of what a step measures: over its samples, its micro-batches and all processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from unclip.training.world import World


@dataclass(frozen=True)
class Mean:
    """A mean that can be combined with others: what was added up, and of how many."""

    total: Tensor  # scalar
    count: Tensor  # scalar

    @property
    def value(self) -> Tensor:
        """NaN where nothing was added up (finding that out would make a GPU wait)."""
        return self.total / self.count


Means = dict[str, Mean]


def means_of(values: dict[str, Any]) -> Means:
    """A `Mean` as it is; a tensor averaged, counting once: micro-batches are of one size."""
    found = {}
    for name, value in values.items():
        if not isinstance(value, Mean):
            mean = value.detach().float().mean()
            value = Mean(mean, torch.ones_like(mean))
        found[name] = value
    return found


def combined(parts: Sequence[Means]) -> Means:
    """Means over several micro-batches, by name."""
    if len(parts) == 1:
        return parts[0]
    return {name: _sum([part[name] for part in parts]) for name in parts[0]}


def _sum(means: list[Mean]) -> Mean:
    totals, counts = [m.total for m in means], [m.count for m in means]
    return Mean(torch.stack(totals).sum(), torch.stack(counts).sum())


def mean_of_processes(means: Means) -> Means:
    """Means over the processes, in one exchange."""
    mine = torch.stack([torch.stack([m.total, m.count]) for m in means.values()])  # [names, 2]
    parts = [torch.empty_like(mine) for _ in range(World.here().size)]
    distributed.all_gather(parts, mine)
    return {name: Mean(*row) for name, row in zip(means, torch.stack(parts).sum(dim=0))}


def quartiles(loss: Tensor, t: Tensor, steps: int) -> Means:
    """Mean of per-sample ``loss`` ``[B]`` in each quarter of the timesteps ``t`` ``[B]``."""
    quarter = (t * 4 // steps).clamp(max=3)
    sums, counts = loss.new_zeros(4), loss.new_zeros(4)
    sums.index_add_(0, quarter, loss)
    counts.index_add_(0, quarter, torch.ones_like(loss))
    return {f"loss_q{q}": Mean(*each) for q, each in enumerate(zip(sums, counts))}
