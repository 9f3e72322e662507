"""One training run: from a resolved experiment to an exported artifact."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor

from data_modules.base import StageData
from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.config.load import ResolvedExperiment
from unclip.nn import attention
from unclip.runs.fit import fit
from unclip.runs.folders import acquire_run, same_model, shared, shared_folder
from unclip.runs.parents import Parents, load_parents, parents
from unclip.runs.record import origin_of_run, tracked_run
from unclip.tracking.files import PROVENANCE, SUMMARY, read_json
from unclip.tracking.local import JsonlLogger
from unclip.tracking.report import Finished
from unclip.tracking.tracker import Tracker
from unclip.training import determinism
from unclip.training.callbacks import Samples, Throughput, peak_memory_bytes
from unclip.training.checkpoint_callback import CheckpointCallback
from unclip.training.checkpoint_folders import newest_checkpoint, newest_whole, step_of
from unclip.training.ema import EmaCallback
from unclip.training.stage import Stage
from unclip.training.trainer import build, quiet
from unclip.training.world import World, device_of


def train(
    resolved: ResolvedExperiment,
    *,
    resume: bool = False,
    force: bool = False,
    with_parents: bool = False,
) -> Finished:
    """Train ``resolved`` (or continue it) and export its artifact.

    ``with_parents`` first trains the experiments it depends on that have no finished run.

    Raises:
        UserError: something that the user can fix, in one line.
    """
    if not isinstance(resolved, ResolvedExperiment):
        raise UserError(f"train: give what load_experiment({resolved!r}) returns, not its name")
    depends_on = parents(resolved, make=make_parent if with_parents else None)
    trainer = resolved.config.trainer
    determinism.pin_threads(trainer)
    with ExitStack() as stack:
        along = shared_folder(resolved)
        own = (
            None
            if along
            else stack.enter_context(acquire_run(resolved, resume=resume, force=force))
        )
        folder = along or own.folder  # type: ignore[union-attr]
        stack.enter_context(shared(folder))  # Lightning's further processes run the same command
        checkpoint = None
        if resume:
            checkpoint = newest_checkpoint(folder) if along else newest_whole(folder)
        stack.enter_context(determinism.apply(trainer))
        data, stage = assemble(resolved, depends_on, resumed=folder if checkpoint else None)
        if own:
            stack.enter_context(
                own.start(resolved, origin_of_run(resolved, depends_on, stage.clip, data))
            )
            resuming = f", resuming {checkpoint.name}" if checkpoint else ""
            print(f"{resolved.name}: {folder}{resuming}", flush=True)
            if sys.stderr.isatty() and not resolved.config.tracking.wandb:
                hint = "tracking.wandb=true sends metrics to W&B too"
                print(hint, file=sys.stderr)
        stack.enter_context(attention.backend(trainer.attention))
        tracker = stack.enter_context(
            tracked_run(resolved, depends_on, own.folder if own else None)
        )
        return _fit(resolved, stage, data, folder, checkpoint, tracker)


def assemble(
    resolved: ResolvedExperiment, depends_on: Parents, *, resumed: Path | None = None
) -> tuple[StageData, Stage]:
    """Data and stage of an experiment; sizes that its parents decide are filled in.

    ``resumed`` is the folder of the run whose checkpoint the stage will load.
    """
    experiment = resolved.config
    quiet()
    L.seed_everything(experiment.trainer.seed, workers=True, verbose=False)
    loaded = load_parents(experiment, depends_on)
    resolved.stage.fill(experiment, loaded.sizes())
    data = resolved.stage.data_module(experiment, loaded.clip)
    data.setup()
    if resumed is not None:
        same_model(resumed, experiment)
    stage = resolved.stage.build_stage(experiment, loaded)
    if resumed is None:
        stage.prepare(data, device_of(experiment.trainer.accelerator))
    return data, stage


def _fit(
    resolved: ResolvedExperiment,
    stage: Stage,
    data: StageData,
    folder: Path,
    checkpoint: Path | None,
    tracker: Tracker | None,
) -> Finished:
    experiment = resolved.config
    local = JsonlLogger(folder)
    if checkpoint is not None and not shared_folder(resolved):
        local.forget_after(step_of(checkpoint))
    loggers: list[Any] = [local]
    publish = None
    if tracker is not None:
        loggers.append(tracker)
        publish = tracker.publish
    batch_size, log_every = experiment.data.batch_size, experiment.trainer.log_every
    throughput = Throughput(batch_size, log_every, lambda: data.skipped)
    samples = Samples(folder / "samples", experiment.trainer.sample_every, publish)
    callbacks: list[L.Callback] = [throughput, samples]
    if stage.ema is not None:
        callbacks.insert(0, EmaCallback(experiment.ema))
    callbacks.append(CheckpointCallback(folder, experiment.trainer, stage.monitor))
    trainer = build(experiment.trainer, folder=folder, callbacks=callbacks, loggers=loggers)
    began = time.perf_counter()
    trainer.fit(stage, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
    if trainer.global_step % (experiment.trainer.val_every or trainer.global_step + 1):
        metrics |= {
            k: float(v)
            for result in trainer.validate(stage, datamodule=data, verbose=False)
            for k, v in result.items()
        }
    metrics |= samples.metrics
    weights = stage.weights()
    skipped = sum(World.here().gather(data.skipped))
    if not trainer.is_global_zero:
        raise SystemExit  # the first process does the rest
    summary = {
        "experiment": resolved.name,
        "steps": trainer.global_step,
        "loss": metrics.get("val/loss", metrics.get("train/loss")),
        "quality": {"name": stage.monitor.name, "value": metrics.get(stage.monitor.name)},
        "samples_per_second": throughput.samples_per_second,
        "data_wait": throughput.waited / throughput.seconds if throughput.seconds else 0.0,
        "data_skipped": skipped,
        "peak_memory_gib": peak_memory_bytes(stage.device) / 2**30,
        "seconds": time.perf_counter() - began,
        "parameters": sum(p.numel() for p in stage.net.parameters()),
        "metrics": metrics,
    }
    artifact = _export(resolved, stage, weights, folder, metrics)
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
    if tracker is not None:
        tracker.finished(summary, artifact, kind=resolved.stage.kind)
    return Finished(folder, artifact.path, summary)


def _export(
    resolved: ResolvedExperiment,
    stage: Stage,
    weights: dict[str, Tensor],
    folder: Path,
    metrics: dict[str, float],
) -> artifacts.Artifact:
    return artifacts.export(
        folder / "artifact",
        stage=resolved.stage.name,
        weights=weights,
        config=resolved.as_dict(),
        provenance={**read_json(folder / PROVENANCE), "metrics": metrics},
        embed_dim=stage.embed_dim,
        clip_fingerprint=stage.frozen_clip.fingerprint if stage.uses_embeddings else None,
    )


def make_parent(resolved: ResolvedExperiment) -> Path:
    """Train or fit an experiment that another one depends on; its artifact."""
    return train(resolved).artifact if resolved.stage.trains else fit(resolved)
