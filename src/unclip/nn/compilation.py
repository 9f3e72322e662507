"""Compilation of a network's blocks (`unclip.nn.blocks`) by torch.

It replaces nothing: the names in a state dict stay as they are. Blocks of one shape share their
code, so compiling them takes a fraction of the whole network's time.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from unclip.nn.blocks import blocks_of

SMALL = 4  # samples of an evaluation, up to which CUDA graphs are worth their copies
SHAPES = 8  # of inputs for each block: whole and last batches, with guidance and without


def compile_blocks(net: nn.Module, how: str) -> None:
    """Compile ``net`` for training (`model`), its blocks one by one (`blocks`), or not (`none`)."""
    if how == "model":
        net.compile()
    if how == "blocks":
        blocks = blocks_of(net)
        allow_kinds(len(blocks) + 8)
        torch._dynamo.config.optimize_ddp = False  # it would cut blocks where DDP's buckets end
        for block in blocks:
            # Blocks share their code, so from the second shape on sizes would turn symbolic;
            # training batches are always full.
            block.compile(dynamic=False)


def allow_kinds(count: int) -> None:
    """Let dynamo compile one function so often: all blocks of a kind share one."""
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, count)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, count)


class Compilation:
    """Compiles blocks of networks that sample, each when it is first called with a shape.

    Args:
        graphs: Whether batches of at most `SMALL` samples are replayed as CUDA graphs: an
            evaluation then is one generation of them, whose results live until the next one.
    """

    def __init__(self, *, graphs: bool = False):
        self.graphs = graphs
        self.kinds, self.seconds = 0, 0.0  # what was compiled, and how long that took
        self._added: list[nn.Module] = []
        self._blocks = 0
        self._last = sys.maxsize  # number of the block that ran last

    def add(self, net: nn.Module) -> None:
        """Compile ``net``'s blocks; again is no change."""
        if any(net is other for other in self._added):
            return
        self._added.append(net)
        for block in blocks_of(net):
            block._compiled_call_impl = self._compiled(block, self._blocks)  # type: ignore[assignment]
            self._blocks += 1
        allow_kinds(SHAPES * self._blocks)

    def _compiled(self, block: nn.Module, number: int) -> Callable[..., Any]:
        plain = torch.compile(block._call_impl, dynamic=False)
        graphs = plain
        if self.graphs:
            graphs = torch.compile(block._call_impl, dynamic=False, mode="reduce-overhead")

        def call(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.graphs and number <= self._last:  # blocks run in their order: a new evaluation
                torch.compiler.cudagraph_mark_step_begin()
            self._last = number
            before, began = _compiled_so_far(), time.perf_counter()
            found = (graphs if len(x) <= SMALL else plain)(x, *args, **kwargs)
            if (more := _compiled_so_far() - before) > 0:
                self.kinds += more
                self.seconds += time.perf_counter() - began
            return found

        return call

    def report(self) -> str | None:
        """What was compiled since the last report, in a line; None if nothing was."""
        kinds, seconds = self.kinds, self.seconds
        self.kinds, self.seconds = 0, 0.0
        return f"compiled {kinds} kinds of blocks in {seconds:.1f} s" if kinds else None


def _compiled_so_far() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def missing_for_compilation(device: torch.device) -> str | None:
    """Why nothing can be compiled on ``device``, in a line; None where a tiny function can.

    Slim images have no C compiler or no Python headers, which Triton needs for its launchers.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # of CUDA on a CPU
    try:
        x = torch.ones(8, device=device, requires_grad=True)
        torch.compile(lambda y: (y * 2).sin().sum(), dynamic=False)(x).backward()
    except Exception as error:  # of dynamo, Inductor, Triton or the compiler
        return next(
            (line for line in str(error).splitlines() if line.strip()), type(error).__name__
        )
    return None
