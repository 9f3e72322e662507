"""A GPU without one: tensors of the device cuda:0 that have a shape and a type, but no values.

Tensors of the CPU are real, so what is planned there runs as it is. An operator that gets tensors
of both devices is refused, as a GPU refuses it: that finds what was left on the CPU. Where the
host reads from the device, it gets 1 or True, and a
boolean mask selects nothing: `FakeGpu.reads` counts that. Autograd records graphs, but
cannot run backwards.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

ATEN = torch.ops.aten
MEMORY = 80 * 2**30  # bytes
GPU = torch.device("cuda", 0)
COPIES = (ATEN.copy_.default, ATEN.copy.default, ATEN._foreach_copy_.default)


class TooWide(AssertionError):
    """An operator made float64 on a device that has none, as Apple's MPS."""


class LeftOnTheCpu(AssertionError):
    """An operator got tensors of both devices."""


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _made_up(x: Tensor) -> Tensor:
    """A tensor of the CPU with the shape and type of one whose values nobody knows."""
    return torch.ones(x.shape, dtype=x.dtype)


def _swap(a: Tensor, b: Tensor) -> None:
    """How a module changes the memory format of fake parameters, which plays no part here."""
    assert (a.device, a.dtype, a.shape) == (b.device, b.dtype, b.shape)


def _no_grad(mode: bool = True) -> Any:
    """In place of inference mode, in which fake tensors ask the driver."""
    return torch.no_grad() if mode else nullcontext()


class _Generator(torch.Generator):
    """Of the CPU, whatever its device should be."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(cls)


class _Calls(TorchFunctionMode):
    """What would ask the driver before it comes to an operator."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is Tensor.__format__ and args[0].is_cuda:
            return format(args[0].item(), args[1])
        if func is Tensor.pin_memory:
            return args[0]
        if func in (torch.tensor, torch.as_tensor) and _is_cuda(kwargs.get("device")):
            return func(*args, **{**kwargs, "device": "cpu"}).to(GPU)
        if func is Tensor.__getitem__ and args[0].is_cuda:
            args = (
                args[0],
                tree_map_only(
                    list,
                    lambda i: torch.tensor(i).to(GPU),
                    args[1],
                    is_leaf=lambda i: isinstance(i, list),
                ),
            )
        if kwargs.get("generator") is not None and _is_cuda(kwargs.get("device")):
            kwargs = {**kwargs, "generator": None}
        return func(*args, **kwargs)


class FakeGpu(TorchDispatchMode):
    """While it lasts, `GPU` is there."""

    narrow = False  # whether it lacks float64

    def __init__(self):
        super().__init__()
        self.reads = 0  # of values, by the host
        self.operators = 0  # on the device
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._around = ExitStack()

    def __enter__(self):
        torch._C._ensureCUDADeviceGuardSet()
        enter = self._around.enter_context
        enter(patch.object(torch.cuda, "_lazy_init", lambda: None))
        enter(patch.object(torch, "Generator", _Generator))
        enter(patch.object(torch, "inference_mode", _no_grad))
        enter(patch.object(torch.utils, "swap_tensors", _swap))
        enter(
            patch.object(
                torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=MEMORY)
            )
        )
        enter(patch.object(torch.cuda, "get_device_capability", lambda *_: (9, 0)))
        enter(patch.object(torch.cuda, "mem_get_info", lambda *_: (MEMORY, MEMORY)))
        enter(_Calls())
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._around.close()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if not _is_cuda(kwargs.get("device")) and not any(x.is_cuda for x in given):
            return func(*args, **kwargs)
        self.operators += 1
        if func is ATEN._local_scalar_dense.default:
            self.reads += 1
            return _made_up(args[0].new_empty(())).item()
        if func is ATEN.nonzero.default:
            self.reads += 1
            return self._none_of(args[0])
        if func is ATEN.index.Tensor:
            args = (args[0], [i for each in args[1] for i in self._indices(each)])
        self._refuse_mixed(func, given)
        with self._fake:
            found = func(*args, **kwargs)
        made = [x for x in tree_leaves(found) if isinstance(x, Tensor) and x.is_cuda]
        if self.narrow and any(x.dtype == torch.float64 for x in made):
            raise TooWide(f"{func}: {[list(x.shape) for x in made]}")
        return tree_map_only(FakeTensor, self._read, found)

    def _none_of(self, mask: Tensor) -> Tensor:
        """Indices ``[0, dimensions]``."""
        with self._fake:
            return torch.zeros(0, mask.ndim, dtype=torch.int64, device=GPU)

    def _indices(self, index: Tensor | None) -> list[Tensor | None]:
        """What a boolean mask stands for."""
        if index is None or index.dtype != torch.bool:
            return [index]
        self.reads += 1
        return list(self._none_of(index).unbind(1))

    def _refuse_mixed(self, func: Any, given: list[Tensor]) -> None:
        """A number as a tensor of the CPU is what CUDA takes too; an index it takes slowly."""
        if func in COPIES:
            return
        if any(not x.is_cuda and x.ndim for x in given) and any(x.is_cuda for x in given):
            shapes = [f"{x.device.type} {list(x.shape)}" for x in given]
            raise LeftOnTheCpu(f"{func}: {', '.join(shapes)}")

    def _read(self, x: Tensor) -> Tensor:
        if x.is_cuda:
            return x
        self.reads += 1
        return _made_up(x)


@contextmanager
def bf16_autocast():
    """As `torch.autocast`, which asks for a driver."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])
        torch.clear_autocast_cache()
