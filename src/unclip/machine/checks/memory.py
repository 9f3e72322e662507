"""Memory of a training step against `unclip plan`, and of what happens around the steps."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from unclip.machine.check import Check, Machine, Row, needs_gpu
from unclip.machine.checks.utilisation import MIDDLE, searching
from unclip.machine.stages import REFERENCE, run_of
from unclip.machine.step import TrainingStep, costs_of, load, synchronize
from unclip.runs.train import train
from unclip.training.callbacks import Samples
from unclip.training.strategies import Single

WITHIN = 0.15  # of the plan
GIB = 2**30
AROUND = "checkpoint and images"
WAYS = {
    "nothing recomputed": ("none", "none"),
    "recomputed in part": ("selective", "none"),
    "recomputed": ("full", "none"),
    "compiled": ("none", "blocks"),
}
"""Activation checkpointing and compilation. The plan knows no compilation, which saves memory."""


def measure(item: str, machine: Machine) -> list[Row]:
    """One of the ways, or what is around the steps."""
    if item == AROUND:
        return _around(machine)
    checkpointing, compiled = WAYS[item]
    job = MIDDLE[machine.small]
    resolved = load(job)
    costs = costs_of(job, machine)
    planned = costs.total(checkpointing)
    with searching(machine, best=True):
        step = TrainingStep(
            resolved, costs.batch, machine, compiled=compiled, checkpointing=checkpointing
        )
        for _ in range(3):
            step()
        peak = _peak(step, machine)
    ratio = planned / peak
    exact = compiled == "none"
    return [
        Row(
            f"{resolved.name}, batch {costs.batch}, bf16, {item}",
            f"{peak / GIB:.2f} GiB",
            f"plan {planned / GIB:.2f} GiB, within {WITHIN:.0%}" if exact else "",
            abs(ratio - 1) <= WITHIN if exact else None,
            {"bytes": float(peak), "planned": float(planned)},
        )
    ]


def _peak(act: Callable[[], Any], machine: Machine) -> int:
    """Most bytes of tensors that there are while ``act`` runs."""
    gc.collect()
    synchronize(machine)
    torch.cuda.reset_peak_memory_stats()
    act()
    synchronize(machine)
    return torch.cuda.max_memory_allocated()


def _around(machine: Machine) -> list[Row]:
    """A step, a checkpoint and the sample images of a decoder."""
    seen: dict[str, int] = {}
    folder = machine.folder / "memory"
    with _watched(seen):
        wide = {"model.unet.channels": "128", "trainer.checkpoint_every": "2"}
        train(run_of(machine, "decoder", folder, **wide, **{"trainer.sample_every": "2"}))
    step = seen["a step"]
    rows = [Row("a decoder's step", f"{step / GIB:.3f} GiB", numbers={"bytes": float(step)})]
    for name in ("its checkpoint", "its images"):
        told = "no more than the step's" if name == "its checkpoint" else ""
        ok = seen[name] <= step if told else None
        numbers = {"bytes": float(seen[name])}
        rows.append(Row(name, f"{seen[name] / GIB:.3f} GiB", told, ok, numbers))
    return rows


@contextmanager
def _watched(seen: dict[str, int]) -> Iterator[None]:
    """While it lasts, note the peaks: of what is around the steps, and of the steps before it."""
    draw, save = Samples.draw, Single.save_checkpoint

    def noting(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            before = torch.cuda.max_memory_allocated()
            seen.setdefault("a step", before)
            torch.cuda.reset_peak_memory_stats()
            found = act(*args, **kwargs)
            seen[name] = max(seen.get(name, 0), torch.cuda.max_memory_allocated())
            torch.cuda.reset_peak_memory_stats()
            return found

        return noted

    Samples.draw = noting("its images", draw)  # type: ignore[method-assign]
    Single.save_checkpoint = noting("its checkpoint", save)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Samples.draw = draw  # type: ignore[method-assign]
        Single.save_checkpoint = save  # type: ignore[method-assign]


CHECK = Check(
    "memory",
    "memory of a step against `unclip plan`",
    (*WAYS, AROUND),
    measure,
    after=(REFERENCE,),
    needs=needs_gpu,
)
