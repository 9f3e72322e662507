"""Muon, for matrices and for kernels of convolutions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
ITERATION = (3.4445, -4.775, 2.0315)  # a, b, c of X <- aX + b(XXᵀ)X + c(XXᵀ)²X
ITERATIONS = 5


def layers(net: nn.Module) -> list[nn.Parameter]:
    """What Muon trains of ``net``: the weights of its linear layers and convolutions."""
    found: list[Any] = [m.weight for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    return list(dict.fromkeys(found))


class Muon(torch.optim.Optimizer):
    """Momentum whose every step has all singular values alike.

    Directions with weak gradients are learned as fast as those with strong ones (Jordan et al.
    2024, https://kellerjordan.github.io/posts/muon). Steps are 0.2 √max(rows, columns) times as
    long, which is the size of AdamW's (arXiv 2502.16982), so that both can share a learning rate
    and weight decay. The kernel of a convolution is a matrix with a row for each output channel.

    ``torch.optim.Muon`` does the same, for matrices alone and one by one; here all of a shape are
    iterated at once, which takes 0.6 of the time for those of a small network.

    Args:
        params: Of two dimensions or more.
        lr: Learning rate.
        weight_decay: Decoupled, times ``lr``.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step, Nesterov's momentum first."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    update = self._update(p).flatten(1)
                    alike.setdefault(update.shape, []).append((p, update))
            for shape, pairs in alike.items():
                steps = orthogonal(torch.stack([update for _, update in pairs]))
                size = 0.2 * max(shape) ** 0.5 * group["lr"]
                for (p, _), step in zip(pairs, steps):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(step.reshape(p.shape), alpha=-size)

    def _update(self, p: nn.Parameter) -> Tensor:
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        average = state["momentum_buffer"].lerp_(p.grad, 1 - MOMENTUM)
        return p.grad.lerp(average, MOMENTUM)


def orthogonal(x: Tensor) -> Tensor:
    """Matrices ``[N, rows, columns]`` with their singular values brought near 1, in bfloat16.

    Five steps of a Newton-Schulz iteration, after which they lie between about 0.7 and 1.2.
    """
    a, b, c = ITERATION
    tall = x.shape[1] > x.shape[2]
    x = (x.mT if tall else x).bfloat16()
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
