"""What an experiment's training takes on given devices, and the first strategy that fits."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from unclip.common.adapters import WORD, adapts, learns_word
from unclip.common.errors import UserError
from unclip.config.load import ResolvedExperiment
from unclip.data.loader import local_batch_size
from unclip.embeddings import words
from unclip.embeddings.clip import Clip
from unclip.nn import attention
from unclip.planning import devices
from unclip.planning.devices import Device
from unclip.planning.kernels import kernels
from unclip.planning.memory import Layout, MemoryNeed, Sizes, need, sizes_of
from unclip.planning.trace import Absent, ClipStep, Trace, ask, trace
from unclip.runs.parents import build_net, frozen_clip, named_sizes, refuse_fitted
from unclip.stages.experiment import ParentSizes, teaches
from unclip.stages.interface import Given, Share
from unclip.stages.row import CLIP
from unclip.training import adapters, precision
from unclip.training.blocks import checkpoint_blocks, offload_blocks

HEADROOM = 0.08  # of a device: its context, library workspaces, fragmentation
MACHINE = 8  # GPUs, at most
DAY = 86_400
CHECKPOINTING = ("none", "selective", "full")
KEYS = ("trainer.strategy", "trainer.activation_checkpointing", "trainer.cpu_offload")


class PlannedLayout(NamedTuple):
    """One way to share the work, and what it takes."""

    layout: Layout
    need: MemoryNeed
    flops: int  # of a step on all devices, recomputation included
    seconds: float  # a step
    days: float
    fits: bool
    asked: bool  # whether the experiment says so


class StepCost(NamedTuple):
    """What does not depend on how processes share the work."""

    sizes: Sizes
    clip_flops: int  # of the frozen CLIP, for a micro-batch
    traces: dict[str, Trace]  # by activation checkpointing: a micro-batch


class Plan(NamedTuple):
    """An experiment on ``gpus`` devices."""

    experiment: ResolvedExperiment
    device: Device
    gpus: int
    mfu: float
    micro_batch: int  # samples of one process at a time
    sizes: Sizes
    flops: int  # of a step on all devices: the network's forward and backward pass
    clip_flops: int  # and the frozen CLIP's forward pass
    rows: list[PlannedLayout]

    @property
    def chosen(self) -> PlannedLayout:
        """The first that fits; if none does, the one that needs least."""
        least = min(self.rows, key=lambda row: row.need.memory.total)
        return next((row for row in self.rows if row.fits), least)

    @property
    def overrides(self) -> list[str]:
        """What to type behind the experiment to have it so; empty where it is so already."""
        trainer, layout = self.experiment.config.trainer, self.chosen.layout
        most = min(MACHINE, self.gpus) if self.device.gpu else self.gpus
        each = next(n for n in range(most, 0, -1) if self.gpus % n == 0)
        wanted = {"devices": each, "nodes": self.gpus // each, **layout._asdict()}
        if layout.strategy == _asked(self.experiment, self.gpus).strategy:
            del wanted["strategy"]  # auto is the same by another name
        changed = {k: v for k, v in wanted.items() if getattr(trainer, k) != v}
        return [f"trainer.{k}={str(v).lower()}" for k, v in changed.items()]


def plan(
    resolved: ResolvedExperiment,
    *,
    gpus: int,
    device: str,
    mfu: float,
    memory: int | None = None,
    hows: Sequence[str] = CHECKPOINTING,
) -> Plan:
    """Work it out.

    Args:
        resolved: an experiment that trains.
        gpus: devices, each with a process of its own.
        device: a name of `devices`.
        mfu: share of the device's peak at which it computes, in (0, 1].
        memory: bytes of each device, where it has another size than the card of its name.
        hows: what activation checkpointing is tried; what the experiment asks for is too.

    Raises:
        UserError: something of this cannot be.
    """
    refuse_fitted(resolved)
    if gpus < 1:
        raise UserError(f"--gpus={gpus}: must be at least 1")
    if not 0 < mfu <= 1:
        raise UserError(f"--mfu={mfu:g}: must be above 0 and at most 1")
    found = devices.find(device, gpus)
    found = found if memory is None else found._replace(memory=memory)
    found.peak(resolved.config.trainer.precision)  # which it may not have
    resolved = replace(resolved, config=deepcopy(resolved.config))  # its CLIP's sizes go into it
    experiment, accumulate = resolved.config, resolved.config.trainer.accumulate
    batch = local_batch_size(experiment.data.batch_size, world=gpus, accumulate=accumulate)
    on_all = deepcopy(experiment)
    on_all.trainer.devices, on_all.trainer.nodes = gpus, 1
    on_all.validate()
    asked = _asked(resolved, gpus)
    if experiment.trainer.activation_offload:  # what selective keeps would stay on the device
        hows = [how for how in hows if how != "selective"]
    hows = tuple(dict.fromkeys([*hows, asked.activation_checkpointing]))
    sizes, clip_flops, traces = measure(resolved, Share(batch, gpus), gpu=found.gpu, hows=hows)
    said = any(key in resolved.origins for key in KEYS)
    rows = []
    shards = _shards(experiment)
    for layout in _layouts(asked, gpus, hows, shards=shards, offload=shards and found.gpu):
        seen = traces[layout.activation_checkpointing]
        needed = need(layout, sizes, seen, world=gpus, precision=experiment.trainer.precision)
        flops = gpus * accumulate * (clip_flops + seen.flops)
        trained = seen.flops / found.peak(experiment.trainer.precision)
        frozen = clip_flops / found.peak("32")  # the frozen CLIP does not follow autocast
        seconds = accumulate * (trained + frozen) / mfu
        days = seconds * experiment.trainer.max_steps / DAY
        fits = needed.memory.total <= (1 - HEADROOM) * found.memory
        rows.append(
            PlannedLayout(layout, needed, flops, seconds, days, fits, said and layout == asked)
        )
    all_flops, all_clip = (gpus * accumulate * n for n in (traces[hows[0]].flops, clip_flops))
    return Plan(resolved, found, gpus, mfu, batch, sizes, all_flops, all_clip, rows)


def _asked(resolved: ResolvedExperiment, gpus: int) -> Layout:
    """What the experiment comes to on so many devices."""
    trainer = resolved.config.trainer
    replicated = "ddp" if gpus > 1 else "auto"
    return Layout(
        "fsdp" if trainer.strategy == "fsdp" else replicated,
        trainer.activation_checkpointing,
        trainer.cpu_offload,
    )


def _shards(experiment: Any) -> bool:
    """Whether FSDP can train it: the experiment's own `validate` refuses the rest."""
    eight_bit = experiment.optim.name == "adamw8bit"
    return not (eight_bit or learns_word(experiment) or teaches(experiment))


def _layouts(
    asked: Layout, gpus: int, hows: Sequence[str], *, shards: bool, offload: bool
) -> list[Layout]:
    """What is tried, simplest first, and what the experiment asks for."""
    strategies = [("ddp" if gpus > 1 else "auto", False)]
    strategies += [("fsdp", False)] * (shards and gpus > 1)
    strategies += [("fsdp", True)] * offload
    layouts = [Layout(s, how, off) for s, off in strategies for how in hows]
    return layouts if asked in layouts else [*layouts, asked]


def measure(
    resolved: ResolvedExperiment, share: Share, *, gpu: bool, hows: Sequence[str] = CHECKPOINTING
) -> StepCost:
    """A step with each kind of checkpointing (``hows``), on networks of fake tensors.

    The sizes that the CLIP decides are filled in in ``resolved``.
    """
    clip, sizes = None, named_sizes(resolved)
    with torch.device("meta"):
        if CLIP in resolved.stage.parents:
            clip = frozen_clip(resolved.config.clip)
        resolved.stage.fill(resolved.config, sizes)
        nets = {how: _as_it_trains(resolved, sizes) for how in hows}
    counted = sizes_of(nets[hows[0]], clip, resolved.config)
    asked = ClipStep(Given(), Trace([], 0))
    traces = {}
    # Of the backends `math` alone keeps the whole matrix of attention.
    chosen = "math" if resolved.config.trainer.attention == "math" else "sdpa"
    with FakeTensorMode(allow_non_fake_inputs=True), attention.backend(chosen):
        if clip is not None:
            with kernels(gpu=gpu, recomputing=False):
                asked = ask(clip.to_empty(device="cpu"), resolved, share)
        before = [live._replace(gradients=counted.gradients) for live in asked.trace.live]
        for how, net in nets.items():
            checkpoint_blocks(net.to_empty(device="cpu"), how)
            away: list[Absent] = []
            if gpu and resolved.config.trainer.activation_offload:
                offload_blocks(net, partial(_away, away), Absent.get)
            with kernels(gpu=gpu, recomputing=how != "none"):
                seen = trace(net, asked.given, resolved, share, learns=_learning(clip, net))
            offloaded = sum(each.size for each in away)
            traces[how] = seen._replace(live=before + seen.live, offloaded=offloaded)
    return StepCost(counted, asked.trace.flops, traces)


def states_of(resolved: ResolvedExperiment) -> int:
    """Bytes that one process holds all the time, without sharding: a bound below of what it needs.

    The sizes that the CLIP decides are filled in in ``resolved``.
    """
    sizes = named_sizes(resolved)
    with torch.device("meta"):
        resolved.stage.fill(resolved.config, sizes)
        found = sizes_of(_as_it_trains(resolved, sizes), None, resolved.config)
    return found.weights + found.gradients + found.moments + found.average


def _as_it_trains(resolved: ResolvedExperiment, sizes: ParentSizes) -> nn.Module:
    """The network with its adapter, in the types that its weights have in training."""
    net = build_net(resolved, sizes)
    if adapts(resolved.config):
        config = resolved.config.adapter
        if learns_word(resolved.config):
            adapters.inject_word(net, torch.empty(config.vectors, sizes.text_width or 0))
        else:
            adapters.inject(net, config)
    if resolved.config.trainer.precision == "bf16-true":
        precision.to_bfloat16(net)
    return net


def _learning(clip: Clip | None, net: nn.Module) -> Clip | None:
    """The CLIP if it learns the word whose rows train in ``net``."""
    rows: Tensor | None = getattr(net, WORD, None)
    if clip is None or rows is None:
        return None
    words.teach_while_training(clip, WORD, len(rows), lambda: rows)
    return clip


def _away(away: list[Absent], tensor: Tensor) -> Absent:
    away.append(Absent.put(tensor))
    return away[-1]
