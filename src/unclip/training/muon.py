"""Muon, for matrices and for kernels of convolutions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from unclip.training.checkpoint_rows import local
from unclip.training.muon_shards import apply_to_whole

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

    Of parameters that FSDP2 shards, each process keeps and changes its rows; the iteration needs
    whole matrices and is shared out (`unclip.training.muon_shards`).

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
            alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shape = (len(p), p.numel() // len(p))
                    alike.setdefault(shape, []).append((p, self._update(p).flatten(1)))
            for shape, pairs in alike.items():
                steps = _orthogonal([p for p, _ in pairs], torch.stack([u for _, u in pairs]))
                size = 0.2 * max(shape) ** 0.5 * group["lr"]
                for (p, _), step in zip(pairs, steps):
                    own = local(p)
                    own.mul_(1 - group["lr"] * group["weight_decay"])
                    own.add_(step.reshape(own.shape), alpha=-size)

    def _update(self, p: nn.Parameter) -> Tensor:
        """Of the rows that this process has."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        grad = local(p.grad)
        average = local(state["momentum_buffer"]).lerp_(grad, 1 - MOMENTUM)
        return grad.lerp(average, MOMENTUM)


def _orthogonal(parameters: list[Tensor], updates: Tensor) -> Tensor:
    """`orthogonal` of the ``updates`` ``[N, own rows, columns]`` of parameters of one shape."""
    first: Any = parameters[0]
    if not isinstance(first, DTensor):
        return orthogonal(updates)
    return apply_to_whole(orthogonal, updates, len(first), first.device_mesh)


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
