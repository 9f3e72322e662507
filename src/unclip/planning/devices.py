"""What a device computes and holds."""

from __future__ import annotations

import math
import re
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
    bfloat16: float | None  # dense peak, floating-point operations per second; None: it has none
    float32: float
    float16: float | None = None  # None: as bfloat16

    @property
    def gpu(self) -> bool:
        """Whether it has memory of its own."""
        return self.name != "cpu"

    def peak(self, precision: str) -> float:
        """Operations per second at ``trainer.precision``.

        Raises:
            UserError: the device cannot compute with it.
        """
        if precision == "32":
            return self.float32
        if precision == "16-mixed":
            return self.float16 or self.bfloat16 or self.float32
        if self.bfloat16 is None:
            raise UserError(
                f"--device {self.name}: has no bfloat16 units; add trainer.precision=16-mixed"
            )
        return self.bfloat16


# Peaks: NVIDIA's data sheets and white papers, dense (some give twice as much, with sparsity)
# and accumulated in float32, which halves those of GeForce cards. h200, h100, a100 and v100 are the
# SXM cards of 141, 80, 80 and 16 GB. Memory: what nvidia-smi shows. Float32 is the plain one: torch
# multiplies float32 matrices without TF32 unless it is told to, and it is not.
GPUS = (
    Device("h200", 143_771 * MIB, 989.4e12, 66.9e12),
    Device("h100", 81_559 * MIB, 989.4e12, 66.9e12),
    Device("a100", 81_920 * MIB, 312e12, 19.5e12),
    Device("v100", 16_160 * MIB, None, 15.7e12, 125e12),
    Device("a10g", 23_028 * MIB, 70e12, 31.5e12),
    Device("l4", 23_034 * MIB, 121e12, 30.3e12),
    Device("t4", 15_360 * MIB, None, 8.1e12, 65e12),
    Device("rtx5090", 32_607 * MIB, 209.5e12, 104.8e12),
    Device("rtx4090", 24_564 * MIB, 165.2e12, 82.6e12),
    Device("rtx3090", 24_576 * MIB, 71e12, 35.6e12),
)


def of_card(card: str) -> Device | None:
    """The device that CUDA calls ``card``, as "NVIDIA H100 80GB HBM3"; None of one not listed."""
    words = re.split(r"[\s-]+", card.lower().replace("rtx ", "rtx"))
    return next((gpu for gpu in GPUS if gpu.name in words), None)


def find(name: str, processes: int) -> Device:
    """The device called ``name``; `cpu` is this machine, shared by ``processes``."""
    known = {gpu.name: gpu for gpu in GPUS}
    if name in known:
        return known[name]
    if name != "cpu":
        raise UserError(f"--device: unknown device {name!r}{nearest(name, [*known, 'cpu'])}")
    peak = CORE * torch.get_num_threads() / processes
    return Device("cpu", psutil.virtual_memory().total // processes, peak, peak)


def some_gpu(memory: int) -> Device:
    """One of which only the memory is known."""
    return Device("gpu", memory, math.nan, math.nan)


def read_memory(text: str) -> int:
    """Bytes of ``8GB``, ``7.5GiB`` or ``512MiB``.

    Raises:
        UserError: it is not a size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([GM])(i?)B", text.strip())
    if not found or not (size := float(found[1])):
        raise UserError(f"--memory {text}: must be a size such as 8GB or 7.5GiB")
    unit = 1024 if found[3] else 1000
    return int(size * unit ** (3 if found[2] == "G" else 2))
