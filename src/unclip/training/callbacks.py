"""What happens around the training steps: images, progress lines, throughput, memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from unclip.common.counted import about
from unclip.common.images import CaptionedImage, grid, save
from unclip.common.terminal import say
from unclip.tracking.status import require_there
from unclip.training.stage import Stage
from unclip.training.strategies import full_parameters
from unclip.training.world import World


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory used so far: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def number_steps(trainer: L.Trainer, step: int) -> None:
    """Make ``step`` the number at which Lightning logs next."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = step


class StepNumbers(L.Callback):
    """Logs each step at its number, from 0, whatever a checkpoint says.

    Lightning keeps a count of its own, which is one off when a run resumes with other intervals
    than it was stopped with.
    """

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Count optimizer steps."""
        number_steps(trainer, trainer.global_step)


class Samples(L.Callback):
    """Draws sample images at intervals and at the end; saves them and logs their metrics."""

    def __init__(
        self,
        folder: Path,
        every: int,
        publish: Callable[[list[CaptionedImage], int], None] | None = None,
        *,
        is_last: Callable[[int], bool] = lambda step: True,
    ):
        self.folder = folder
        self.every = every
        self.publish = publish
        self.is_last = is_last  # whether the weights of the last step are those of the end
        self.metrics: dict[str, float] = {}
        self._seen = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Continue counting from the step that a checkpoint restored."""
        self._seen = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """At every ``every``-th optimizer step."""
        step = trainer.global_step
        if step > self._seen:
            self._seen = step
            if self.every and step % self.every == 0 and step != trainer.max_steps:
                self.draw(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Once more with the final weights."""
        if self.is_last(trainer.global_step):
            self.draw(trainer, pl_module)

    def draw(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Images and metrics of the first validation batch."""
        stage: Any = pl_module
        batch = _first_batch(trainer, stage)
        if batch is None:
            return
        was_training = stage.training
        stage.eval()
        precision = trainer.precision_plugin.forward_context()
        with torch.no_grad(), precision, full_parameters(stage.sampling_net):
            look = stage.preview(batch)
        stage.train(was_training)
        self.metrics = {f"val/{k}": v for k, v in look.metrics.items()}
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(self.metrics, step=trainer.global_step)
            if not look.images:
                return
            sheet = grid([p.image for p in look.images], [p.caption for p in look.images])
            require_there(self.folder.parent)
            save(sheet, self.folder / f"step_{trainer.global_step:07d}.png")
            if self.publish is not None:
                self.publish(look.images, trainer.global_step)


def _first_batch(trainer: L.Trainer, stage: Stage) -> Any:
    loaders: Any = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
    if not loaders:
        return None
    batches: list[Any] = []  # as many as make a global batch: a process may load less at a time
    for batch in loaders:
        batches.append(batch)
        if sum(_size(each) for each in batches) >= stage.experiment.data.batch_size:
            break
    return stage.transfer_batch_to_device(_join(batches), stage.device, 0)


def _size(batch: Any) -> int:
    return next(len(part) for part in batch if isinstance(part, Tensor))


def _join(batches: list[Any]) -> Any:
    """One batch of the samples of several."""
    if len(batches) == 1:
        return batches[0]

    def join(parts: tuple[Any, ...]) -> Any:
        if isinstance(parts[0], Tensor):
            return torch.cat(parts)
        return parts[0] and [each for part in parts for each in part]  # a list, or None

    return type(batches[0])(*(join(parts) for parts in zip(*batches)))


class Throughput(L.Callback):
    """Samples per second over the optimizer steps; validation, images and checkpoints left out.

    A step lasts as long as all its micro-batches, the wait for their data included.
    ``skipped`` tells how many bad samples this process has left out; their sum is logged.
    """

    def __init__(self, batch_size: int, log_every: int, skipped: Callable[[], int]):
        self.batch_size = batch_size
        self.log_every = log_every
        self.skipped = skipped
        self.seconds = 0.0
        self.steps = 0
        self.waited = 0.0
        self._step_seconds = 0.0
        self._step_waited = 0.0
        self._warm = False

    @property
    def samples_per_second(self) -> float:
        """Mean over the run, the first step (which warms up) left out."""
        return self.batch_size * self.steps / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start over."""
        self._step_seconds = self._step_waited = 0.0
        self._warm = False
        self._step = trainer.global_step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """The data has arrived."""
        stage: Any = pl_module
        self._step_waited += time.perf_counter() - stage.waiting_since

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Count the micro-batch, and the step when this was its last."""
        stage: Any = pl_module
        step = trainer.global_step
        if step > self._step and self._pauses(stage, step):
            torch.cuda.synchronize(trainer.strategy.root_device)  # what is queued is of these steps
        self._step_seconds += time.perf_counter() - stage.waiting_since
        if step == self._step:
            return
        self._step = step
        if self._warm:
            self.steps += 1
            self.seconds += self._step_seconds
            self.waited += self._step_waited
        self._warm = True
        self._step_seconds = self._step_waited = 0.0
        if self.steps and step % self.log_every == 0:
            values = {
                "samples_per_second": self.samples_per_second,
                "data_wait": self.waited / self.seconds,
                "data_skipped": sum(World.here().gather(self.skipped())),
                "peak_memory_gib": peak_memory_bytes(trainer.strategy.root_device) / 2**30,
            }
            for logger in trainer.loggers:
                logger.log_metrics(values, step=step)

    def _pauses(self, stage: Stage, step: int) -> bool:
        """Whether something that is no training, and waits for the GPU, follows this step."""
        if stage.device.type != "cuda":
            return False
        config = stage.experiment.trainer
        often = (config.val_every, config.sample_every, config.checkpoint_every)
        return any(every and step % every == 0 for every in (self.log_every, *often))


class ProgressLines(L.Callback):
    """A line now and then where there is no terminal for a progress bar."""

    def __init__(self, seconds: float = 20.0):
        self.seconds = seconds
        self._last = 0.0
        self._start = 0
        self._began = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note where the run starts."""
        self._last = self._began = time.perf_counter()
        self._start = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Step, loss and the time that is left."""
        now = time.perf_counter()
        if now - self._last < self.seconds or not trainer.is_global_zero:
            return
        self._last = now
        step = trainer.global_step
        rate = (step - self._start) / (now - self._began)
        left = f"  {about((trainer.max_steps - step) / rate)} left" if rate else ""
        loss = trainer.callback_metrics.get("train/loss")
        shown = f"  loss {float(loss):.4f}" if loss is not None else ""
        line = f"step {step}/{trainer.max_steps}{shown}  {rate:.2f} steps/s{left}"
        say(line, error=True)
