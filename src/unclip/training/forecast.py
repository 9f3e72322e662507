"""How long training will take, said once after its first steps, and how long it took."""

from __future__ import annotations

import time
from typing import Any

import lightning as L

from unclip.common.counted import about, counted
from unclip.common.terminal import say
from unclip.training.callbacks import Throughput

MEASURED = 20  # steps from which the rest is told
FORWARD = 1 / 3  # of a step's time: what a batch takes in a validation, without its backward pass


class Forecast(L.Callback):
    """Says how long the steps and validations of a run take; images and the end not included.

    Attributes:
        seconds: What was said, counted from where this process began to train; None so far.
        took: What it came to.
    """

    def __init__(self, kind: str, throughput: Throughput):
        self._kind = kind
        self._throughput = throughput
        self.seconds: float | None = None
        self.took = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Training begins."""
        self._began, self._start = time.perf_counter(), trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Say it, once enough steps are measured; the first one, which warms up, is not."""
        done, left = trainer.global_step - self._start, trainer.max_steps - trainer.global_step
        if self.seconds is not None or self._throughput.steps < MEASURED - 1 or left <= 0:
            return
        each = self._throughput.seconds / self._throughput.steps
        every = int(trainer.val_check_interval or 0) // trainer.accumulate_grad_batches
        validations = trainer.max_steps // every - trainer.global_step // every
        batches = sum(trainer.num_val_batches) / trainer.accumulate_grad_batches
        rest = each * (left + FORWARD * validations * batches)
        self.seconds = time.perf_counter() - self._began + rest
        if trainer.is_global_zero:
            steps = counted(left + done, "step") + (" more" if self._start else "")
            say(f"{self._kind}: {steps}, about {about(self.seconds)}", error=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Before the last images are drawn."""
        self.took = time.perf_counter() - self._began
