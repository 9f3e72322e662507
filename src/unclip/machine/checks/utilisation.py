"""Which share of a device's peak a training step reaches, where the rest goes, what slows it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from unclip.machine.check import Check, Machine, Row
from unclip.machine.step import (
    Job,
    TrainingStep,
    costs_of,
    device_of,
    load,
    seconds_of,
    synchronize,
)
from unclip.nn.blocks import blocks_of

LARGE = {
    "prior": Job("prior/diffusion_l", (), 512),
    "decoder": Job("decoder/l", (), 64),
}
SMALL = {
    "prior": Job("prior/diffusion_tiny", ("model.layers=2",), 8),
    "decoder": Job("decoder/tiny", ("model.unet.multiples=[1,2]", "model.unet.attention=[16]"), 2),
}
AIMS = {"prior": 0.45, "decoder": 0.40}  # of the dense bfloat16 peak
AIMED_ON = ("h100", "h200")
WARM, STEPS = 5, 10
PROFILED = 3
KINDS = {
    "compiled elementwise": r"^triton_(?!mm)",
    "attention": r"flash|fmha|attention|sdpa",
    "convolutions": r"conv|wgrad|dgrad|fprop|implicit",
    "products": r"gemm|cutlass|nvjet|cublas|mm|linear",
    "optimizer and average": r"multi_tensor|adam|lerp|foreach",
}


def measure(item: str, machine: Machine) -> list[Row]:
    """Of the network ``item``."""
    job = (SMALL if machine.small else LARGE)[item]
    resolved = load(job)
    costs = costs_of(job, machine)
    with searching(machine, best=True):
        step = TrainingStep(
            resolved, costs.batch, machine, compiled="blocks" if machine.gpu else "none"
        )
        warm, steps = (WARM, STEPS) if machine.gpu else (1, 2)
        seconds = seconds_of(step, machine, warm=warm, steps=steps)
        parts = _account(step, machine)
    rate, device = costs.flops / seconds, device_of(machine)
    size = sum(p.numel() for p in step.net.parameters())
    what = f"{resolved.name}, {size / 1e6:.3g}M, batch {costs.batch}, bf16"
    numbers = {"seconds": seconds, "flops": float(costs.flops), "samples": costs.batch / seconds}
    told = f"{1e3 * seconds:.1f} ms a step, {costs.batch / seconds:,.1f} samples/s"
    told += f", {rate / 1e12:.4g} TFLOP/s"
    if device is None or device.bfloat16 is None:
        return [Row(what, told, numbers=numbers), parts]
    share = rate / device.bfloat16
    aim = AIMS[item] if device.name in AIMED_ON else None
    numbers["utilisation"] = share
    row = Row(
        what,
        f"{told}, {share:.1%} of {device.name}'s {device.bfloat16 / 1e12:.4g}",
        f"at least {aim:.0%}" if aim else "",
        None if aim is None else share >= aim,
        numbers,
    )
    return [row, parts]


@contextmanager
def searching(machine: Machine, *, best: bool) -> Iterator[None]:
    """CuDNN looks for the fastest algorithms, as in training, or takes the first; TF32 is off."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.allow_tf32
    cudnn.benchmark, cudnn.allow_tf32 = best, False
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32 = before


def _account(step: Callable[[], Any], machine: Machine) -> Row:
    """Where the time of a step goes."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * machine.gpu
    with profile(activities=activities) as profiled:
        seconds = seconds_of(step, machine, warm=0, steps=PROFILED)
    spent = dict.fromkeys([*KINDS, "everything else"], 0.0)
    for event in profiled.key_averages():
        on_gpu = event.device_type == torch.autograd.DeviceType.CUDA
        if on_gpu != machine.gpu:
            continue
        took = event.self_device_time_total if machine.gpu else event.self_cpu_time_total
        spent[_kind(event.key)] += took * 1e-6 / PROFILED
    busy = sum(spent.values())
    shares = {name: value / max(seconds, busy) for name, value in spent.items()}
    shares["nothing runs"] = max(0.0, 1 - busy / seconds)
    told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    return Row("where its time goes", told, numbers=shares)


def _kind(name: str) -> str:
    return next(
        (kind for kind, pattern in KINDS.items() if re.search(pattern, name.lower())),
        "everything else",
    )


CHECK = Check(
    "utilisation", "share of the peak of a large prior and decoder", tuple(LARGE), measure
)


MIDDLE = {
    False: Job("decoder/m", (), 32),
    True: SMALL["decoder"],
}
"""The decoder of what follows, by whether the machine is checked in small."""


def _dynamic(step: TrainingStep) -> None:
    for block in blocks_of(step.net):
        block.compile(dynamic=None)


SLOWER: dict[str, tuple[dict[str, Any], bool, Callable[[TrainingStep], None] | None]] = {
    "not compiled": ({"compiled": "none"}, True, None),
    "sizes of blocks may change": ({"compiled": "none"}, True, _dynamic),
    "channels first": ({"channels_last": False}, True, None),
    "not compiled, channels first": ({"compiled": "none", "channels_last": False}, True, None),
    "cuDNN searches nothing": ({}, False, None),
}
"""What training does not do, and what it would cost: how the step is built, whether cuDNN looks for
algorithms, and what is done to the step."""


def measure_slower(item: str, machine: Machine) -> list[Row]:
    """A step of a decoder built otherwise against one as training builds it, by turns."""
    job = MIDDLE[machine.small]
    how, best, change = SLOWER[item]
    resolved = load(job)
    batch = costs_of(job, machine).batch // 2 or 1  # two of them in memory
    as_trained: dict[str, Any] = {"compiled": "blocks" if machine.gpu else "none"}
    base = TrainingStep(resolved, batch, machine, **as_trained)
    other = TrainingStep(resolved, batch, machine, **(as_trained | how))
    if change is not None and machine.gpu:
        change(other)
    ratios = []
    for warm in (WARM if machine.gpu else 1, 1, 1):
        times = []
        for step, search in ((base, True), (other, best)):
            with searching(machine, best=search):
                steps = STEPS if machine.gpu else 1
                times.append(seconds_of(step, machine, warm=warm, steps=steps))
        ratios.append(times[1] / times[0])
    synchronize(machine)
    ratio = sorted(ratios)[1]
    told = f"{ratio:.2f} times the time ({min(ratios):.2f} to {max(ratios):.2f})"
    return [Row(f"{resolved.name}, {item}", told, numbers={"ratio": ratio})]


SLOW_POINTS = Check(
    "slower", "what training avoids, and what it would cost", tuple(SLOWER), measure_slower
)
