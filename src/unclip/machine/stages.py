"""Every stage in minute, trained for a few steps: what a machine makes of it, in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from unclip.config.load import load_experiment
from unclip.machine.check import Machine
from unclip.runs.fit import fit
from unclip.runs.train import train
from unclip.tracking.files import METRICS, curves, read_metrics
from unclip.training.random import StepRandom
from unclip.training.stage import Stage

REFERENCE = "reference"
STEPS = 4
COMMON = {
    "data.batch_size": "8",
    "data.val_samples": "8",
    "data.num_workers": "0",
    "trainer.max_steps": str(STEPS),
    "trainer.log_every": "1",
    "trainer.val_every": "0",
    "trainer.sample_every": "0",
    "trainer.precision": "32",
    "trainer.compile": "none",
    "optim.warmup_steps": "0",
    # Else a gradient that is 0 but for rounding moves a weight by a whole learning rate.
    "optim.eps": "1e-6",
}
FEW = {"sampler.steps": "4"}
SMALL_UNET = {"model.unet.multiples": "[1, 2]", "model.unet.attention": "[16]"}
STAGES: dict[str, tuple[str, dict[str, str]]] = {
    "clip": (
        "clip/tiny",
        {"model.vision": "vit", "model.patch_size": "8", "model.vision_width": "64"}
        | {"model.vision_layers": "2", "model.text_layers": "1"},
    ),
    "prior": ("prior/diffusion_tiny", {"model.layers": "2", "sampler.candidates": "1"} | FEW),
    "prior_ar": ("prior/ar_tiny", {"model.layers": "2"}),
    "decoder": ("decoder/tiny", SMALL_UNET | FEW),
    "upsampler": ("upsampler/tiny", {"model.image_size": "64", "model.low_size": "16"} | FEW),
}
"""What stands for each stage: a shipped experiment and what is changed in it."""


class HostRandom(StepRandom):
    """Draws on the CPU, so that losses on any device can be compared (dropout is 0)."""

    def normal(self, purpose: str, shape: Any) -> Tensor:
        """As on a CPU."""
        return self._on_the_cpu().normal(purpose, shape).to(self.device)

    def uniform(self, purpose: str, batch: int, *each: int) -> Tensor:
        """Likewise."""
        return self._on_the_cpu().uniform(purpose, batch, *each).to(self.device)

    def _on_the_cpu(self) -> StepRandom:
        place = (self.seed, self.step, self.rank, self.world)
        return StepRandom(*place, "cpu", self.before, self.after)


@contextmanager
def drawing_on_the_host() -> Iterator[None]:
    """While it lasts, stages draw by `HostRandom`."""
    before, Stage.step_random = Stage.step_random, HostRandom
    try:
        yield
    finally:
        Stage.step_random = before


def run_of(machine: Machine, kind: str, folder: Path, **changes: str) -> Any:
    """The experiment of a stage with its run in ``folder``; changes with __ for each dot."""
    name, own = STAGES[kind]
    where = {"run.dir": str(folder), "trainer.accelerator": "gpu" if machine.gpu else "cpu"}
    for parent in load_experiment(name).stage.parents:
        where[parent] = str(machine.folder / REFERENCE / parent)
    given = {key.replace("__", "."): value for key, value in changes.items()}
    settings = COMMON | own | where | given
    return load_experiment(name, [f"{key}={value}" for key, value in settings.items()])


def trained(machine: Machine, kind: str, folder: Path, **changes: str) -> list[float]:
    """Train a stage; the loss of every step."""
    with drawing_on_the_host():
        train(run_of(machine, kind, folder, **changes))
    return losses(folder)


def losses(folder: Path) -> list[float]:
    """Of every step of a run."""
    return [value for _, value in curves(read_metrics(folder / METRICS))["train/loss"]]


def fit_pca(machine: Machine, folder: Path) -> None:
    """Fit the codec of the reference's CLIP."""
    clip = machine.folder / REFERENCE / "clip"
    given = ["trainer.accelerator=cpu", "pca.samples=64", "pca.buckets=16", "pca.components=8"]
    given += ["data.batch_size=32", "pca.max_error=null"]
    fit(load_experiment("pca/tiny", [f"run.dir={folder}", f"clip={clip}", *given]))


def expected(machine: Machine, kind: str) -> list[float]:
    """The losses of the reference, on the CPU in float32.

    Raises:
        RuntimeError: there are none.
    """
    folder = machine.folder / REFERENCE / kind
    if not (folder / METRICS).exists():
        raise RuntimeError(f"the check `{REFERENCE}` left no {kind} to compare with")
    return losses(folder)
