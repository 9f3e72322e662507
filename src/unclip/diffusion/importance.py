"""Timesteps drawn by how much they are still losing: the loss-second-moment resampler.

Improved DDPM (arXiv 2102.09672), section 3.3, eq. 18: p_t ∝ √E[L_t²], L_t weighted by 1/(T p_t), so
that the expected loss is the one of even timesteps while its estimate is less noisy.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.common.devices import widened

KEPT = 10  # losses of each timestep, the newest (the paper's number)
EVEN = 0.001  # share of draws that is even, so that no timestep is forgotten


class Timesteps(NamedTuple):
    """Drawn timesteps and what their losses are multiplied by."""

    t: Tensor  # [B] int64 in [0, T)
    weight: Tensor  # [B] float32, 1/(T p_t)


class LossHistory(nn.Module):
    """The last losses of every timestep, and the draws that follow from them.

    The history is two buffers, so that checkpoints hold it. Draws are even until every timestep has
    `KEPT` losses.
    """

    losses: Tensor  # [T, KEPT] float32, each row a ring
    counts: Tensor  # [T] int64, losses seen of each timestep

    def __init__(self, steps: int):
        super().__init__()
        self.register_buffer("losses", torch.zeros(steps, KEPT))
        self.register_buffer("counts", torch.zeros(steps, dtype=torch.int64))

    @torch.no_grad()
    def update(self, t: Tensor, loss: Tensor) -> None:
        """Note the ``loss`` ``[B]`` seen at ``t`` ``[B]``; the later of a batch are the newer."""
        order = torch.argsort(t, stable=True)
        t, loss = t[order], loss.float()[order]
        place = torch.arange(len(t), device=t.device)
        first, after = torch.searchsorted(t, t), torch.searchsorted(t, t, right=True)
        slot = (self.counts[t] + place - first) % KEPT
        # Of more than a row holds the first go to a column of waste: no data-dependent shapes.
        slot = torch.where(after - place <= KEPT, slot, KEPT)
        wide = F.pad(self.losses, (0, 1))
        wide[t, slot] = torch.where(loss.isfinite(), loss, wide[t, slot])
        self.losses.copy_(wide[:, :KEPT])
        self.counts.index_add_(0, t, torch.ones_like(t))

    def probabilities(self) -> Tensor:
        """p_t ``[T]``, float64, multiples of 2^-40: their sums are exact in any order of adding."""
        steps = len(self.counts)
        moment = widened(self.losses).square().mean(dim=1).sqrt()
        p = (1 - EVEN) * moment / moment.sum().clamp(min=1e-300) + EVEN / steps
        p = torch.where((self.counts >= KEPT).all() & moment.any(), p, 1 / steps)
        return (p * 2**40).round() / 2**40

    def weights(self) -> Tensor:
        """1/(T p_t) ``[T]``, float64: the mean of losses times this is even in expectation."""
        p = self.probabilities()
        return 1 / (len(p) * p)

    def draw(self, u: Tensor) -> Timesteps:
        """Timesteps from uniform draws ``u`` ``[B]`` in [0, 1), by the inverse distribution."""
        p = self.probabilities()
        t = torch.searchsorted(p.cumsum(0), u.to(p), right=True).clamp(max=len(p) - 1)
        return Timesteps(t, (1 / (len(p) * p[t])).float())
