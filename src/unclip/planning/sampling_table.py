"""A plan of sampling as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unclip.planning.sampling import HEADROOM, CascadePlan, DeviceCost, StageCost

_GIB, _TERA = 2**30, 1e12


def text(plan: CascadePlan) -> str:
    """What is printed: a line per stage, then a line per device."""
    count = sum(stage.parameters for stage in plan.stages)
    of = "1 image" if plan.batch == 1 else f"{plan.batch:,} images"
    stages = [["stage", "parameters", "float32", "half", "evaluations", "samples", "TFLOP"]]
    for stage in plan.stages:
        sizes = [_gib(stage.weights("32")), _gib(stage.weights("bf16"))]
        network = [f"{stage.evaluations:,}", f"{stage.rows:,}", f"{_flops(stage) / _TERA:,.2f}"]
        none = ["-"] * len(network)  # the CLIP reads a caption once
        stages.append(
            [stage.label, f"{stage.parameters:,}", *sizes, *(network if stage.rows else none)]
        )
    titles = ["precision", "weights", "activations", "peak", "of", "", "machine's memory"]
    devices = [["device", *titles, "seconds"]]
    for each in plan.devices:
        room = [each.weights, each.activations, each.peak, each.device.memory]
        devices.append(
            [
                each.device.name,
                each.precision,
                *map(_gib, room),
                "fits" if each.fits else "too large",
                _gib(each.host),
                f"{each.seconds:,.2f}" if each.seconds < 100 else f"{each.seconds:,.0f}",
            ]
        )
    return "\n".join(
        [
            f"{plan.name}: {count:,} parameters, {of} at a time; memory in GiB",
            "",
            *_lines(stages, left={0}),
            "",
            *_lines(devices, left={0, 1, 6}),
            "",
            f"seconds are arithmetic at {plan.mfu:g} of the device's peak; a device fits if "
            f"{HEADROOM:.0%} of it are left",
            f"to import it takes {_gib(plan.importing)} GiB of the machine's memory",
        ]
    )


def _lines(rows: Sequence[Sequence[str]], left: set[int]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            cell.ljust(width) if k in left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


def _gib(size: int) -> str:
    return f"{size / _GIB:,.2f}"


def _flops(stage: StageCost) -> int:
    return stage.evaluations * stage.flops


def as_json(plan: CascadePlan) -> dict[str, Any]:
    """Everything, in bytes, seconds and operations."""
    return {
        "cascade": plan.name,
        "batch": plan.batch,
        "mfu": plan.mfu,
        "parameters": sum(stage.parameters for stage in plan.stages),
        "stages": [
            {
                "stage": stage.label,
                "parameters": stage.parameters,
                "weights_bytes": stage.weights("32"),
                "weights_bytes_half": stage.weights("bf16"),
                "file_bytes": stage.file,
                "evaluations": stage.evaluations,
                "samples": stage.rows,
                "flops": _flops(stage),
            }
            for stage in plan.stages
        ],
        "import_bytes": plan.importing,
        "devices": [_device(each) for each in plan.devices],
    }


def _device(each: DeviceCost) -> dict[str, Any]:
    return {
        "device": each.device.name,
        "precision": each.precision,
        "device_memory_bytes": each.device.memory,
        "weights_bytes": each.weights,
        "activations_bytes": each.activations,
        "peak_bytes": each.peak,
        "host_bytes": each.host,
        "fits": each.fits,
        "seconds": each.seconds,
    }
