"""After every step: is the loss a number, is a checkpoint due, was the run told to stop?"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from unclip.common.atomic import atomic_write
from unclip.common.errors import Interrupted, UserError
from unclip.tracking.files import BEST, read_best, sound_best
from unclip.tracking.status import require_there
from unclip.training.checkpoint_damage import read_rest
from unclip.training.checkpoint_folders import MANIFEST, checkpoints, newest_checkpoint, step_name
from unclip.training.config import TrainerConfig
from unclip.training.stage import Monitor
from unclip.training.world import World

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
PATIENCE = 5.0  # seconds between two looks at signals and losses, at most a step more
_STATE = "unclip"  # what this adds to a checkpoint


class CheckpointCallback(L.Callback):
    """Keeps the run's checkpoints and ends it in order. The last of the callbacks.

    Where looking at a number makes processes or a GPU wait, losses and signals are looked at every
    few seconds (`PATIENCE`), at least every ``log_every`` steps, and before a checkpoint; else
    after every step.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainerConfig,
        monitor: Monitor,
        run: dict[str, Any] | None = None,
        *,
        judges: Callable[[L.Trainer], bool] = lambda trainer: True,
    ):
        self.folder = folder / "checkpoints"
        self.config = config
        self.monitor = monitor
        self.judges = judges  # whether this validation tells how good the run is
        self.run = run or {}  # written into every checkpoint, see `run_of`
        self.started = False
        self.metrics: dict[str, float] = {}  # of training, when the checkpoint was written
        self._next_look = 0
        self._looked = (0, 0.0)  # step and time
        self._seen = 0
        self._signal: int | None = None
        self._ending: BaseException | None = None
        self._after_validation = False  # a checkpoint is due when the validation is done
        self._waited = 0  # validations since the best, or since the run began
        self._best: dict[str, Any] | None = None  # step, name and value, as in BEST
        self._before: dict[int, Any] = {}
        self._recent: deque[tuple[int, list[str]]] = deque(maxlen=config.log_every + 1)
        self._bad: Tensor | None = None  # first step with a NaN or infinite loss or gradient, or 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen for signals; the learning rate is the schedule's, as it is now."""
        self.started = True
        self._seen = trainer.global_step
        if self._best is not None and trainer.is_global_zero:  # it may be of a later step
            self._write_best()
        self._looked = self._seen, time.monotonic()
        self._next_look = self._seen + 1
        self._terminals = [n for n in (0, 1, 2) if os.isatty(n)]
        _set_lr(trainer)
        self._recent.clear()
        self._bad = torch.zeros((), dtype=torch.int64, device=pl_module.device)
        for number in STOPPING:
            self._before[number] = signal.getsignal(number)
            if self._before[number] is not signal.SIG_IGN:  # nohup
                signal.signal(number, lambda n, _: self._told(trainer, n))

    def _told(self, trainer: L.Trainer, number: int) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice
        self._signal = number
        if number == signal.SIGHUP:  # nobody reads any more, and writing there would fail
            for terminal in self._terminals:
                os.dup2(os.open(os.devnull, os.O_RDWR), terminal)
        launcher = trainer.strategy.launcher
        if launcher is not None and number != signal.SIGINT:  # that one the terminal sends to all
            launcher.kill(number)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Stop listening."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Note what the step gave; act when it was the optimizer's."""
        step = trainer.global_step
        self._note(outputs["loss"], getattr(pl_module, "grad_norm", None), batch, step)
        if step == self._seen:
            return
        self._seen = step
        due = step % self.config.checkpoint_every == 0
        cheap = trainer.world_size == 1 and pl_module.device.type == "cpu"
        if not (cheap or due or step >= self._next_look):
            return
        self._stop_at_nan()
        told = self._look(step)
        # Saved before a validation of the same step, a run would resume without it.
        waits = self._validates(trainer, step) and (not told or self.config.early_stopping > 0)
        self._after_validation = waits and (due or bool(told))
        if (told or due) and not waits:
            self.save(trainer)
        if told:
            name = signal.Signals(told).name
            told_so = Interrupted(f"{name} at step {step}: saved; continue with --resume")
            self._ending = World.here().exit_for(told_so)

    def _look(self, step: int) -> int | None:
        """A signal that came to any process; chooses the step at which to look again."""
        before, then = self._looked
        each = (time.monotonic() - then) / max(1, step - before)
        said = World.here().gather((self._signal, each))
        slowest = max(seconds for _, seconds in said)
        most = int(PATIENCE / slowest) if slowest > 0 else self.config.log_every
        self._next_look = step + max(1, min(most, self.config.log_every))
        self._looked = step, time.monotonic()
        return max((number for number, _ in said if number), default=None)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """What training has logged last: the end of the run reports it, also on a resume."""
        found = {k: float(v) for k, v in trainer.callback_metrics.items() if "val/" not in k}
        state = {"metrics": found, "run": self.run, "waited": self._waited, "best": self._best}
        checkpoint[_STATE] = state

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """The same, read; a checkpoint of an older version has none."""
        state = checkpoint.get(_STATE, {})
        self.metrics = dict(state.get("metrics", {}))
        self._waited = int(state.get("waited", 0))
        best = sound_best(state["best"]) if "best" in state else read_best(self.folder)
        self._best = best if best and (self.folder / step_name(best["step"])).is_dir() else None

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """End the run once what was logged at its last step is written down."""
        if self._ending is not None:
            raise self._ending

    def _validates(self, trainer: L.Trainer, step: int) -> bool:
        every = self.config.val_every or self.config.max_steps
        return step % every == 0 and sum(trainer.num_val_batches) > 0

    def _note(self, loss: Tensor, norm: Tensor | None, batch: Any, step: int) -> None:
        assert self._bad is not None
        self._recent.append((step, list(getattr(batch, "keys", []))))
        if self.config.precision == "16-mixed":  # its overflows are skipped: `LossScaling`
            return
        fine = torch.isfinite(loss.detach())
        if norm is not None:
            fine = fine & torch.isfinite(norm)
        # No waiting for the device: the first bad step stays in the tensor until it is looked at.
        self._bad = torch.where(fine | (self._bad > 0), self._bad, step)

    def _stop_at_nan(self) -> None:
        assert self._bad is not None
        own = int(self._bad)
        first = min((bad for bad in World.here().gather(own) if bad), default=0)
        if not first:
            return
        keys = [
            key for step, keys in self._recent if step == first and own == first for key in keys
        ]
        named = [key for part in World.here().gather(keys) for key in part]
        shown = ", ".join(named[:16]) + (", ..." if len(named) > 16 else "")
        kept = newest_checkpoint(self.folder.parent)
        back = f"the checkpoint before it is {kept.name}" if kept else "there is no checkpoint yet"
        line = (
            f"step {first}: the loss or its gradient is not a number; samples: {shown}; {back}. "
            "Look at these samples, or start a new run with a lower optim.lr"
        )
        raise World.here().exit_for(UserError(line))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save when it is due, or when this is the best of the run so far."""
        if trainer.state.fn != "fit":
            return
        better = self.judges(trainer) and self._judge(trainer)
        if self._after_validation or better:
            self.save(trainer, keep=better)
        if better and trainer.is_global_zero:
            self._write_best()
            self._delete_old()
        if self.stopped_early:
            trainer.should_stop = True

    def _judge(self, trainer: L.Trainer) -> bool:
        """Whether this validation is the best of the run so far, which is noted."""
        self._waited += 1
        found = trainer.callback_metrics.get(self.monitor.name)
        name, better = self.monitor.name, self.monitor.better
        if found is None:
            found, name, better = trainer.callback_metrics.get("val/loss"), "val/loss", "lower"
        if found is None or not math.isfinite(value := float(found)):
            return False
        before, sign = self._best, 1 if better == "higher" else -1
        if before and before["name"] == name and sign * (value - before["value"]) <= 0:
            return False
        self._waited, self._best = 0, {"step": trainer.global_step, "name": name, "value": value}
        return True

    def _write_best(self) -> None:
        with atomic_write(self.folder / BEST) as scratch:
            scratch.write_text(json.dumps(self._best) + "\n")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The last step has a checkpoint."""
        self._stop_at_nan()
        self.save(trainer)

    def save(self, trainer: L.Trainer, *, keep: bool = False) -> None:
        """Write this step's checkpoint, unless it is there; then delete what is not to be kept."""
        require_there(self.folder.parent)
        path = self.folder / step_name(trainer.global_step)
        there = (path / MANIFEST).is_file()
        if not any(World.here().gather(there)):
            trainer.save_checkpoint(path)
        if trainer.is_global_zero and not keep:
            self._delete_old()

    @property
    def stopped_early(self) -> bool:
        """Whether the run ended because nothing has become better."""
        return 0 < self.config.early_stopping <= self._waited

    def best_before(self, step: int) -> Path | None:
        """The checkpoint whose weights the run gives in place of those of ``step``, its last."""
        if not self.config.early_stopping or self._best is None or self._best["step"] == step:
            return None
        path = self.folder / step_name(self._best["step"])
        return path if (path / MANIFEST).is_file() else None

    def _delete_old(self) -> None:
        kept = None if self._best is None else step_name(self._best["step"])
        for path in checkpoints(self.folder.parent)[: -self.config.keep_checkpoints]:
            if path.name != kept:
                shutil.rmtree(path)


def run_of(checkpoint: Path) -> dict[str, Any]:
    """What the ``run`` that wrote a checkpoint said of itself; of an older version nothing."""
    state = read_rest(checkpoint).get(_STATE)
    found = state.get("run") if isinstance(state, dict) else None
    return found if isinstance(found, dict) else {}


def has_stopped(checkpoint: Path, config: TrainerConfig) -> bool:
    """Whether ``checkpoint`` is the last of a run that ended before its ``max_steps``."""
    state = read_rest(checkpoint).get(_STATE)
    waited = state.get("waited") if isinstance(state, dict) else None
    return isinstance(waited, int) and 0 < config.early_stopping <= waited


def _set_lr(trainer: L.Trainer) -> None:
    """Give the optimizers the rate of their schedules; a checkpoint's is of its own max_steps."""
    for each in trainer.lr_scheduler_configs:
        schedule: Any = each.scheduler
        factors = [factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
        for group, base, factor in zip(schedule.optimizer.param_groups, schedule.base_lrs, factors):
            group["lr"] = base * factor
