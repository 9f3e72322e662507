"""Checkpoints: folders that are written atomically, verified when read, and free of pickled code.

``checkpoints/step_0000100/`` holds one safetensors file per process with the rows of the weights
and optimizer states that this process had, ``rest.pt`` with plain numbers and text (loaded with
weights_only), and ``manifest.json``, written last, with the size and CRC-32 of every other file.
Every tensor is stored with its place in the whole, so what N processes wrote, sharded or not, M
processes read, sharded or not. Imports no Lightning (why not torch's own format: docs/adr/0006).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from unclip.common.errors import UserError
from unclip.training.checkpoint_damage import read_rest
from unclip.training.checkpoint_folders import (
    FORMAT,
    MANIFEST,
    REST,
    newest_checkpoint,
    rank_file,
    size_and_sum,
)
from unclip.training.checkpoint_rows import Rows, Stored, local
from unclip.training.world import World

NOT_FINITE = "a NaN or infinite value"
Holds = Callable[[str], bool]
"""Whether a checkpoint has the weight of a name."""


def everything(name: str) -> bool:
    """All weights are held."""
    return True


def write(
    path: Path,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    rest: dict[str, Any],
    *,
    holds: Holds = everything,
) -> None:
    """Write ``path``, a checkpoint's folder; it appears when it is complete. On every process.

    Raises:
        UserError: a process could not write; what was there before is untouched.
    """
    world, part = World.here(), path.with_suffix(".part")
    described = {"kind": type(optimizer).__name__, "groups": _named_groups(net, optimizer)}
    tensors = {f"net.{name}": t for name, t in net.state_dict().items() if holds(name)}
    for name, parameter in _trained(net, optimizer):
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = torch.as_tensor(value)

    def prepare() -> None:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)

    def finish() -> None:
        torch.save({**rest, "optimizer": described}, part / REST)
        files = {file.name: size_and_sum(file) for file in sorted(part.iterdir())}
        manifest = {"format": FORMAT, "processes": world.size, "files": files}
        _durably(part / MANIFEST, json.dumps(manifest, indent=1))
        shutil.rmtree(path, ignore_errors=True)
        part.rename(path)

    _together(world, path, part, prepare if world.rank == 0 else None)
    _together(world, path, part, lambda: _write_own(tensors, part, world))
    _together(world, path, part, finish if world.rank == 0 else None)


def _together(world: World, path: Path, part: Path, act: Any) -> None:
    """Run ``act`` where there is one; when it failed on one process, fail on all."""
    error = None
    try:
        if act is not None:
            act()
    except (OSError, SafetensorError, RuntimeError) as failure:  # torch.save: RuntimeError
        error = str(failure).splitlines()[0]
    errors = [e for e in world.gather(error) if e is not None]
    if errors:
        if world.rank == 0:
            shutil.rmtree(part, ignore_errors=True)
        kept = newest_checkpoint(path.parent.parent)
        whole = f"{kept.name} is whole" if kept else "none before it"
        if kept and not any(each.startswith(NOT_FINITE) for each in errors):
            whole += ", continue from it with --resume"
        line = f"run.dir: cannot write the checkpoint {path}: {errors[0]} ({whole})"
        raise world.exit_for(UserError(line))


def _durably(file: Path, text: str) -> None:
    """Write ``text`` so that it, and all that was written before, survives a loss of power."""
    with file.open("w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())


def _write_own(tensors: dict[str, Tensor], folder: Path, world: World) -> None:
    """The rows that this process has; tensors that all have whole are shared out among them."""
    own, places, seen = {}, {}, set[int]()
    for k, (name, tensor) in enumerate(sorted(tensors.items())):
        rows = Rows.of(tensor)
        if rows.many and (rows.sharded or k % world.size == world.rank):
            held = local(tensor).detach()
            if held.is_floating_point() and not held.isfinite().all():
                raise RuntimeError(f"{NOT_FINITE} in {name}; start a new run with a lower optim.lr")
            held = held.cpu().contiguous()  # on the CPU first: no copy on a GPU that is full
            shared = held.untyped_storage().data_ptr() in seen  # a table of several moments
            seen.add(held.untyped_storage().data_ptr())
            own[name] = held.clone() if shared else held
            places[name] = str(rows.first)
    file = folder / rank_file(world.rank)
    save_file(own, file, metadata=places)
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


@torch.no_grad()
def read(
    path: Path,
    net: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    *,
    holds: Holds = everything,
) -> dict[str, Any]:
    """Load a checkpoint into ``net`` and ``optimizer``, each process its own rows; the rest of it.

    Raises:
        UserError: it is of another network or another optimizer.
    """
    rest = read_rest(path)
    described = rest.pop("optimizer")
    with Stored(path) as stored:
        targets = {name: t for name, t in net.state_dict().items() if holds(name)}
        found = [name for name in stored.names("net.") if holds(name)]
        _same_names(path, "weight", found, targets)
        for name, target in targets.items():
            if stored.shape(f"net.{name}") != list(target.shape):
                raise UserError(
                    f"{path}: the weight {name} is {stored.shape(f'net.{name}')}, the run's is "
                    f"{list(target.shape)}; continue with the model it was started with"
                )
            rows = Rows.of(target)
            if rows.many:
                local(target).copy_(stored.read(f"net.{name}", rows))
        if optimizer is not None:
            _load_optimizer(path, stored, described, net, optimizer)
    return rest


def _load_optimizer(
    path: Path, stored: Stored, described: Any, net: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    groups, now = described["groups"], _named_groups(net, optimizer)
    same = [g["params"] for g in groups] == [g["params"] for g in now]
    if not same or described["kind"] != type(optimizer).__name__:
        raise UserError(
            f"{path}: was saved with another optimizer; resume with the optim.name of the start"
        )
    keys: dict[str, list[str]] = {}
    for full in stored.names("optimizer."):
        name, _, key = full.rpartition(".")
        keys.setdefault(name, []).append(key)
    number = 0
    state: dict[int, dict[str, Tensor]] = {}
    parameters = dict(_trained(net, optimizer))
    for group in groups:
        names, group["params"] = group["params"], []
        for name in names:
            if name in keys:
                state[number] = {
                    key: _like(stored, f"optimizer.{name}.{key}", parameters[name])
                    for key in keys[name]
                }
            group["params"].append(number)
            number += 1
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _like(stored: Stored, name: str, parameter: Tensor) -> Tensor:
    """An optimizer's tensor, laid out and placed as its ``parameter`` is when it has its shape."""
    shape = stored.shape(name)
    if shape != list(parameter.shape):
        if len(shape) > 1:  # neither a count of steps nor a table of 8-bit moments
            raise UserError(
                f"{stored.folder}: {name} is {shape}, the weight is {list(parameter.shape)}; "
                "continue with the model it was started with"
            )
        return stored.whole(name)
    if not isinstance(parameter, DTensor):  # CUDA's fused kernels want the strides of the weight
        whole = stored.whole(name)
        return torch.empty_like(parameter, dtype=whole.dtype).copy_(whole)
    rows = Rows.of(parameter)
    local = stored.read(name, rows) if rows.many else torch.empty_like(parameter.to_local())
    return DTensor.from_local(
        local.to(parameter.device),
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def _trained(net: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Names and parameters of ``optimizer``, in its order."""
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield names[id(parameter)], parameter


def _named_groups(net: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The optimizer's groups with names for parameters."""
    names = iter([name for name, _ in _trained(net, optimizer)])
    return [
        {**group, "params": [next(names) for _ in group["params"]]}
        for group in optimizer.param_groups
    ]


def _same_names(path: Path, what: str, found: list[str], wanted: dict[str, Any]) -> None:
    strange = sorted(set(found) ^ set(wanted))
    if strange:
        where = "lacks" if strange[0] in wanted else "has"
        raise UserError(
            f"{path}: {where} the {what} {strange[0]} ({len(strange)} differ); "
            "continue with the model it was started with"
        )
