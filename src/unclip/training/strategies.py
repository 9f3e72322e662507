"""How processes share the work: alone, DDP, or FSDP2, all with the project's own checkpoints.

Lightning imports `ModelParallelStrategy` for FSDP2; its `FSDPStrategy` is FSDP1 (facts in
docs/adr/0006).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.device_dtype_mixin import _update_properties
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import (
    DDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.local_rank import local_rank
from unclip.nn.blocks import blocks_of
from unclip.training import checkpoints, precision
from unclip.training.checkpoint_rows import local
from unclip.training.config import TrainerConfig


class _OwnCheckpoints(Strategy):
    """Reads and writes `unclip.training.checkpoints`; Lightning sees what is no tensor."""

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Weights are sharded before they are loaded."""
        return True

    @property
    def lightning_restore_optimizer(self) -> bool:
        """`load_checkpoint` has done it."""
        return False

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Nothing: `save_checkpoint` takes the weights itself."""
        return {}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Nothing: `save_checkpoint` takes it itself."""
        return {}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """Every process writes its part of the folder ``filepath``."""
        rest = {k: v for k, v in checkpoint.items() if k not in ("state_dict", "optimizer_states")}
        stage: Any = self.lightning_module
        path = Path(self.broadcast(filepath))
        reshard(stage)
        checkpoints.write(path, stage, self.optimizers[0], rest, holds=stage.holds)

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Every process reads its part; the first one's choice of checkpoint holds for all."""
        stage: Any = self.lightning_module
        path = Path(self.broadcast(checkpoint_path))
        optimizer = self.optimizers[0] if self.optimizers else None
        rest = checkpoints.read(path, stage, optimizer, holds=stage.holds)
        return {**rest, "state_dict": {}, "optimizer_states": []}

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        """`load_checkpoint` has done it."""

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        """`load_checkpoint` has done it."""


class Single(_OwnCheckpoints, SingleDeviceStrategy):
    """One process."""


class ReplicatedStrategy(_OwnCheckpoints, DDPStrategy):
    """DDP: every process has all weights."""


class ShardedStrategy(_OwnCheckpoints, ModelParallelStrategy):
    """FSDP2: every process has its rows of the weights, see `shard`, in CPU memory if offloaded."""

    def __init__(self, processes: int, *, offload: bool):
        # Norms of offloaded gradients are exchanged between CPUs.
        backend = "cpu:gloo,cuda:nccl" if offload else None
        super().__init__(processes, 1, process_group_backend=backend)
        self._offload = offload

    def model_to_device(self) -> None:
        """Weights that are offloaded stay where they are."""
        if not self._offload:
            super().model_to_device()
            return
        assert self.model is not None
        for buffer in self.model.buffers():
            buffer.data = buffer.data.to(self.root_device)
        assert self.lightning_module is not None  # its `device` is where batches and draws go
        _update_properties(self.lightning_module, device=self.root_device)


def build(config: TrainerConfig) -> Strategy:
    """What ``trainer.strategy`` says; `auto` is DDP where there are several processes.

    Raises:
        UserError: As `world_of`, the device lacks the precision, or there is no GPU to offload
            from.
    """
    world = world_of(config.here, config.nodes, config.accelerator)
    gpu = config.accelerator in ("auto", "gpu") and torch.cuda.is_available()
    precision.require_supported(config, torch.device("cuda" if gpu else "cpu"))
    if config.accelerator == "mps" and (world > 1 or config.strategy != "auto"):
        raise UserError(
            "trainer.accelerator=mps: is for one process; use trainer.devices=1 "
            "trainer.strategy=auto"
        )
    if config.cpu_offload and not gpu:
        raise UserError("trainer.cpu_offload: needs a GPU to offload from, none found")
    if config.strategy == "fsdp":
        return ShardedStrategy(world, offload=config.cpu_offload)
    if world > 1:
        return ReplicatedStrategy(gradient_as_bucket_view=True)  # else it holds gradients twice
    kind = "mps" if config.accelerator == "mps" else "cpu"
    return Single(device=torch.device("cuda", 0) if gpu else torch.device(kind))


def count_devices(config: TrainerConfig) -> None:
    """Let `trainer.devices=auto` be a number: of what started the processes, or of the GPUs."""
    if config.devices != "auto":
        return
    started = processes_started()
    if started is not None:
        config.devices = max(1, started // config.nodes)
    else:
        gpu = config.accelerator in ("auto", "gpu") and torch.cuda.is_available()
        config.devices = torch.cuda.device_count() if gpu else 1


def world_of(devices: int, nodes: int, accelerator: str, *, prefix: str = "trainer.") -> int:
    """How many processes that is; in errors a setting is called ``prefix`` and its name.

    Raises:
        UserError: torchrun or srun started another number, several machines have neither, or a GPU
            is asked for where there is none.
    """
    world, started = devices * nodes, processes_started()
    if started not in (None, world):
        raise UserError(
            f"{prefix}devices={devices} x {prefix}nodes={nodes}: {counted(world, 'process')}, "
            f"but {started} were started; make them equal"
        )
    if nodes > 1 and started is None:
        raise UserError(f"{prefix}nodes: several machines need torchrun or srun")
    require_gpu(accelerator, prefix=prefix)
    gpu = accelerator in ("auto", "gpu") and torch.cuda.is_available()
    gpus = torch.cuda.device_count() if gpu else 0
    if gpus and devices > gpus:
        raise UserError(
            f"{prefix}devices={devices}: this machine has {counted(gpus, 'GPU')}; ask for as "
            f"many, or use {prefix}accelerator=cpu"
        )
    return world


def require_gpu(accelerator: str, *, prefix: str = "trainer.") -> None:
    """Refuse an ``accelerator`` that is not there; in the error it is called after ``prefix``.

    Raises:
        UserError: there is none.
    """
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError(f"{prefix}accelerator=gpu: no GPU found; use auto or cpu")
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"{prefix}accelerator=mps: this machine has no MPS device; use auto or cpu")


def processes_started() -> int | None:
    """How many processes torchrun or srun started, or None when this one is to start the others."""
    for environment in (TorchElasticEnvironment, SLURMEnvironment):
        if environment.detect():
            return environment().world_size()
    return None


def rank_started() -> int:
    """The process's place among those that torchrun or srun started."""
    for environment in (TorchElasticEnvironment, SLURMEnvironment):
        if environment.detect():
            return environment().global_rank()
    return 0


def shard(net: nn.Module, config: TrainerConfig, mesh: DeviceMesh) -> None:
    """Shard ``net`` over the processes of ``mesh``: each block by itself, then what is left.

    Weights, gradients and their sum are float32; with mixed precision on GPUs the blocks are
    gathered in its 16 bits, which halves what is sent (on a CPU layer norms refuse weights of
    another type). What is outside them is gathered in float32, as DDP has it: tables and positions
    begin a residual stream, and CLIP's temperature would be rounded by up to 3 %.
    """
    types = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    half = types.get(config.precision) if mesh.device_type == "cuda" else None
    offload = CPUOffloadPolicy() if config.cpu_offload else OffloadPolicy()
    for part, width in [*((block, half) for block in blocks_of(net)), (net, None)]:
        policy = MixedPrecisionPolicy(
            param_dtype=width, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        fully_shard(part, mesh=mesh["data_parallel"], mp_policy=policy, offload_policy=offload)


def building(config: TrainerConfig) -> AbstractContextManager[Any]:
    """Where a network is built that will be sharded: in memory by one process of a machine.

    The others build it without memory, and get their share from the first process (`spread`).
    """
    elsewhere = config.strategy == "fsdp" and config.processes > 1 and local_rank() > 0
    return torch.device("meta") if elsewhere else nullcontext()


@torch.no_grad()
def spread(
    net: nn.Module, whole: dict[str, Tensor], *, device: torch.device, keep: torch.device
) -> None:
    """Give every process its share of the first one's values.

    Args:
        net: Sharded; in memory or not.
        whole: Its parameters and buffers before that, in the memory of the first process.
        device: Of the exchange between processes.
        keep: Where shares are kept.
    """
    if any(tensor.is_meta for tensor in net.parameters()):
        net.to_empty(device=keep)
    first = distributed.get_rank() == 0
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        value = (
            whole[name].to(device)
            if first
            else torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        )
        if isinstance(tensor, DTensor):
            value = distribute_tensor(value, tensor.device_mesh, tensor.placements)
        else:
            distributed.broadcast(value, 0)
        local(tensor).copy_(local(value))


def hollow(net: nn.Module) -> nn.Module:
    """A copy of ``net`` whose tensors take no memory, to be sharded and then filled."""
    tensors = [*net.parameters(), *net.buffers()]
    memo: dict[int, Any] = {}
    for tensor in tensors:
        empty = torch.empty_like(tensor, device="meta")
        is_weight = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_weight else empty
    return copy.deepcopy(net, memo)


@torch.no_grad()
def fill(empty: nn.Module, net: nn.Module) -> None:
    """Give a `hollow` copy that is sharded as ``net`` is the values that ``net`` has here."""
    own = local(next(iter(net.parameters())))
    empty.to_empty(device=own.device)
    for tensors, values in (
        (empty.parameters(), net.parameters()),
        (empty.buffers(), net.buffers()),
    ):
        for tensor, value in zip(tensors, values, strict=True):
            local(tensor).copy_(local(value))


def shards(net: nn.Module) -> list[FSDPModule]:
    """The parts of ``net`` that were sharded."""
    return [module for module in net.modules() if isinstance(module, FSDPModule)]


def reshard(net: nn.Module) -> None:
    """Let go of gathered weights; after an evaluation those of the root are still there."""
    for part in shards(net):
        part.reshard()


@contextmanager
def full_parameters(net: nn.Module) -> Iterator[None]:
    """While it lasts every process has all weights of ``net``, so that any method of it works.

    FSDP2 gathers weights for `forward` alone, and anew at every step of a sampling.
    """
    parts = shards(net)
    if isinstance(net, FSDPModule):
        # Methods other than `forward` would make each block a root, and `forward` refuse it then.
        net._get_fsdp_state()._lazy_init()
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not net, recurse=False)
            part.reshard()
