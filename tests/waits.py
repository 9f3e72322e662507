"""Where a CPU would wait for its GPU, found without one: the meta device stands for the GPU.

Reading a value back from the meta device (`item`, `tolist`, `cpu`, `nonzero`, a tensor as a
condition) fails by itself, since there is none. `Waits` counts what is left: copies to the device
that block, tensors made on it from Python's numbers, lists as an index, and operators that get
tensors of the CPU beside the device's.
"""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from unclip.training.random import StepRandom

GPU = torch.device("meta")
_real_autocast = torch.autocast


def _autocast(device: str, **options: Any) -> Any:
    """Mixed precision, which the meta device does not know."""
    return nullcontext() if device == GPU.type else _real_autocast(device, **options)


class _FromPython(TorchFunctionMode):
    """Appends to ``waits`` what copies Python's own numbers to the device."""

    def __init__(self, waits: list[str]):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and args[0].device == GPU:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(i, list) for i in index):
                self.waits.append("list as an index")
        elif func in (torch.tensor, torch.as_tensor) and out.device == GPU:
            self.waits.append("tensor of numbers")
        return out


class Waits(TorchDispatchMode):
    """Lists ``waits``, and counts the ``operators`` that are started on the device."""

    def __init__(self):
        super().__init__()
        self.waits: list[str] = []
        self.operators = 0
        self._around = ExitStack()

    def __enter__(self):
        self._around.enter_context(patch.object(torch, "autocast", _autocast))
        self._around.enter_context(_FromPython(self.waits))
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._around.close()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        found = [x for x in pytree.tree_leaves(out) if isinstance(x, torch.Tensor)]
        if not any(x.device == GPU for x in found):
            return out
        name = str(func)
        self.operators += not func.is_view and "empty" not in name and "_unsafe_view" not in name
        given = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        from_cpu = any(x.device != GPU and x.ndim for x in given)
        if from_cpu and not ("_to_copy" in name and kwargs.get("non_blocking")):
            self.waits.append(name)
        return out


class GpuRandom(StepRandom):
    """Draws on the device, which has no generator: numbers without values."""

    def normal(self, purpose: str, shape: Any) -> torch.Tensor:
        if torch.device(self.device) == GPU:
            return torch.empty(shape, device=GPU)
        return super().normal(purpose, shape)

    def uniform(self, purpose: str, batch: int, *each: int) -> torch.Tensor:
        if torch.device(self.device) == GPU:
            return torch.empty(batch, *each, device=GPU)
        return super().uniform(purpose, batch, *each)
