"""Exponential moving average of a network's weights, per optimizer step, in float32."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import nn

from unclip.training.checkpoint_rows import local
from unclip.training.config import EmaConfig
from unclip.training.strategies import reshard


def decay_at(step: int, config: EmaConfig) -> float:
    """Decay used at optimizer step ``step`` (from 1): young averages forget faster."""
    if not config.warmup:
        return config.decay
    return min(config.decay, (1 + step) / (10 + step))


@torch.no_grad()
def update(ema: nn.Module, net: nn.Module, decay: float) -> None:
    """Ema <- decay * ema + (1 - decay) * net, parameter by parameter in order; buffers copied.

    Weights that do not train are the average's own already.
    """
    reshard(ema)
    reshard(net)
    pairs = [
        (local(a), local(p))
        for a, p in zip(ema.parameters(), net.parameters(), strict=True)
        if p.requires_grad
    ]
    averaged = [a for a, _ in pairs]
    current = [p.to(a.dtype) for a, p in pairs]
    torch._foreach_lerp_(averaged, current, 1 - decay)
    for buffer, value in zip(ema.buffers(), net.buffers(), strict=True):
        buffer.copy_(value)


class EmaCallback(L.Callback):
    """Updates ``stage.ema`` from ``stage.net`` after every optimizer step.

    A callback, not a hook of the stage: those run after the checkpoint of the same step is
    written, which would lose one update on resume.
    """

    def __init__(self, config: EmaConfig):
        self.config = config
        self._seen = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Continue counting from the step that a checkpoint restored."""
        self._seen = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Average only when the batch ended in an optimizer step that changed the weights."""
        if trainer.global_step > self._seen:
            self._seen = trainer.global_step
            if getattr(trainer.precision_plugin, "skips", False):
                return
            stage: Any = pl_module
            update(stage.ema, stage.net, decay_at(self._seen, self.config))
