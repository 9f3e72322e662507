"""The same bits again: in training what `trainer.deterministic` and `trainer.threads` switch on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unclip.common.errors import UserError
from unclip.training.config import TrainerConfig

_THREADS = "OMP_NUM_THREADS"
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # read by cuBLAS when it starts
_NONE = re.compile(r"(\S+) does not have a deterministic implementation")


def sample_deterministically() -> None:
    """Let torch sample by algorithms that give the same bits each time, where there are some."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Nothing reads the empty tensors that it would fill.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010


def pin_threads(config: TrainerConfig) -> None:
    """Let a strict run's settings say how many threads it has: bits on a CPU depend on them."""
    if config.deterministic == "strict" and config.threads is None:
        threads = torch.get_num_threads()
        # Processes on one machine share its cores, unless somebody has said how.
        config.threads = threads if _THREADS in os.environ else max(1, threads // config.here)


@contextmanager
def apply(config: TrainerConfig) -> Iterator[None]:
    """While it lasts, torch computes as ``config`` says; then as before.

    `strict`: every operation by an algorithm that gives the same bits each time; attention too,
    whose kernels obey the same switch. `fast`: cuDNN looks for the fastest algorithms, as shapes
    never change. TF32 is off in both: what is float32 under `bf16-mixed` is meant to be, and `32`
    says so.

    Raises:
        UserError: an operation has no such algorithm on this device.
    """
    strict = config.deterministic == "strict"
    wanted = {_WORKSPACE: os.environ.get(_WORKSPACE, ":4096:8")} if strict else {}
    if config.threads is not None:
        wanted[_THREADS] = str(config.threads)  # else Lightning sets its own where it starts others
    environment = {name: os.environ.get(name) for name in wanted}
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    mode = torch.get_deterministic_debug_mode()
    before = cudnn.deterministic, cudnn.benchmark
    matmul = torch.backends.cuda.matmul
    tf32 = cudnn.allow_tf32, matmul.allow_tf32
    os.environ.update(wanted)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if strict:
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic = True
    cudnn.benchmark = not strict
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    except RuntimeError as error:
        lacking = _NONE.search(str(error)) if strict else None
        if lacking is None:
            raise
        raise UserError(
            f"trainer.deterministic=strict: {lacking[1]} has no deterministic algorithm on this "
            "device; use trainer.deterministic=fast, or another device"
        ) from error
    finally:
        if strict:
            torch.set_deterministic_debug_mode(mode)
        cudnn.deterministic, cudnn.benchmark = before
        cudnn.allow_tf32, matmul.allow_tf32 = tf32
        torch.set_num_threads(threads)
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
