"""The first check of a stage that does not learn: can it memorise one small batch?

A stage with a sound loss, network and optimizer does so in a minute or two, and what it then
samples for the batch's conditions is the batch. `unclip overfit NAME` says whether; no run
is written.
"""

from __future__ import annotations

import sys
import time
import warnings
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from torch.utils.data import DataLoader

from data_modules.base import StageData
from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.fields import leaves
from unclip.config.load import OVERRIDE, ResolvedExperiment
from unclip.data.batches import UpsamplerBatch
from unclip.runs import init
from unclip.runs.parents import parents
from unclip.runs.train import assemble, make_parent
from unclip.training.callbacks import ProgressLines
from unclip.training.config import EmaConfig
from unclip.training.ema import EmaCallback
from unclip.training.stage import Score, Stage
from unclip.training.trainer import QUIET

BATCH = 4  # samples
AMONG = 64  # the first training samples, of which the batch is chosen
STEPS = 600  # at most
EVERY = 50  # steps, after which is looked whether it has been learned
FALL = 0.4  # the loss must fall below this share of what it was
FIRST, LAST = 3, 20  # steps over which the loss is averaged before and after
SAMPLING_STEPS = 25  # of diffusion samplers
EMA_DECAY = 0.98  # half a life of 34 steps


class Overfitted(NamedTuple):
    """How far the stage has come with the batch."""

    before: float  # the loss
    after: float
    scores: list[Score]  # of samples against the batch

    @property
    def passed(self) -> bool:
        """Both the loss and every score are as they should be; not a number is a failure."""
        return self.after < FALL * self.before and all(s.value >= s.bound for s in self.scores)

    def __str__(self) -> str:
        bound = FALL * self.before
        parts = [f"loss {self.before:.3g} -> {self.after:.3g} (must fall below {bound:.3g})"]
        parts += [f"{s.name} {s.value:.3g} (must reach {s.bound:.3g})" for s in self.scores]
        return ", ".join(parts)


def check(resolved: ResolvedExperiment, *, with_parents: bool = False) -> str:
    """Train the stage on one batch and compare its samples with it; a line that says it passed.

    Raises:
        UserError: the loss did not fall, or the samples are not the batch.
    """
    if resolved.stage.trains:  # `parents` says what is wrong otherwise
        _simplify_unless_typed(resolved)
    make = make_parent if with_parents else None
    depends_on = parents(resolved, make=make)._replace(init=init.find(resolved, make=make))
    data, stage, _ = assemble(resolved, depends_on)
    batch = choose(data)
    began = time.perf_counter()
    watch = _fit(stage, batch)
    took = f"{counted(len(watch.losses), 'step')} of {counted(len(batch.captions), 'sample')}"
    took += f" in {time.perf_counter() - began:.0f} s"
    if not watch.found.passed:
        raise UserError(f"{resolved.name}: not memorised in {took}: {watch.found}")
    return f"{resolved.name}: memorised in {took}: {watch.found}"


def _simplify_unless_typed(resolved: ResolvedExperiment) -> None:
    """`simplify`, and refuse an override that it would undo."""
    wanted = dict(leaves(resolved.as_dict()))
    simplify(resolved.config)
    for key, value in leaves(resolved.as_dict()):
        if value != wanted.get(key) and resolved.origins.get(key) == OVERRIDE:
            raise UserError(f"{key}: `unclip overfit` sets it to {value!r} itself; leave it out")


def simplify(experiment: Any) -> None:
    """Nothing dropped, augmented, corrupted or guided; the rest stays the experiment's own."""
    trainer, optim = experiment.trainer, experiment.optim
    trainer.max_steps, trainer.accumulate = STEPS, 1
    trainer.devices = trainer.nodes = 1
    trainer.strategy, trainer.cpu_offload = "auto", False
    optim.warmup_steps, optim.schedule = min(optim.warmup_steps, STEPS // 10), "constant"
    experiment.data.batch_size = AMONG
    if experiment.averages:
        experiment.ema = EmaConfig(decay=EMA_DECAY)
    experiment.without_noise(steps=SAMPLING_STEPS)


def choose(data: StageData) -> Any:
    """`BATCH` of the first training samples, undisturbed.

    With different captions; for an upsampler, which sees none, the crops in which most is to be
    seen, because a blank one shows nothing.
    """
    batch = next(iter(data.one_pass("train", limit=AMONG)))
    captions = batch.captions
    if isinstance(batch, UpsamplerBatch):
        rows = batch.image.flatten(1).var(dim=1).argsort(descending=True).tolist()
    else:
        rows = [k for k, caption in enumerate(captions) if captions.index(caption) == k]
        if len(rows) < 2:
            raise UserError(
                f"data.source={data.config.source}: overfit needs two samples with different "
                "captions"
            )
    rows = rows[:BATCH]
    parts = (p[rows] if isinstance(p, torch.Tensor) else p and [p[k] for k in rows] for p in batch)
    return type(batch)(*parts)


def _fit(stage: Stage, batch: Any) -> _Watch:
    """Train on ``batch`` alone until it is learned, or `STEPS` are over."""
    for message in (*QUIET, ".*You defined a `validation_step` but have no.*"):
        warnings.filterwarnings("ignore", message)
    terminal = sys.stderr.isatty()
    watch = _Watch(batch)
    callbacks: list[L.Callback] = [watch, TQDMProgressBar() if terminal else ProgressLines()]
    if stage.ema is not None:
        callbacks.insert(0, EmaCallback(stage.experiment.ema))
    settings = stage.experiment.trainer
    trainer = L.Trainer(
        accelerator=settings.accelerator,
        devices=1,
        max_steps=STEPS,
        max_epochs=-1,
        precision=settings.precision,
        gradient_clip_val=settings.grad_clip or None,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=terminal,
        callbacks=callbacks,
    )
    trainer.fit(stage, DataLoader([batch] * STEPS, batch_size=None))  # type: ignore[arg-type]
    if trainer.interrupted:
        raise KeyboardInterrupt
    return watch


class _Watch(L.Callback):
    """Collects losses, compares samples with the batch, and stops when it is learned."""

    def __init__(self, batch: Any):
        self.batch = batch
        self.losses: list[torch.Tensor] = []
        self.found = Overfitted(0.0, 0.0, [])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any
    ) -> None:
        """Keep the loss; now and then look whether that is enough."""
        self.losses.append(outputs["loss"].detach())
        if trainer.global_step % EVERY and trainer.global_step < STEPS:
            return
        stage: Any = pl_module
        stage.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            scores = stage.overfit_scores(
                stage.transfer_batch_to_device(self.batch, stage.device, 0)
            )
        stage.train()
        before, after = (
            torch.stack(part).mean().item() for part in (self.losses[:FIRST], self.losses[-LAST:])
        )
        self.found = Overfitted(before, after, scores)
        trainer.should_stop = self.found.passed
