"""The end of a run: validation, samples, summary, artifact; all of it is made again on a resume
that finds the training finished and the end not.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L

from unclip.common import artifacts
from unclip.common.atomic import atomic_write
from unclip.common.errors import UserError
from unclip.common.terminal import say
from unclip.config.load import ResolvedExperiment
from unclip.embeddings.gpt2 import files_of
from unclip.runs import own
from unclip.tracking.files import (
    METRICS,
    PROVENANCE,
    SUMMARY,
    curves,
    number,
    read_json,
    read_metrics,
)
from unclip.tracking.report import Finished
from unclip.tracking.status import require_there
from unclip.tracking.tracker import Tracker
from unclip.training.callbacks import Samples, Throughput, number_steps, peak_memory_bytes
from unclip.training.checkpoint_callback import CheckpointCallback
from unclip.training.checkpoint_folders import step_of
from unclip.training.forecast import Forecast
from unclip.training.stage import Stage
from unclip.training.world import World

_OF_TRAINING = (
    "samples_per_second",
    "data_wait",
    "data_skipped",
    "peak_memory_gib",
    "seconds",
    "cpu_seconds",
    "forecast",
    "training_seconds",
)
_CRAFTED = (AttributeError, IndexError, KeyError, TypeError, ValueError)


@contextmanager
def restoring(checkpoint: Path | None, keeper: CheckpointCallback) -> Iterator[None]:
    """Say in a line what a checkpoint lacks, if it cannot be restored; once trained, nothing."""
    try:
        yield
    except _CRAFTED as error:
        if checkpoint is None or keeper.started:
            raise
        raise UserError(
            f"{checkpoint}: cannot be restored: {type(error).__name__}: {error}; remove it to "
            "continue from an earlier one, or start over with --force"
        ) from error


class SamplesAtEnd(L.Callback):
    """Draws the last samples where no step was trained: with the validation at the end."""

    def __init__(self, samples: Samples):
        self._samples = samples

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """While everything is on its device."""
        self._samples.draw(trainer, pl_module)


def finish(
    resolved: ResolvedExperiment,
    stage: Stage,
    trainer: L.Trainer,
    folder: Path,
    *,
    start: int,
    began: os.times_result,
    samples: Samples,
    throughput: Throughput,
    forecast: Forecast,
    keeper: CheckpointCallback,
    tracker: Tracker | None,
) -> Finished:
    """Validate, unless the last step was validated, and write what a run leaves.

    With early stopping the weights are those of the best checkpoint, whatever the last one's are.
    The artifact is written last: where it is, everything is. ``start`` is the step from which this
    process has trained, which may be the last; ``began`` are `os.times` then.
    """
    step, config = trainer.global_step, resolved.config.trainer
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
    metrics = keeper.metrics | metrics if step == start else metrics
    due = config.val_every and step % config.val_every == 0
    stopped = keeper.stopped_early  # the best checkpoint, which is loaded now, knows nothing of it
    if best := keeper.best_before(step):
        metrics |= _restore(stage, trainer, best, samples)
    elif step == start:  # nothing was trained: the same row as after the last step
        number_steps(trainer, step - 1 if due else step)
    if not best and (step == start or not due):
        metrics |= _validated(stage, trainer)
    metrics |= samples.metrics
    # A quarter of the timesteps without a sample has no mean, and JSON no NaN.
    metrics = {k: v for k, v in metrics.items() if math.isfinite(v)}
    weights = stage.weights()
    skipped = sum(World.here().gather(trainer.datamodule.skipped))  # type: ignore[attr-defined]
    if not trainer.is_global_zero:
        raise SystemExit  # the first process does the rest
    took = [now - then for now, then in zip(os.times(), began, strict=True)]
    summary: dict[str, Any] = {
        "experiment": resolved.name,
        "steps": step,
        "loss": metrics.get("val/loss", metrics.get("train/loss")),
        "quality": {"name": keeper.monitor.name, "value": metrics.get(keeper.monitor.name)},
        "samples_per_second": throughput.samples_per_second or _logged(folder),
        "data_wait": throughput.waited / throughput.seconds if throughput.seconds else 0.0,
        "data_skipped": skipped,
        "peak_memory_gib": peak_memory_bytes(trainer.strategy.root_device) / 2**30,
        "seconds": took[4],
        "cpu_seconds": sum(took[:4]),
        "forecast": forecast.seconds,
        "training_seconds": forecast.took,
        "parameters": sum(p.numel() for p in stage.net.parameters()),
        "has_samples": (folder / "samples" / f"step_{step:07d}.png").is_file(),
        "metrics": metrics,
    }
    if config.early_stopping:
        summary |= {
            "stopped_early": stopped,
            "best_step": step_of(best) if best else step,
        }
    before = read_json(folder / SUMMARY)
    if step == start and before.get("steps") == step:  # the figures of its training stay
        summary |= {k: before[k] for k in _OF_TRAINING if number(before.get(k)) is not None}
    require_there(folder)
    with atomic_write(folder / SUMMARY) as scratch:
        scratch.write_text(json.dumps(summary, indent=2) + "\n")
    config = resolved.as_dict()
    artifact = artifacts.export(
        folder / "artifact",
        stage=resolved.stage.name,
        weights=weights,
        config=config,
        provenance={**read_json(folder / PROVENANCE), "metrics": metrics, **own.mark(config)},
        embed_dim=stage.embed_dim,
        clip_fingerprint=stage.frozen_clip.fingerprint if stage.uses_embeddings else None,
        files=files_of(getattr(resolved.config, "model", None)),
    )
    if tracker is not None:
        tracker.finished(summary, artifact, kind=resolved.stage.kind)
    require_there(folder)
    return Finished(folder, artifact.path, summary)


def _validated(
    stage: Stage, trainer: L.Trainer, checkpoint: Path | None = None
) -> dict[str, float]:
    """What a validation says, of a checkpoint's weights if one is given."""
    found = trainer.validate(
        stage,
        datamodule=trainer.datamodule,  # type: ignore[attr-defined]
        verbose=False,
        ckpt_path=checkpoint,
        weights_only=True,
    )
    return {k: float(v) for result in found for k, v in result.items()}


def _restore(stage: Stage, trainer: L.Trainer, best: Path, samples: Samples) -> dict[str, float]:
    """Take the weights of ``best`` and draw with them; its curve was logged when it was trained."""
    loggers, trainer.loggers = trainer.loggers, []
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if not any(isinstance(callback, SamplesAtEnd) for callback in callbacks):
        callbacks.append(SamplesAtEnd(samples))
    found = _validated(stage, trainer, best)
    trainer.loggers = loggers
    if trainer.is_global_zero:
        ended = f"ended after step {trainer.global_step:,}"
        say(f"{ended}; the weights are those of step {step_of(best):,}, the best", error=True)
    return found


def _logged(folder: Path) -> float:
    """Samples per second, as training logged it last."""
    found = curves(read_metrics(folder / METRICS)).get("samples_per_second")
    return found[-1][1] if found else 0.0
