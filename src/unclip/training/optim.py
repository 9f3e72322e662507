"""The optimizers, AdamW with the paper's settings or Muon, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from unclip.training import adam8bit
from unclip.training.config import OptimConfig
from unclip.training.muon import Muon, layers
from unclip.training.rounded_adamw import RoundedAdamW


def build_optimizer(
    net: nn.Module, config: OptimConfig, *, rounding: int | None = None
) -> torch.optim.Optimizer:
    """What ``config.name`` says, over the parameters of ``net`` that train.

    ``rounding`` is the seed where weights in bfloat16 are rounded stochastically.
    """
    if config.name == "muon":
        return MuonAdamW(net, config)
    return adamw(net, config, rounding=rounding)


def adamw(
    net: nn.Module,
    config: OptimConfig,
    *,
    without: frozenset[nn.Parameter] = frozenset(),
    rounding: int | None = None,
) -> torch.optim.Optimizer:
    """AdamW over the parameters that train, but for some; only matrices and kernels are decayed.

    Biases, gains and other vectors are not (the habit of CLIP and GPT; the paper is silent).
    """
    trained = [p for p in net.parameters() if p.requires_grad and p not in without]
    groups = [
        {
            "params": [p for p in trained if p.ndim >= 2],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    betas = (config.betas[0], config.betas[1])
    if config.name == "adamw8bit":
        return adam8bit.build(groups, lr=config.lr, betas=betas, eps=config.eps)
    if rounding is not None:
        return RoundedAdamW(groups, rounding, lr=config.lr, betas=betas, eps=config.eps)
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)


class MuonAdamW(torch.optim.Optimizer):
    """Muon for linear layers and convolutions, AdamW for everything else, as one optimizer."""

    def __init__(self, net: nn.Module, config: OptimConfig):
        matrices = [weight for weight in layers(net) if weight.requires_grad]
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            self._parts.append(Muon(matrices, lr=config.lr, weight_decay=config.weight_decay))
        others = {p for p in net.parameters() if p.requires_grad} - {*matrices}
        if others:  # an adapter has none
            self._parts.append(adamw(net, config, without=frozenset(matrices)))
        super().__init__([g for part in self._parts for g in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Both parts work on the groups and states of this optimizer."""
        groups = iter(self.param_groups)
        for part in self._parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Called with what a checkpoint holds."""
        super().__setstate__(state)
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of each."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss


def lr_factor(step: int, config: OptimConfig, max_steps: int) -> float:
    """Factor on ``config.lr`` at optimizer step ``step``: linear warm-up, then the schedule."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    span = max(1, max_steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - config.warmup_steps) / span)))
