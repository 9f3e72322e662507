"""Memory of one process, by part, however the processes share the work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from unclip.common.adapters import adapts
from unclip.embeddings.clip import Clip
from unclip.nn.blocks import blocks_of
from unclip.planning.trace import Trace
from unclip.stages.experiment import teaches
from unclip.training.muon import layers

FLOAT = 4  # bytes
HALF = 2
_SMALL = 4096  # numbers, of which 8-bit Adam keeps float32 moments
_BLOCK = 256  # 8-bit numbers with a scale of their own


class Layout(NamedTuple):
    """How processes share the work, in the words of the trainer's section."""

    strategy: str  # auto (one process) | ddp | fsdp
    activation_checkpointing: str  # none | selective | full
    cpu_offload: bool = False


class Sizes(NamedTuple):
    """What a stage has, however the processes share it."""

    trained: int  # parameters
    frozen: int  # parameters that an adapter leaves as they are
    weights: int  # bytes of both
    gradients: int  # bytes
    moments: int  # bytes that the optimizer keeps
    average: int  # bytes of the EMA, but for what it shares with the network
    averaged: bool  # whether there is an EMA
    climbs: bool  # SAM's: FSDP gathers all weights at once
    blocks: list[int]  # parameters of each block that FSDP gathers by itself
    buffers: int  # bytes
    clip: int  # parameters of the frozen CLIP
    clip_bytes: int  # and its buffers
    teacher: int = 0  # bytes of a second network, which teaches this one

    @property
    def root(self) -> int:
        """Parameters outside all blocks, which FSDP gathers for the whole step."""
        return self.trained + self.frozen - sum(self.blocks)


class Memory(NamedTuple):
    """Bytes per GPU; their sum is what the training needs of it."""

    weights: int
    gradients: int
    optimizer: int
    ema: int
    activations: int
    other: int

    @property
    def total(self) -> int:
        """All parts."""
        return sum(self)


class MemoryNeed(NamedTuple):
    """Memory, what its ``other`` is made of, and what lies in the machine's memory instead."""

    memory: Memory
    other: dict[str, int]
    host: int  # bytes per process, at most


def sizes_of(net: nn.Module, clip: Clip | None, experiment: Any) -> Sizes:
    """Counted on the networks, ``net`` as it trains: with its adapter, in its types."""
    trained = [p for p in net.parameters() if p.requires_grad]
    base = [p for p in net.parameters() if not p.requires_grad]
    frozen = [] if clip is None else [*clip.parameters(), *clip.buffers()]
    return Sizes(
        trained=_count(trained),
        frozen=_count(base),
        weights=_bytes([*trained, *base]),
        gradients=_bytes(trained),
        moments=_moments(experiment.optim.name, net, trained),
        average=FLOAT * _count(trained) * experiment.averages,
        averaged=experiment.averages,
        climbs=experiment.optim.sam_rho > 0,
        blocks=[_count(block.parameters()) for block in blocks_of(net)],
        buffers=_bytes(net.buffers()),
        clip=0 if clip is None else _count(clip.parameters()),
        clip_bytes=_bytes(frozen),
        teacher=_bytes(net.parameters()) * (teaches(experiment) and not adapts(experiment)),
    )


def _moments(name: str, net: nn.Module, trained: list[nn.Parameter]) -> int:
    """Bytes that the optimizer ``name`` keeps of ``trained``."""
    if name == "adamw8bit":
        small = sum(p.numel() for p in trained if p.numel() < _SMALL)
        large = [p.numel() for p in trained if p.numel() >= _SMALL]
        return 2 * (FLOAT * small + sum(n + FLOAT * -(-n // _BLOCK) for n in large))
    one = [p for p in layers(net) if p.requires_grad] if name == "muon" else []
    return 2 * _bytes(trained) - _bytes(one)  # Muon has one where AdamW has two


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() for t in tensors)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def need(layout: Layout, sizes: Sizes, trace: Trace, *, world: int, precision: str) -> MemoryNeed:
    """What one of ``world`` processes needs, at the worst moment of the step ``trace``."""
    if layout.strategy == "fsdp":
        return _sharded(layout, sizes, trace, world, HALF if precision != "32" else FLOAT)
    peak = max(trace.live, key=sum)
    # In the backward pass gradients grow while activations shrink: the two together count.
    activations = sum(peak) - peak.copies - sizes.gradients
    if world > 1:  # DDP's buckets, of which gradients are views, are there all the time
        peak = max(trace.live, key=lambda live: live.activations + live.copies)
        activations = peak.activations
    other = {
        "frozen CLIP": sizes.clip_bytes,
        "teacher": sizes.teacher,
        "weights in 16 bits": peak.copies,
    }
    memory = Memory(
        weights=sizes.weights + sizes.buffers,
        gradients=sizes.gradients,
        optimizer=sizes.moments,
        ema=sizes.average + sizes.buffers * sizes.averaged,
        activations=activations,
        other=sum(other.values()),
    )
    return MemoryNeed(memory, _present(other), max(built(sizes), trace.offloaded))


def _sharded(layout: Layout, sizes: Sizes, trace: Trace, world: int, width: int) -> MemoryNeed:
    """FSDP2: a share of the states; the root and two blocks at a time are gathered.

    Autograd keeps no 16-bit copies: a block is gathered once more for its backward pass.
    """
    whole = (sizes.weights, sizes.gradients, sizes.moments)
    weights, gradients, moments = (FLOAT * -(-size // (FLOAT * world)) for size in whole)
    states = Memory(weights, gradients, moments, weights * sizes.averaged, 0, 0)
    alone = sizes._replace(averaged=False)  # the average is made of the shards
    kept = (states.total if layout.cpu_offload else 0) + trace.offloaded
    host = max(kept, built(alone))
    if layout.cpu_offload:
        states = Memory(0, 0, 0, 0, 0, 0)
    first, second = sorted([*sizes.blocks, 0, 0], reverse=True)[:2]
    blocks = sum(sizes.blocks) if sizes.climbs else first + second
    other = {
        "frozen CLIP": sizes.clip_bytes,
        "gathered weights": width * blocks + FLOAT * sizes.root,  # the root in float32
        "a gradient being summed": FLOAT * max(first, sizes.root),
    }
    memory = states._replace(
        weights=states.weights + sizes.buffers,
        ema=states.ema + sizes.buffers * sizes.averaged,
        activations=max(live.activations for live in trace.live),
        other=sum(other.values()),
    )
    return MemoryNeed(memory, _present(other), host)


def built(sizes: Sizes) -> int:
    """Bytes of what each process builds in the machine's memory before it moves to the GPU."""
    parameters = sizes.trained + sizes.frozen
    networks = (FLOAT * parameters + sizes.buffers) * (1 + sizes.averaged)
    return networks + sizes.clip_bytes + sizes.teacher


def _present(parts: dict[str, int]) -> dict[str, int]:
    return {name: size for name, size in parts.items() if size}
