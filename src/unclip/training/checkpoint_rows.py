"""The tensors in a checkpoint's files, row by row: what a process has, and what files have.

Imports no Lightning.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from unclip.common.errors import UserError


class Rows(NamedTuple):
    """Which rows (indices of the first dimension) of a tensor this process has."""

    first: int
    many: int
    sharded: bool

    @classmethod
    def of(cls, tensor: Tensor) -> Rows:
        """FSDP2 gives each process ceil(rows / processes) of them, the last ones fewer or none."""
        rows = tensor.shape[0] if tensor.ndim else 1
        if not isinstance(tensor, DTensor):
            return cls(0, rows, False)
        if tensor.placements != (Shard(0),):
            raise ValueError(f"a tensor sharded as {tensor.placements}, not by rows")
        mesh = tensor.device_mesh
        each = -(-rows // mesh.size())
        first = min(each * mesh.get_local_rank(), rows)
        return cls(first, min(each, rows - first), True)


def local(tensor: Tensor) -> Tensor:
    """What this process has of ``tensor``."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class Stored:
    """The tensors of a checkpoint's folder; a context that holds its files open."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._files = ExitStack()
        self._parts: dict[str, list[tuple[int, Any]]] = {}

    def __enter__(self) -> Stored:
        for path in sorted(self.folder.glob("rank_*.safetensors")):
            try:
                file = self._files.enter_context(safe_open(path, framework="pt"))
                for name, first in (file.metadata() or {}).items():
                    self._parts.setdefault(name, []).append((int(first), file))
            except (SafetensorError, OSError, ValueError) as error:
                self._files.close()
                raise UserError(f"{path}: not a safetensors file of a run: {error}") from None
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def broken(self) -> str | None:
        """A tensor whose parts are not all there, or do not make a whole, if there is one."""
        for name, parts in self._parts.items():
            end = 0
            for first, file in sorted(parts, key=lambda part: part[0]):
                if name not in file.keys():  # noqa: SIM118  # not a mapping
                    return f"{name} is named and not there"
                shape = file.get_slice(name).get_shape()
                if first != end:
                    return f"{name}: rows from {end} on are missing"
                end += shape[0] if shape else 1
        return None

    def names(self, prefix: str) -> list[str]:
        """The tensors whose name starts with ``prefix``, without it."""
        return sorted(n.removeprefix(prefix) for n in self._parts if n.startswith(prefix))

    def shape(self, name: str) -> list[int]:
        """Of the whole tensor."""
        shapes = [list(file.get_slice(name).get_shape()) for _, file in self._parts[name]]
        if len(shapes) == 1:
            return shapes[0]
        return [sum(shape[0] for shape in shapes), *shapes[0][1:]]

    def whole(self, name: str) -> Tensor:
        """A tensor, from however many files have parts of it."""
        parts = sorted(self._parts[name], key=lambda part: part[0])
        tensors = [file.get_tensor(name) for _, file in parts]
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

    def read(self, name: str, rows: Rows) -> Tensor:
        """Those rows of a tensor, from however many files have them."""
        if not rows.sharded:
            return self.whole(name)
        found = []
        for first, file in sorted(self._parts[name], key=lambda part: part[0]):
            piece = file.get_slice(name)
            start, stop = rows.first - first, rows.first + rows.many - first
            start, stop = max(start, 0), min(stop, piece.get_shape()[0])
            if start < stop:
                found.append(piece[start:stop])
        return torch.cat(found)
