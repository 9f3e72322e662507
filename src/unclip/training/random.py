"""The random draws of a training step, the same however many processes share the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unclip.common.seeding import generator


@dataclass(frozen=True)
class StepRandom:
    """Draws of one micro-batch: made for the whole batch of all processes, then this one's rows.

    Row i of process r is sample ``i * world + r`` of the global batch, as `unclip.data.order`
    deals them out.
    """

    seed: int
    step: int  # micro-batches since the start of training
    rank: int = 0
    world: int = 1
    device: torch.device | str = "cpu"

    def _rows(self, drawn: Tensor) -> Tensor:
        return drawn[self.rank :: self.world]

    def _generator(self, purpose: str) -> torch.Generator:
        return generator("step", self.seed, purpose, self.step, device=self.device)

    def normal(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """Standard normal float32 of ``shape``, the first dimension being this process's batch."""
        full = (shape[0] * self.world, *shape[1:])
        drawn = torch.randn(full, generator=self._generator(purpose), device=self.device)
        return self._rows(drawn)

    def uniform(self, purpose: str, batch: int, *each: int) -> Tensor:
        """Uniform float32 ``[B, *each]`` in [0, 1)."""
        full = (batch * self.world, *each)
        drawn = torch.rand(full, generator=self._generator(purpose), device=self.device)
        return self._rows(drawn)

    def keep(self, purpose: str, batch: int, drop: float) -> Tensor:
        """Mask ``[B]``, each sample dropped (False) independently with probability ``drop``."""
        return self.uniform(purpose, batch) >= drop
