"""What a device computes and holds."""

from __future__ import annotations

from typing import NamedTuple

import psutil
import torch

from unclip.common.checks import nearest
from unclip.common.errors import UserError

MIB = 2**20
CORE = 80e9  # operations per second: two float32 AVX2 units of 8 lanes, fused, at 2.5 GHz


class Device(NamedTuple):
    """One GPU, or what one process has of this machine."""

    name: str
    memory: int  # bytes
    bfloat16: float  # dense peak, floating-point operations per second
    float32: float

    @property
    def gpu(self) -> bool:
        """Whether it has memory of its own."""
        return self.name != "cpu"

    def peak(self, precision: str) -> float:
        """Operations per second at ``trainer.precision``."""
        return self.float32 if precision == "32" else self.bfloat16


# The SXM cards of 141, 80 and 80 GB. Peaks: NVIDIA's data sheets of H200, H100 and A100, which give
# Hopper's with sparsity, twice the dense ones. Memory: what nvidia-smi shows. Float32 is the plain
# one: torch multiplies float32 matrices without TF32 unless it is told to, and it is not.
GPUS = (
    Device("h200", 143_771 * MIB, 989.4e12, 66.9e12),
    Device("h100", 81_559 * MIB, 989.4e12, 66.9e12),
    Device("a100", 81_920 * MIB, 312e12, 19.5e12),
)


def find(name: str, processes: int) -> Device:
    """The device called ``name``; `cpu` is this machine, shared by ``processes``."""
    known = {gpu.name: gpu for gpu in GPUS}
    if name in known:
        return known[name]
    if name != "cpu":
        raise UserError(f"--device: unknown device {name!r}{nearest(name, [*known, 'cpu'])}")
    peak = CORE * torch.get_num_threads() / processes
    return Device("cpu", psutil.virtual_memory().total // processes, peak, peak)
