"""What sampling takes of a device, stage by stage, and the smallest change with which it fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import Tensor, nn

from unclip.nn.offload import parts_of
from unclip.planning.devices import Device
from unclip.planning.memory import FLOAT, HALF
from unclip.stages.row import CLIP

PROCESS = 900 * 2**20  # bytes of a process that has imported everything, on a CPU
HEADROOM = 0.08  # of a device: its context, library workspaces, fragmentation


class Wanted(NamedTuple):
    """What memory depends on, apart from cascade and device."""

    precision: str  # 32, bf16 or fp16
    offload: str  # none, stages or blocks
    batch: int


class StageCost(NamedTuple):
    """A stage, whatever it runs on."""

    label: str
    kind: str
    parameters: int
    block: int  # parameters of its largest block
    blocks: int  # and of all
    resting: int  # of what never leaves the device
    pinned: int  # its tensors in pinned memory: each a power of two
    buffers: int  # bytes
    file: int  # bytes
    evaluations: int = 0  # of its network for one batch; 0 of the CLIP, which counts for nothing
    rows: int = 0  # samples of one evaluation: with guidance twice the images
    flops: int = 0  # of one evaluation
    once: int = 0  # the same of what is computed once for a batch: captions, conditions
    activations: int = 0  # bytes of one evaluation, at most

    @property
    def all_flops(self) -> int:
        """Of a batch."""
        return self.evaluations * self.flops + self.once

    def width(self, precision: str) -> int:
        """Bytes of a parameter; the CLIP stays in float32."""
        return FLOAT if precision == "32" or self.kind == CLIP else HALF

    def weights(self, precision: str) -> int:
        """Bytes of all of it."""
        return self.width(precision) * self.parameters + self.buffers

    def present(self, precision: str, offload: str) -> int:
        """Bytes of its weights on the device while it computes."""
        if offload != "blocks":
            return self.weights(precision)
        away = self.width(precision) * (self.blocks - self.block)
        return self.weights(precision) - away

    def rest(self, precision: str) -> int:
        """Bytes on the device while another stage computes, if they take turns."""
        return self.width(precision) * self.resting + self.buffers


class DeviceCost(NamedTuple):
    """A batch on one device."""

    device: Device
    wanted: Wanted
    stages: list[StageCost]
    weights: int  # bytes of all stages
    activations: int  # bytes, of the stage that has most
    peaks: dict[str, int]  # bytes on the device by offload; of a CPU with the process, loading
    host: int  # bytes of the machine's own memory, at most
    seconds: float  # a batch; nan of a device that is not known

    @property
    def peak(self) -> int:
        """As it is wanted."""
        return self.peaks[self.wanted.offload]

    @property
    def fits(self) -> bool:
        """With a part of the device left."""
        return self.peak <= (1 - HEADROOM) * self.device.memory


class Suggestion(NamedTuple):
    """The smallest change with which it fits, or that none does."""

    wanted: Wanted
    cost: DeviceCost
    changed: bool


def weigh(label: str, kind: str, net: nn.Module, file: int | None) -> StageCost:
    """The sizes of a network on the meta device; ``file`` is that of its weights, if there is."""
    own, _, blocks = parts_of(net)
    count = _count(net.parameters())
    buffers = sum(b.numel() * b.element_size() for b in net.buffers())
    sizes = [_count(block.parameters()) for block in blocks]
    return StageCost(
        label,
        kind,
        count,
        max(sizes, default=0),
        sum(sizes),
        _count(p for module in own for p in module.parameters(recurse=False)),
        sum(1 << (p.numel() - 1).bit_length() for p in net.parameters()),
        buffers,
        FLOAT * count + buffers if file is None else file,
    )


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() for t in tensors)


def cost_of(
    device: Device, wanted: Wanted, stages: list[StageCost], mfu: float, scale: float
) -> DeviceCost:
    """What ``scale`` times the batch that ``stages`` were traced with takes."""
    precision = wanted.precision
    stages = [stage._replace(activations=round(scale * stage.activations)) for stage in stages]
    weights = sum(stage.weights(precision) for stage in stages)
    activations = max(stage.activations for stage in stages)
    loading = held = 0
    for stage in stages:  # one after another, in float32, its file mapped meanwhile
        loading = max(loading, held + stage.weights("32") + stage.file)
        held += 0 if device.gpu else stage.weights(precision)
        if wanted.offload != "none":
            held += stage.width(precision) * stage.pinned
    host = PROCESS + max(loading, held)
    peaks = {"none": weights + activations}
    if device.gpu:
        peaks |= {how: _by_turns(stages, precision, how) for how in ("stages", "blocks")}
    else:
        host = max(host, PROCESS + peaks["none"])
        peaks = {"none": host}
    flops = scale * sum(stage.all_flops for stage in stages)
    speed = device.float32 if precision == "32" else device.bfloat16 or device.float32
    return DeviceCost(
        device, wanted, stages, weights, activations, peaks, host, flops / (speed * mfu)
    )


def _by_turns(stages: list[StageCost], precision: str, offload: str) -> int:
    """Bytes at most, where one stage is there at a time."""
    resting = sum(stage.rest(precision) for stage in stages)
    return max(
        resting - stage.rest(precision) + stage.present(precision, offload) + stage.activations
        for stage in stages
    )


def suggest(
    device: Device, wanted: Wanted, cost: Callable[[Device, Wanted], DeviceCost]
) -> Suggestion:
    """What to ask for on ``device``: as ``wanted`` if that fits, else with the smallest change.

    Stages take turns before the batch shrinks, that before blocks take turns, and last comes the
    precision, which alone changes more than the last bits. If nothing fits, the least memory.
    """
    ways = [how for how in ("none", "stages", "blocks") if device.gpu or how == "none"]
    ways = ways[ways.index(wanted.offload) :]
    batches = [wanted.batch >> k for k in range(wanted.batch.bit_length())]
    half = "fp16" if device.bfloat16 is None else "bf16"
    precisions = [wanted.precision] + [half] * (wanted.precision == "32")
    fallback = None
    for precision in precisions:
        for some in ([way for way in ways if way != "blocks"], ["blocks"]):
            for batch in batches:
                for way in (way for way in some if way in ways):
                    tried = Wanted(precision, way, batch)
                    found = Suggestion(tried, cost(device, tried), tried != wanted)
                    if found.cost.fits:
                        return found
                    if fallback is None or found.cost.peak < fallback.cost.peak:
                        fallback = found
    assert fallback is not None
    return fallback
