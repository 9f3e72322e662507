"""What makes the host wait for the GPU in a step, by CUDA's own word, and how long data keep it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from unclip.machine.check import Check, Machine, Row, needs_gpu
from unclip.machine.stages import REFERENCE, STAGES, run_of
from unclip.runs.train import train
from unclip.tracking.files import SUMMARY, read_json
from unclip.training.stage import Stage

WARM = 2  # steps, which look for algorithms and fill caches
STEPS = 20


@contextmanager
def _watching() -> Iterator[None]:
    """While it lasts, CUDA warns of waits between a batch's arrival and the optimizer's step."""
    begin, clip = Stage.on_train_batch_start, Stage.configure_gradient_clipping

    def begun(self: Stage, batch: Any, batch_idx: int) -> None:
        begin(self, batch, batch_idx)
        if self.global_step >= WARM:
            torch.cuda.set_sync_debug_mode("warn")

    def clipped(self: Stage, *args: Any, **kwargs: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")
        clip(self, *args, **kwargs)

    Stage.on_train_batch_start = begun  # type: ignore[method-assign]
    Stage.configure_gradient_clipping = clipped  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
        Stage.on_train_batch_start = begin  # type: ignore[method-assign]
        Stage.configure_gradient_clipping = clip  # type: ignore[method-assign]


def measure(item: str, machine: Machine) -> list[Row]:
    """Train the stage ``item``; each wait between a batch's arrival and the optimizer's step."""
    folder = machine.folder / "waits" / item
    given = {"trainer.log_every": str(STEPS), "trainer.max_steps": str(STEPS)}
    with warnings.catch_warnings(record=True) as said, _watching():
        warnings.simplefilter("always")
        train(run_of(machine, item, folder, **given))  # draws on the GPU, as training does
    waits = [w for w in said if "synchroniz" in str(w.message)]
    places = sorted({f"{w.filename.rpartition('site-packages/')[2]}:{w.lineno}" for w in waits})
    waited = float(read_json(folder / SUMMARY)["data_wait"])
    return [
        Row(
            f"{item}, waits of the host in {STEPS - WARM} steps",
            f"{len(waits)}{': ' if places else ''}{', '.join(places[:3])}",
            "0",
            not waits,
            {"waits": float(len(waits))},
        ),
        Row(
            f"{item}, share of a step waiting for data", f"{waited:.1%}", numbers={"share": waited}
        ),
    ]


CHECK = Check(
    "waits",
    "what makes the host wait",
    tuple(STAGES),
    measure,
    after=(REFERENCE,),
    needs=needs_gpu,
)
