"""A plan of sampling as text and as JSON."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from typing import Any

from unclip.common.counted import counted
from unclip.planning.sampling import CascadePlan
from unclip.planning.sampling_memory import HEADROOM, DeviceCost, Suggestion

_GIB, _TERA = 2**30, 1e12


def text(plan: CascadePlan) -> str:
    """What is printed: a line per stage, then a line per device."""
    count = sum(stage.parameters for stage in plan.stages)
    of = counted(plan.batch, "image")
    stages = [["stage", "parameters", "float32", "half", "evaluations", "samples", "TFLOP"]]
    for stage in plan.stages:
        sizes = [_gib(stage.weights("32")), _gib(stage.weights("bf16"))]
        network = [f"{stage.evaluations:,}", f"{stage.rows:,}", f"{stage.all_flops / _TERA:,.2f}"]
        none = ["-"] * len(network)  # the CLIP reads a caption once
        stages.append(
            [stage.label, f"{stage.parameters:,}", *sizes, *(network if stage.rows else none)]
        )
    titles = ["precision", "weights", "activations", "peak", "stages", "blocks", "of", ""]
    devices = [["device", *titles, "machine's memory", "seconds"]]
    for each in plan.devices:
        peaks = [each.peaks.get(how) for how in ("none", "stages", "blocks")]
        devices.append(
            [
                each.device.name,
                each.wanted.precision,
                *map(_gib, [each.weights, each.activations]),
                *("-" if peak is None else _gib(peak) for peak in peaks),
                _gib(each.device.memory),
                _fits(each),
                _gib(each.host),
                _seconds(each.seconds),
            ]
        )
    return "\n".join(
        [
            f"{plan.name}: {count:,} parameters, {of} at a time; memory in GiB",
            "",
            *_lines(stages, left={0}),
            "",
            *_lines(devices, left={0, 1, 8}),
            "",
            *(_of_stages(plan.devices[0]) if plan.suggestion else []),
            f"seconds are arithmetic at {plan.mfu:g} of the device's peak; a device fits if "
            f"{HEADROOM:.0%} of it are left",
            "peak without --offload, with --offload stages, and with --offload blocks",
            f"to import it takes {_gib(plan.importing)} GiB of the machine's memory",
            *([_said(plan, plan.suggestion)] if plan.suggestion else []),
        ]
    )


def _fits(each: DeviceCost) -> str:
    how = each.wanted.offload
    return ("fits" if each.fits else "too large") + ("" if how == "none" else f" by {how}")


def _seconds(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    return f"{seconds:,.2f}" if seconds < 100 else f"{seconds:,.0f}"


def _of_stages(each: DeviceCost) -> list[str]:
    """What each stage alone takes of the device that was asked about."""
    precision = each.wanted.precision
    ways = ("stages", "blocks") if each.device.gpu else ("stages",)
    rows = [["on the device", "activations", "and weights", "and one block"][: 2 + len(ways)]]
    for stage in each.stages:
        sizes = [stage.present(precision, how) + stage.activations for how in ways]
        rows.append([stage.label, *map(_gib, [stage.activations, *sizes])])
    return [*_lines(rows, left={0}), ""]


def _said(plan: CascadePlan, suggestion: Suggestion) -> str:
    """The command with which it fits, or that there is none."""
    wanted, cost, changed = suggestion
    room = f"{_gib(cost.peak)} of {_gib(cost.device.memory)} GiB"
    command = shlex.join(
        ["unclip", "sample", "a caption", *plan.command, "--precision", wanted.precision]
        + (["--offload", wanted.offload] if wanted.offload != "none" else [])
        + ["--batch", str(wanted.batch)]
    )
    if not cost.fits:
        return f"nothing fits: the least it takes is {room}, with: {command}"
    return f"{'does not fit as asked, but does' if changed else 'fits'} in {room} with: {command}"


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
                "flops": stage.all_flops,
            }
            for stage in plan.stages
        ],
        "import_bytes": plan.importing,
        "devices": [_device(each) for each in plan.devices],
        "suggestion": None if plan.suggestion is None else _suggestion(plan.suggestion),
    }


def _suggestion(found: Suggestion) -> dict[str, Any]:
    return {
        **found.wanted._asdict(),
        "peak_bytes": found.cost.peak,
        "fits": found.cost.fits,
        "changed": found.changed,
    }


def _device(each: DeviceCost) -> dict[str, Any]:
    precision, offload = each.wanted.precision, each.wanted.offload
    return {
        "device": each.device.name,
        "precision": precision,
        "offload": offload,
        "device_memory_bytes": each.device.memory,
        "weights_bytes": each.weights,
        "activations_bytes": each.activations,
        "peak_bytes": each.peak,
        "peak_bytes_by_offload": each.peaks,
        "host_bytes": each.host,
        "fits": each.fits,
        "seconds": None if math.isnan(each.seconds) else each.seconds,
        "stages": [
            {
                "stage": stage.label,
                "weights_bytes": stage.present(precision, offload),
                "activations_bytes": stage.activations,
            }
            for stage in each.stages
        ],
    }
