"""What sampling from a cascade takes, worked out from its stages' experiments alone."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from unclip.common.checks import as_choice
from unclip.common.errors import UserError
from unclip.common.types import TextFeatures
from unclip.nn import attention
from unclip.pipeline.fast import fast_changes, say_fast, with_changes
from unclip.pipeline.precision import cast_parameters
from unclip.pipeline.settings import OFFLOADINGS, Settings
from unclip.planning import devices
from unclip.planning.devices import GPUS, Device
from unclip.planning.kernels import kernels
from unclip.planning.sampling_memory import (
    PROCESS,
    DeviceCost,
    StageCost,
    Suggestion,
    Wanted,
    cost_of,
    suggest,
    weigh,
)
from unclip.planning.trace import Watch
from unclip.stages import registry
from unclip.stages.experiment import ParentSizes
from unclip.stages.interface import Given, Share, all_kept
from unclip.stages.row import CLIP, KINDS, PRIOR, Row

MOST_IMAGES = 65_536  # of a batch
PRECISIONS = ("auto", "32", "bf16", "fp16")
_LOADED = sorted(KINDS, key=lambda kind: kind == PRIOR)  # in this order


class StagePart(NamedTuple):
    """A stage of the cascade that is planned."""

    label: str  # its folder
    stage: str
    experiment: Any
    file: int | None = None  # bytes of its weights on disk; None: float32

    @property
    def row(self) -> Row:
        """Its row in the table of stages."""
        return registry.STAGES[self.stage]


class CascadePlan(NamedTuple):
    """Sampling ``batch`` images."""

    name: str
    batch: int
    mfu: float
    stages: list[StageCost]
    devices: list[DeviceCost]
    command: list[str] = []  # what else `unclip sample` is told: cascade and sampler settings
    suggestion: Suggestion | None = None  # for a device that was named

    @property
    def importing(self) -> int:
        """Bytes that `unclip import` takes to write these stages as they are on disk."""
        return PROCESS + max(stage.file for stage in self.stages)


def plan_sampling(
    name: str,
    parts: Sequence[StagePart],
    *,
    batch: int,
    names: Sequence[str],
    precision: str,
    mfu: float,
    settings: Settings,
    offload: str = "none",
    memory: int | None = None,
    untrained: bool = False,
    fast: bool = False,
) -> CascadePlan:
    """Work it out; nothing is loaded.

    Args:
        name: What the cascade is called.
        parts: Its stages.
        batch: Images at a time.
        names: Devices, of `devices`; all if there are none.
        precision: 32, bf16, fp16, or auto: 32 on a CPU, half precision on a GPU.
        mfu: Share of a device's peak at which it computes, in (0, 1].
        settings: Changes to the stages' sampler settings.
        offload: What takes turns on a GPU: none, stages or blocks.
        memory: Bytes of the device, in place of its own; without names, of some GPU.
        untrained: Whether ``name`` is not what `unclip sample` takes.
        fast: With the changes of `unclip.pipeline.fast`, which are said.

    Raises:
        UserError: something of this cannot be.
    """
    if not 0 < mfu <= 1:
        raise UserError(f"--mfu={mfu:g}: must be above 0 and at most 1")
    if batch < 1:
        raise UserError(f"--batch={batch}: must be at least 1")
    if batch > MOST_IMAGES:
        raise UserError(f"--batch={batch}: must be at most {MOST_IMAGES:,}")
    as_choice(f"--precision {precision}", precision, PRECISIONS)
    as_choice(f"--offload {offload}", offload, OFFLOADINGS)
    found = _devices(names, memory)
    if offload != "none" and names and not found[0].gpu:
        raise UserError(f"--offload {offload}: a CPU has no memory of its own; use none")
    precisions = [_precision(device, precision) for device in found]
    parts = sorted(parts, key=lambda part: _LOADED.index(part.row.kind))
    if fast:
        changes = fast_changes(_samplers(parts), settings)
        say_fast(changes)
        settings = with_changes(settings, changes)
    parts = _changed(parts, settings)
    traced: dict[tuple[bool, bool], list[StageCost]] = {}

    def cost(device: Device, wanted: Wanted) -> DeviceCost:
        key = device.gpu, wanted.precision == "32"
        if key not in traced:
            traced[key] = _trace(parts, batch, gpu=device.gpu, half=wanted.precision != "32")
        return cost_of(device, wanted, traced[key], mfu, wanted.batch / batch)

    costs = [
        cost(device, Wanted(how, offload if device.gpu else "none", batch))
        for device, how in zip(found, precisions)
    ]
    named = costs[0] if names or memory else None
    return CascadePlan(
        name,
        batch,
        mfu,
        costs[-1].stages,
        costs,
        ["--pipeline", "CASCADE" if untrained else name, *_words(settings)],
        None if named is None else suggest(named.device, named.wanted, cost),
    )


def _devices(names: Sequence[str], memory: int | None) -> list[Device]:
    found = [devices.find(name, 1) for name in names]
    if memory is None:
        return found or [*GPUS, devices.find("cpu", 1)]
    return [device._replace(memory=memory) for device in found] or [devices.some_gpu(memory)]


def _words(settings: Settings) -> list[str]:
    changes = settings.changes.items()
    return [f"{stage}.{name}={value}" for stage, each in changes for name, value in each.items()]


def _samplers(parts: Sequence[StagePart]) -> dict[str, list[Any]]:
    """The sampler section of each part, by kind."""
    found: dict[str, list[Any]] = {}
    for part in parts:
        if part.row.sampler is not None:
            found.setdefault(part.row.kind, []).append(part.experiment.sampler)
    return found


def _precision(device: Device, asked: str) -> str:
    if asked == "auto":
        return "32" if not device.gpu else "fp16" if device.bfloat16 is None else "bf16"
    if asked == "bf16" and device.bfloat16 is None:
        raise UserError(f"--precision bf16: {device.name} has no bfloat16 units; use fp16")
    return asked


def _changed(parts: Sequence[StagePart], settings: Settings) -> list[StagePart]:
    """The stages with the sampler settings.

    Raises:
        UserError: settings that a stage does not have, or of one that is not there.
    """
    settings.check()
    for kind in settings.changes:
        if kind not in {part.row.kind for part in parts}:
            raise UserError(f"{settings.first_of(kind)}: this cascade has no {kind}")
    found = []
    for part in parts:
        own = deepcopy(part.experiment)
        if part.row.sampler is not None:
            own.sampler = settings.apply(part.row.kind, own)
        found.append(part._replace(experiment=own))
    return found


def _trace(parts: Sequence[StagePart], batch: int, *, gpu: bool, half: bool) -> list[StageCost]:
    sizes = ParentSizes()
    for part in parts:
        if part.row.kind == CLIP:
            model = part.experiment.model
            sizes = ParentSizes(model.embed_dim, model.text_width, model.context, model.embeddings)
    costs = []
    for part in parts:
        with torch.device("meta"):
            net = part.row.build_network(part.experiment, sizes)
        cost = weigh(part.label, part.row.kind, net, part.file)
        if part.row.kind != CLIP:
            rows = batch * _rows(part)
            with kernels(gpu=gpu, recomputing=False):
                dtype = torch.bfloat16 if half else torch.float32
                watch, read = _watch(part, sizes, rows, dtype)
            cost = cost._replace(
                evaluations=getattr(part.experiment.sampler, "evaluations", 1),  # AR: all codes
                rows=rows,
                flops=watch.flops - read,
                once=read,
                activations=max(live.activations for live in watch.live),
            )
        costs.append(cost)
    return costs


def _rows(part: StagePart) -> int:
    """Samples that the network is given at once for one image."""
    sampler = part.experiment.sampler
    guided = 2 if getattr(sampler, "guidance", 1) != 1 else 1
    return guided * (sampler.candidates if part.row.kind == PRIOR else 1)


def _watch(part: StagePart, sizes: ParentSizes, rows: int, dtype: torch.dtype) -> tuple[Watch, int]:
    """One evaluation of ``rows`` samples, on tensors that take no memory.

    Also the operations of what comes before the first evaluation.
    """
    once = deepcopy(part.experiment)
    if getattr(once.model, "last_step", False):
        once.model.last_step = False  # either of its networks, which are of one shape
    with torch.device("meta"):
        net: nn.Module = part.row.build_network(once, sizes)
    with FakeTensorMode(allow_non_fake_inputs=True), attention.backend("sdpa"), torch.no_grad():
        net = net.to_empty(device="cpu").eval()
        cast_parameters(net, dtype)
        given = Given()
        if sizes.embed_dim is not None:
            words = torch.zeros(rows, sizes.context or 1, sizes.text_width or 1)
            z = torch.zeros(rows, sizes.embed_dim)
            given = Given(z, TextFeatures(z, words, all_kept(*words.shape[:2])))
        watch = Watch([*net.parameters(), *net.buffers()])
        with watch:
            step = part.row.dry_sampling(net, once, given, Share(rows, 1))
            read = watch.flops
            step()
    return watch, read
