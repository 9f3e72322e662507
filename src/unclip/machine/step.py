"""A training step of a network on inputs that are there before: what a device makes of it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from unclip.config.load import ResolvedExperiment, load_experiment
from unclip.machine.check import Machine, Unavailable
from unclip.nn import attention
from unclip.nn.compilation import compile_blocks
from unclip.planning import devices
from unclip.planning.devices import Device
from unclip.planning.memory import Layout, Memory, need
from unclip.planning.plan import StepCost, measure
from unclip.planning.trace import given_by
from unclip.runs.parents import build_net, frozen_clip, named_sizes
from unclip.stages.interface import Given, Share
from unclip.stages.row import CLIP
from unclip.training import ema
from unclip.training.blocks import checkpoint_blocks
from unclip.training.optim import build_optimizer

BF16 = "bf16-mixed"
DECAY = 0.999  # of the average
FEW = 8  # samples of the step from which the plan says how many fit
FULL = 0.85  # share of a GPU's memory that the plan may fill


class Job(NamedTuple):
    """A network whose steps are measured, and the most samples of one."""

    experiment: str
    overrides: tuple[str, ...]
    most: int


def load(job: Job) -> ResolvedExperiment:
    """Its experiment, in bfloat16."""
    return load_experiment(job.experiment, [f"trainer.precision={BF16}", *job.overrides])


class Costs(NamedTuple):
    """What the plan says of a step, by samples."""

    batch: int
    flops: int  # of the network's forward and backward pass
    cost: StepCost  # of `batch` samples

    def planned(self, checkpointing: str) -> Memory:
        """Bytes of a step on one GPU; the frozen CLIP's count is known too."""
        trace = self.cost.traces[checkpointing]
        layout = Layout("auto", checkpointing)
        return need(layout, self.cost.sizes, trace, world=1, precision=BF16).memory

    def total(self, checkpointing: str) -> int:
        """The same in all, without the frozen CLIP, which is not there."""
        return self.planned(checkpointing).total - self.cost.sizes.clip_bytes


@cache
def costs_of(job: Job, machine: Machine) -> Costs:
    """For as many samples as the plan says fit: the largest power of two, at most ``job.most``.

    Raises:
        Unavailable: not one fits.
    """
    few = _costs(job, min(job.most, FEW), machine)
    grows = few.planned("none").activations
    room = FULL * memory_of(machine) - (few.total("none") - grows)
    fitting = int(room / grows * few.batch)
    if fitting < 1:
        needed = few.total("none") / 2**30
        raise Unavailable(
            f"{job.experiment}: the plan says {needed:.0f} GiB for {few.batch} samples"
        )
    batch = min(job.most, 1 << (fitting.bit_length() - 1))
    return few if batch == few.batch else _costs(job, batch, machine)


def _costs(job: Job, batch: int, machine: Machine) -> Costs:
    cost = measure(load(job), Share(batch, 1), gpu=machine.gpu)
    return Costs(batch, cost.traces["none"].flops, cost)


def memory_of(machine: Machine) -> int:
    """Bytes that the device has."""
    if machine.gpu:
        return int(torch.cuda.get_device_properties(machine.device).total_memory)
    return devices.find("cpu", 1).memory


def device_of(machine: Machine) -> Device | None:
    """What the plan knows of the device; None of a GPU that it does not know."""
    if not machine.gpu:
        return devices.find("cpu", 1)
    return devices.of_card(torch.cuda.get_device_name(machine.device))


def given_for(resolved: ResolvedExperiment, batch: int, device: torch.device) -> Given:
    """What a frozen CLIP would say, in its shapes: random numbers, and masks that keep all."""
    if CLIP not in resolved.stage.parents:
        return Given()
    with torch.device("meta"):
        clip = frozen_clip(resolved.config.clip)
    with FakeTensorMode(allow_non_fake_inputs=True), attention.backend("sdpa"):
        shapes = given_by(clip.to_empty(device="cpu"), resolved, batch)

    return Given(*(tree_map(lambda like: _random(like, device), part) for part in shapes))


def _random(like: Any, device: torch.device) -> Any:
    if not isinstance(like, Tensor):
        return like
    if not like.is_floating_point():
        return torch.ones(like.shape, dtype=like.dtype, device=device)
    return torch.randn(like.shape, dtype=like.dtype, device=device)


class TrainingStep:
    """Forward, mean square, backward, clipping, optimizer and average of one batch."""

    def __init__(
        self,
        resolved: ResolvedExperiment,
        batch: int,
        machine: Machine,
        *,
        compiled: str = "none",
        checkpointing: str = "none",
        channels_last: bool = True,
    ):
        self.device = torch.device(machine.device)
        self.experiment = resolved.config
        self.half = resolved.config.trainer.precision != "32"
        sizes = named_sizes(resolved)
        resolved.stage.fill(resolved.config, sizes)
        with torch.device(self.device):
            self.net = build_net(resolved, sizes)
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        checkpoint_blocks(self.net, checkpointing)
        compile_blocks(self.net, compiled)
        if channels_last:
            for net in (self.net, self.average):
                net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = build_optimizer(self.net, self.experiment.optim)
        self.args, self.kwargs = self._inputs(resolved, batch)

    def _inputs(self, resolved: ResolvedExperiment, batch: int) -> tuple[Any, Any]:
        """With what the plan's step calls the network, numbers drawn for its zeros."""
        seen: list[tuple[Any, Any]] = []

        class Called(Exception):
            """The inputs are known."""

        def note(net: nn.Module, args: Any, kwargs: Any) -> None:
            seen.append((args, kwargs))
            raise Called

        given = given_for(resolved, batch, self.device)
        hook = self.net.register_forward_pre_hook(note, with_kwargs=True)
        try:
            with torch.device(self.device):
                resolved.stage.dry_step(self.net, resolved.config, given, Share(batch, 1))
        except Called:
            pass
        finally:
            hook.remove()
        return tree_map(_like, seen[0])

    def __call__(self) -> Tensor:
        """One step; its loss."""
        kind = self.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.half, cache_enabled=False):
            output = self.net(*self.args, **self.kwargs)
        loss: Tensor = output.float().square().mean()
        self.optimizer.zero_grad()  # only now, as Lightning does
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        ema.update(self.average, self.net, DECAY)
        return loss.detach()


def _like(x: Any) -> Any:
    """Numbers for zeros: a GPU multiplies zeros with less power, and so faster."""
    if isinstance(x, Tensor) and x.is_floating_point():
        return torch.randn_like(x)
    return x


def seconds_of(step: Callable[[], Any], machine: Machine, *, warm: int, steps: int) -> float:
    """Of one ``step``, by the clock, after ``warm`` of them."""
    for _ in range(warm):
        step()
    synchronize(machine)
    began = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize(machine)
    return (time.perf_counter() - began) / steps


def synchronize(machine: Machine) -> None:
    """Wait until the device has done what it was told."""
    if machine.gpu:
        torch.cuda.synchronize(machine.device)
