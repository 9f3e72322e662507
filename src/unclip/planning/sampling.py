"""What sampling from a cascade takes, worked out from its stages' experiments alone."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from unclip.common.errors import UserError
from unclip.common.types import TextFeatures
from unclip.diffusion.config import section_counts
from unclip.nn import attention
from unclip.pipeline.precision import cast_parameters
from unclip.pipeline.settings import Settings
from unclip.planning import devices
from unclip.planning.devices import GPUS, Device
from unclip.planning.kernels import kernels
from unclip.planning.memory import FLOAT, HALF
from unclip.planning.trace import Watch
from unclip.stages import registry
from unclip.stages.experiment import ParentSizes
from unclip.stages.interface import Given, Share, all_kept
from unclip.stages.row import CLIP, KINDS, PRIOR, Row

PROCESS = 900 * 2**20  # bytes of a process that has imported everything, on a CPU
MOST_IMAGES = 65_536  # of a batch
HEADROOM = 0.08  # of a device: its context, library workspaces, fragmentation
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


class StageCost(NamedTuple):
    """A stage, whatever it runs on."""

    label: str
    kind: str
    parameters: int
    buffers: int  # bytes
    file: int  # bytes
    evaluations: int  # of its network for one batch; 0 of the CLIP, which counts for nothing
    rows: int  # samples of one evaluation: with guidance twice the images
    flops: int  # of one evaluation

    def weights(self, precision: str) -> int:
        """Bytes; the CLIP stays in float32."""
        width = FLOAT if precision == "32" or self.kind == CLIP else HALF
        return width * self.parameters + self.buffers


class DeviceCost(NamedTuple):
    """A batch on one device."""

    device: Device
    precision: str  # 32, bf16 or fp16
    weights: int  # bytes of all stages
    activations: int  # bytes, of the stage that has most
    peak: int  # bytes on the device; of a CPU with the process, and while it loads
    host: int  # bytes of the machine's own memory, at most
    fits: bool
    seconds: float  # a batch


class CascadePlan(NamedTuple):
    """Sampling ``batch`` images."""

    name: str
    batch: int
    mfu: float
    stages: list[StageCost]
    devices: list[DeviceCost]

    @property
    def importing(self) -> int:
        """Bytes that `unclip import` takes to write these stages as they are on disk."""
        return PROCESS + max(stage.file for stage in self.stages)


class _Traced(NamedTuple):
    stages: list[StageCost]
    activations: int


def plan_sampling(
    name: str,
    parts: Sequence[StagePart],
    *,
    batch: int,
    names: Sequence[str],
    precision: str,
    mfu: float,
    settings: Settings,
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

    Raises:
        UserError: something of this cannot be.
    """
    if not 0 < mfu <= 1:
        raise UserError(f"--mfu={mfu:g}: must be above 0 and at most 1")
    if batch < 1:
        raise UserError(f"--batch={batch}: must be at least 1")
    if batch > MOST_IMAGES:
        raise UserError(f"--batch={batch}: must be at most {MOST_IMAGES:,}")
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision}: must be one of {', '.join(PRECISIONS)}")
    found = [devices.find(n, 1) for n in names] or [*GPUS, devices.find("cpu", 1)]
    precisions = [_precision(device, precision) for device in found]
    parts = _changed(sorted(parts, key=lambda part: _LOADED.index(part.row.kind)), settings)
    traced: dict[tuple[bool, bool], _Traced] = {}
    costs = []
    for device, how in zip(found, precisions):
        key = device.gpu, how == "32"
        if key not in traced:
            traced[key] = _trace(parts, batch, gpu=device.gpu, half=how != "32")
        costs.append(_cost(device, how, traced[key], mfu))
    return CascadePlan(name, batch, mfu, traced[key].stages, costs)


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


def _trace(parts: Sequence[StagePart], batch: int, *, gpu: bool, half: bool) -> _Traced:
    sizes = ParentSizes()
    for part in parts:
        if part.row.kind == CLIP:
            model = part.experiment.model
            sizes = ParentSizes(model.embed_dim, model.text_width, model.context, model.embeddings)
    costs, most = [], 0
    for part in parts:
        with torch.device("meta"):
            net = part.row.build_network(part.experiment, sizes)
        count = sum(p.numel() for p in net.parameters())
        buffers = sum(b.numel() * b.element_size() for b in net.buffers())
        file = FLOAT * count + buffers if part.file is None else part.file
        cost = StageCost(part.label, part.row.kind, count, buffers, file, 0, 0, 0)
        if part.row.kind != CLIP:
            rows = batch * _rows(part)
            with kernels(gpu=gpu, recomputing=False):
                watch = _watch(part, sizes, rows, torch.bfloat16 if half else torch.float32)
            most = max(most, max(live.activations for live in watch.live))
            steps = _evaluations(part.experiment.sampler)
            cost = cost._replace(evaluations=steps, rows=rows, flops=watch.flops)
        costs.append(cost)
    return _Traced(costs, most)


def _rows(part: StagePart) -> int:
    """Samples that the network is given at once for one image."""
    sampler = part.experiment.sampler
    guided = 2 if getattr(sampler, "guidance", 1) != 1 else 1
    return guided * (sampler.candidates if part.row.kind == PRIOR else 1)


def _evaluations(sampler: Any) -> int:
    if not hasattr(sampler, "steps"):
        return 1  # all codes at once
    return sum(section_counts(sampler.steps)) * (2 if sampler.sampler == "heun" else 1)


def _watch(part: StagePart, sizes: ParentSizes, rows: int, dtype: torch.dtype) -> Watch:
    """One evaluation of ``rows`` samples, on tensors that take no memory."""
    once = deepcopy(part.experiment)
    if hasattr(once.data, "crop_fraction"):
        once.data.crop_fraction = 1.0  # sampling has whole images
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
            part.row.dry_step(net, once, given, Share(rows, 1))
    return watch


def _cost(device: Device, precision: str, traced: _Traced, mfu: float) -> DeviceCost:
    weights = sum(stage.weights(precision) for stage in traced.stages)
    loading = held = 0
    for stage in traced.stages:  # one after another, in float32, its file mapped meanwhile
        loading = max(loading, held + stage.weights("32") + stage.file)
        held += 0 if device.gpu else stage.weights(precision)
    peak, host = weights + traced.activations, PROCESS + loading
    if not device.gpu:
        peak = host = max(host, PROCESS + peak)
    flops = sum(stage.evaluations * stage.flops for stage in traced.stages)
    speed = device.float32 if precision == "32" else device.bfloat16 or device.float32
    return DeviceCost(
        device,
        precision,
        weights,
        traced.activations,
        peak,
        host,
        peak <= (1 - HEADROOM) * device.memory,
        flops / (speed * mfu),
    )
