"""Builds Lightning's trainer from an experiment."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, TQDMProgressBar

from unclip.training import precision, strategies
from unclip.training.callbacks import ProgressLines
from unclip.training.config import TrainerConfig
from unclip.training.world import device_of

QUIET = (
    ".*does not have many workers.*",
    ".*is smaller than the logging interval.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*GPU available but not used.*",
    ".*`_DataLoaderSampler.*",
    ".*Total length of `.*` across ranks is zero.*",  # data.held_out=0
    ".*in eval mode at the start of training.*",
    ".*Grad strides do not match bucket view strides.*",  # of 1 x 1 kernels: no matter
    ".*lr_scheduler.step.*before.*optimizer.step.*",
)


class StepLearningRate(LearningRateMonitor):
    """Logs the learning rate once per optimizer step; Lightning's does per micro-batch."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Before the first micro-batch of a step."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)


def quiet() -> None:
    """Lightning speaks of errors alone."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*`isinstance\\(treespec, LeafSpec\\)`.*")


def build(
    config: TrainerConfig, *, folder: Path, callbacks: list[L.Callback], loggers: list[Any]
) -> L.Trainer:
    """A trainer that counts optimizer steps; checkpoints are the business of a callback."""
    for message in QUIET:
        warnings.filterwarnings("ignore", message)
    terminal = sys.stderr.isatty()
    device = device_of(config.accelerator)
    return L.Trainer(
        accelerator=_accelerator(device),  # Lightning's `auto` takes MPS
        devices=config.here,
        num_nodes=config.nodes,
        strategy=strategies.build(config),
        enable_checkpointing=False,
        max_steps=config.max_steps,
        max_epochs=-1,
        plugins=[precision.build(config, device)],
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.grad_clip or None,
        log_every_n_steps=config.log_every,
        val_check_interval=(config.val_every or config.max_steps) * config.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        inference_mode=False,  # what FSDP gathers in it could not be written again
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=terminal,
        logger=loggers,
        callbacks=[
            *callbacks[:-1],
            StepLearningRate("step"),
            TQDMProgressBar(refresh_rate=5) if terminal else ProgressLines(),
            callbacks[-1],
        ],
        default_root_dir=folder,
    )


def _accelerator(device: torch.device) -> str:
    """Lightning's word for the kind of ``device``."""
    return "gpu" if device.type == "cuda" else device.type
