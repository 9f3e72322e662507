"""The random draws of a step, the same however many processes and micro-batches share the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unclip.common.seeding import generator


@dataclass(frozen=True)
class StepRandom:
    """Draws of one micro-batch: made for the global batch, then the rows of this process.

    Row i of process r is sample ``before + i * world + r`` of the global batch, as
    `unclip.data.order` deals them out.
    """

    seed: int
    step: int  # optimizer steps since the start of training
    rank: int = 0
    world: int = 1
    device: torch.device | str = "cpu"
    before: int = 0  # samples of the global batch in earlier micro-batches
    after: int = 0  # and in later ones

    def _whole(self, batch: int) -> int:
        return self.before + batch * self.world + self.after

    def _rows(self, drawn: Tensor) -> Tensor:
        own = drawn[self.before : len(drawn) - self.after][self.rank :: self.world]
        return own.clone() if len(own) < len(drawn) else own  # a view would keep all of it alive

    def _generator(self, purpose: str) -> torch.Generator:
        return generator("step", self.seed, purpose, self.step, device=self.device)

    def normal(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """Standard normal float32 of ``shape``, the first dimension being this process's batch."""
        full = (self._whole(shape[0]), *shape[1:])
        drawn = torch.randn(full, generator=self._generator(purpose), device=self.device)
        return self._rows(drawn)

    def uniform(self, purpose: str, batch: int, *each: int) -> Tensor:
        """Uniform float32 ``[B, *each]`` in [0, 1)."""
        full = (self._whole(batch), *each)
        drawn = torch.rand(full, generator=self._generator(purpose), device=self.device)
        return self._rows(drawn)

    def keep(self, purpose: str, batch: int, drop: float) -> Tensor:
        """Mask ``[B]``, each sample dropped (False) independently with probability ``drop``."""
        return self.uniform(purpose, batch) >= drop
