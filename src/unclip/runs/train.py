"""One training run: from a resolved experiment to an exported artifact."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L

from data_modules.base import StageData
from unclip.common.errors import UserError
from unclip.common.processes import die_with_parent, interruptible
from unclip.common.terminal import say
from unclip.config.load import ResolvedExperiment
from unclip.data.loader import local_batch_size
from unclip.nn import attention
from unclip.runs import init
from unclip.runs.cached_data import cached_data
from unclip.runs.evaluating import EvaluateSamples
from unclip.runs.finish import SamplesAtEnd, finish, restoring
from unclip.runs.fit import fit
from unclip.runs.folders import acquire_run, folder_to_resume, shared, shared_folder
from unclip.runs.learned_word import about_word, require_said
from unclip.runs.parents import Parents, load_parents, parents, refuse_fitted
from unclip.runs.record import origin_of_run, tracked_run
from unclip.runs.resume import (
    about_run,
    check_length,
    check_same,
    continued,
    is_whole,
    resume_notes,
)
from unclip.tracking.local import JsonlLogger
from unclip.tracking.report import Finished
from unclip.tracking.tracker import Tracker
from unclip.training import determinism, strategies
from unclip.training.callbacks import Samples, StepNumbers, Throughput
from unclip.training.checkpoint_callback import CheckpointCallback, has_stopped
from unclip.training.checkpoint_damage import newest_whole
from unclip.training.checkpoint_folders import step_of
from unclip.training.ema import EmaCallback
from unclip.training.forecast import Forecast
from unclip.training.stage import Stage
from unclip.training.strategies import processes_started
from unclip.training.trainer import build, quiet
from unclip.training.world import device_of


def train(
    resolved: ResolvedExperiment,
    *,
    resume: bool = False,
    force: bool = False,
    with_parents: bool = False,
) -> Finished:
    """Train ``resolved`` (or continue it) and export its artifact.

    A run is continued with the settings that it has, and what ``resolved`` has from the command
    line. ``with_parents`` first trains the experiments it depends on that have no finished run.

    Raises:
        UserError: something that the user can fix, in one line.
    """
    if not isinstance(resolved, ResolvedExperiment):
        raise UserError(f"train: give what load_experiment({resolved!r}) returns, not its name")
    refuse_fitted(resolved)
    along = shared_folder(resolved)
    typed, resumed, old = resolved, None, None
    if resume:
        old = along or folder_to_resume(typed)
        resumed = continued(typed, old)
        resolved = resumed.experiment
        max_steps = resolved.config.trainer.max_steps
        if is_whole(old, max_steps) and not resumed.at_end:
            if not along:
                say(resumed.finished_line(old))
            return Finished.load(old)
    if along and processes_started() is None:
        die_with_parent(kill=True)  # nothing can be saved without the first process
    with interruptible("continue with --resume"), ExitStack() as stack:
        trainer = resolved.config.trainer
        strategies.count_devices(trainer)
        strategies.build(trainer)  # refuses what this machine does not have
        size, accumulate = resolved.config.data.batch_size, trainer.accumulate
        local_batch_size(size, world=trainer.processes, accumulate=accumulate)  # refuses a rest
        own = None if along else stack.enter_context(acquire_run(resolved, resume=old, force=force))
        make = make_parent if with_parents else None
        depends_on = parents(resolved, make=make)
        if resumed is None:
            depends_on = depends_on._replace(init=init.find(resolved, make=make))
        elif old is not None and init.needed(resolved.config):
            depends_on = depends_on._replace(init=init.base_of(old))
        determinism.pin_threads(trainer)
        folder = along or own.folder  # type: ignore[union-attr]
        stack.enter_context(shared(folder))  # Lightning's further processes run the same command
        checkpoint, noted = None, dict[str, Any]()
        if resumed is not None:
            checkpoint = newest_whole(folder, say=own is not None)
            check_length(checkpoint, trainer.max_steps)
        stack.enter_context(determinism.apply(trainer))
        data, stage, begun = assemble(resolved, depends_on, resumed=checkpoint is not None)
        if checkpoint is not None:
            begun = init.recorded(folder)
        data.cached = cached_data(resolved.config, data)
        origin = origin_of_run(resolved, depends_on, stage.clip, data, begun)
        if resumed is not None and checkpoint is not None:
            check_same(checkpoint, folder, resolved.config, origin)
            noted = {"step": step_of(checkpoint), "changed": resumed.changed}
        if own:
            stack.enter_context(own.start(resolved, origin, **noted))
            resuming = f", resuming {checkpoint.name}" if checkpoint else ""
            say(f"{resolved.name}: {folder}{resuming}")
            if begun is not None and checkpoint is None:
                say(begun.line(), error=True)
            if stage.learns_word:
                say(about_word(stage), error=True)
            for line in resume_notes(typed, resumed) if resumed else ():
                say(line, error=True)
            if sys.stderr.isatty() and not resolved.config.tracking.wandb:
                hint = "tracking.wandb=true sends metrics to W&B too"
                say(hint, error=True)
        stack.enter_context(attention.backend(trainer.attention))
        tracker = stack.enter_context(
            tracked_run(resolved, depends_on, own.folder if own else None)
        )
        about = about_run(resolved.config, origin)
        return _fit(resolved, stage, data, folder, checkpoint, tracker, about)


class Assembled(NamedTuple):
    """What a run trains, and on what."""

    data: StageData
    stage: Stage
    begun: init.Begun | None  # of the weights that it begins from


def assemble(
    resolved: ResolvedExperiment, depends_on: Parents, *, resumed: bool = False
) -> Assembled:
    """Data and stage of an experiment; sizes that its parents decide are filled in.

    ``resumed`` says that the stage will load a checkpoint, which lacks an adapter's base.
    """
    experiment = resolved.config
    quiet()
    L.seed_everything(experiment.trainer.seed, workers=True, verbose=False)
    loaded = load_parents(experiment, depends_on)
    resolved.stage.fill(experiment, loaded.sizes())
    data = resolved.stage.data_module(experiment, loaded.clip)
    data.setup()
    stage = resolved.stage.build_stage(experiment, loaded)
    begun = None
    if depends_on.init is not None:
        begun = init.begin(resolved, stage, depends_on.init, loaded)
        stage.begun()
    if not resumed and (begun is None or {*stage.fitted} & {*begun.new}):
        stage.prepare(data, device_of(experiment.trainer.accelerator))
    stage.adapt()
    if stage.learns_word:
        tokenize = stage.frozen_clip.model.tokenize
        word = experiment.adapter.token
        require_said(word, data.splits.train, tokenize, key="adapter.token")
    return Assembled(data, stage, begun)


def _fit(
    resolved: ResolvedExperiment,
    stage: Stage,
    data: StageData,
    folder: Path,
    checkpoint: Path | None,
    tracker: Tracker | None,
    about: dict[str, Any],
) -> Finished:
    experiment, log_every = resolved.config, resolved.config.trainer.log_every
    start = 0 if checkpoint is None else step_of(checkpoint)
    max_steps = experiment.trainer.max_steps
    if checkpoint is not None and has_stopped(checkpoint, experiment.trainer):
        max_steps = start
    local = JsonlLogger(folder)
    if checkpoint is not None and not shared_folder(resolved):
        ended = start == max_steps
        # val_every=0 validates the last step twice, as a step and as the end.
        every = experiment.trainer.val_every or max_steps + ended
        local.forget_after(start, val_every=every, end=ended)
    loggers: list[Any] = [local]
    publish = None
    if tracker is not None:
        loggers.append(tracker)
        publish = tracker.publish
    throughput = Throughput(experiment.data.batch_size, log_every, lambda: data.skipped)
    forecast = Forecast(resolved.stage.kind, throughput)
    samples = Samples(
        folder / "samples",
        experiment.trainer.sample_every,
        publish,
        is_last=lambda step: keeper.best_before(step) is None,
    )
    callbacks: list[L.Callback] = [StepNumbers(), throughput, forecast, samples]
    monitor, judges = stage.monitor, {}
    if (evaluated := experiment.evaluated) is not None:
        measured = EvaluateSamples(evaluated, stage, data)
        monitor, judges = measured.monitor, {"judges": measured.due}
        callbacks.append(measured)
    keeper = CheckpointCallback(folder, experiment.trainer, monitor, about, **judges)
    if start == max_steps:  # all but the end is there
        callbacks.append(SamplesAtEnd(samples))
    if stage.ema is not None:
        callbacks.insert(0, EmaCallback(experiment.ema))
    trainer = build(
        replace(experiment.trainer, max_steps=max_steps),
        folder=folder,
        callbacks=[*callbacks, keeper],
        loggers=loggers,
    )
    began = os.times()
    with restoring(checkpoint, keeper):
        trainer.fit(stage, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return finish(
        resolved,
        stage,
        trainer,
        folder,
        start=start,
        began=began,
        samples=samples,
        throughput=throughput,
        forecast=forecast,
        keeper=keeper,
        tracker=tracker,
    )


def make_parent(resolved: ResolvedExperiment) -> Path:
    """Train or fit an experiment that another one depends on; its artifact."""
    return train(resolved).artifact if resolved.stage.trains else fit(resolved)
