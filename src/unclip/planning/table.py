"""A plan as text and as JSON, in figures that add up as they are printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from unclip.common.counted import counted
from unclip.planning.changes import Change
from unclip.planning.memory import Memory
from unclip.planning.plan import HEADROOM, Plan, PlannedLayout

BYTES = ("B", "KiB", "MiB", "GiB")
FLOPS = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP")


class Unit(NamedTuple):
    """What a table's figures are printed in, to a hundredth."""

    name: str
    size: float


def unit(value: float, names: Sequence[str], base: float) -> Unit:
    """The largest of ``names``, each ``base`` times the one before, of which ``value`` has ten."""
    power = 0
    while power + 1 < len(names) and value >= 10 * base ** (power + 1):
        power += 1
    return Unit(names[power], base**power)


def hundredths(parts: Sequence[float], unit: Unit, total: int | None = None) -> list[int]:
    """``parts`` in hundredths of ``unit``, rounded to add up to ``total``, their sum if None.

    All are rounded down; those that lost most get one more until the sum is right.
    """
    exact = [100 * part / unit.size for part in parts]
    counts = [int(x) for x in exact]
    lost = sorted(range(len(parts)), key=lambda k: counts[k] - exact[k])
    missing = (round(sum(exact)) if total is None else total) - sum(counts)
    for k in lost[:missing]:
        counts[k] += 1
    return counts


def shown(count: int) -> str:
    """A number of hundredths."""
    return f"{count / 100:,.2f}"


def text(
    plan: Plan, change: Change | None = None, *, command: str = "", clip_name: str = ""
) -> str:
    """What is printed.

    Args:
        plan: The experiment's.
        change: With which it fits, where no strategy alone does.
        command: Which trains the experiment as it is.
        clip_name: Of the frozen CLIP, where the experiment's path of it means nothing.
    """
    experiment, device = plan.experiment.config, plan.device
    trainer = experiment.trainer
    memory = unit(max(row.need.memory.total for row in plan.rows), BYTES, 1024)
    flops = unit(plan.flops + plan.clip_flops, FLOPS, 1000)
    network, clip = hundredths([plan.flops, plan.clip_flops], flops)
    frozen = (
        f", {plan.sizes.clip:,} frozen ({clip_name or experiment.clip})" if plan.sizes.clip else ""
    )
    base = f" of {plan.sizes.trained + plan.sizes.frozen:,}" * bool(plan.sizes.frozen)
    of = f" = {shown(network)} forward and backward + {shown(clip)} frozen CLIP"
    peak = device.peak(trainer.precision) / 1e12
    room, whole = ((1 - HEADROOM) * device.memory / 2**30, device.memory / 2**30)
    lines = [
        f"{plan.experiment.name} on {plan.gpus} x {device.name}, {trainer.precision}",
        f"samples     {experiment.data.batch_size:,} a step = {counted(plan.gpus, 'process')} x "
        f"{trainer.accumulate} x {plan.micro_batch}",
        f"parameters  {plan.sizes.trained:,} trained{base}{frozen}",
        f"arithmetic  {shown(network + clip)} {flops.name} a step{of if frozen else ''}; "
        "recomputation comes on top",
        f"speed       {plan.mfu:g} of {peak:,.5g} TFLOP/s a process; "
        f"{counted(trainer.max_steps, 'step')}",
        f"memory      {room:,.1f} of {whole:,.1f} GiB may be used; below, {memory.name} a process",
        "",
        *_table(plan, memory, flops),
        "",
        *_choice(plan, memory),
        *([] if change is None else _change(change, command)),
    ]
    return "\n".join(lines)


def _table(plan: Plan, memory: Unit, flops: Unit) -> list[str]:
    """A line per row, under its titles."""
    titles = ["strategy", "checkpointing", *Memory._fields, "total", "", flops.name]
    lines = [[*titles, "s/step", "days", "GPU-days", ""]]
    for row in plan.rows:
        layout, parts = row.layout, hundredths(row.need.memory, memory)
        lines.append(
            [
                layout.strategy + " + cpu_offload" * layout.cpu_offload,
                layout.activation_checkpointing,
                *(shown(count) for count in (*parts, sum(parts))),
                "fits" if row.fits else "too large",
                f"{row.flops / flops.size:,.2f}",
                f"{row.seconds:,.3f}" if row.seconds < 10 else f"{row.seconds:,.1f}",
                f"{row.days:,.2f}",
                f"{row.days * plan.gpus:,.1f}",
                "as the experiment says" if row.asked else "",
            ]
        )
    words = {0, 1, len(Memory._fields) + 3, len(lines[0]) - 1}
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return [
        "  ".join(
            cell.ljust(width) if k in words else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    ]


def _choice(plan: Plan, memory: Unit) -> list[str]:
    """The row to take, what its `other` is, and what to type."""
    row = plan.chosen
    total = hundredths(row.need.memory, memory)[-1]  # of the field other
    counts = hundredths(list(row.need.other.values()), memory, total)
    other = [f"{name} {shown(count)}" for name, count in zip(row.need.other, counts) if count]
    lines = [f"other: {', '.join(other)}"] if other else []
    if row.need.host and plan.device.gpu:
        lines.append(f"in the machine's memory: {row.need.host / memory.size:,.1f} per process")
    if not row.fits:
        return [*lines, "nothing fits: more or larger devices, or a larger trainer.accumulate"]
    layout = row.layout
    words = [layout.strategy, f"checkpointing {layout.activation_checkpointing}"]
    words += ["cpu_offload"] * layout.cpu_offload
    wanted = " ".join(plan.overrides) or "nothing, the experiment says so already"
    return [*lines, f"first that fits: {', '.join(words)}", f"run with: {wanted}"]


def _change(change: Change, command: str) -> list[str]:
    """The smallest change with which it fits, and what it then takes."""
    row = change.plan.chosen
    gib = row.need.memory.total / 2**30
    return [
        f"smallest change that fits on the device: {' '.join(change.overrides)} ({gib:,.1f} GiB)",
        f"run with: {command} {' '.join(change.overrides)}",
    ]


def as_json(plan: Plan, change: Change | None = None) -> dict[str, Any]:
    """Everything, in bytes, seconds and operations; what has no row of its own is the chosen's."""
    trainer = plan.experiment.config.trainer
    return {
        "experiment": plan.experiment.name,
        "device": plan.device.name,
        "gpus": plan.gpus,
        "mfu": plan.mfu,
        "precision": trainer.precision,
        "micro_batch": plan.micro_batch,
        "max_steps": trainer.max_steps,
        "parameters": plan.sizes.trained,
        "frozen_parameters": plan.sizes.frozen,
        "clip_parameters": plan.sizes.clip,
        "flops_per_step": plan.flops,
        "clip_flops_per_step": plan.clip_flops,
        "device_memory_bytes": plan.device.memory,
        **_row(plan, plan.chosen),
        "overrides": plan.overrides,
        "change": None if change is None else change.overrides,
        "rows": [_row(plan, row) for row in plan.rows],
    }


def _row(plan: Plan, row: PlannedLayout) -> dict[str, Any]:
    return {
        **row.layout._asdict(),
        "fits": row.fits,
        "as_the_experiment_says": row.asked,
        "memory_bytes_per_gpu": row.need.memory.total,
        "memory": row.need.memory._asdict(),
        "other": row.need.other,
        "host_bytes_per_process": row.need.host,
        "hardware_flops_per_step": row.flops,
        "step_seconds": row.seconds,
        "days": row.days,
        "gpu_days": row.days * plan.gpus,
    }
