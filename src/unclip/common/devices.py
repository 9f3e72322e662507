"""The device that a user names."""

from __future__ import annotations

import torch

from unclip.common.counted import counted
from unclip.common.errors import UserError

NARROW = ("mps",)
"""Kinds of devices without float64."""


def widest(device: torch.device) -> torch.dtype:
    """Float64, or float32 on a device that has no wider numbers."""
    return torch.float32 if device.type in NARROW else torch.float64


def widened(x: torch.Tensor) -> torch.Tensor:
    """``x`` in the widest numbers of its device."""
    return x.to(widest(x.device))


NAMES = "auto, cpu, cuda, cuda:N or mps"

_AMPERE = (8, 0)  # compute capability


def is_ampere(device: torch.device | str) -> bool:
    """Whether a CUDA device is of that generation or a newer one: TF32, and units for bfloat16."""
    return torch.cuda.get_device_capability(device) >= _AMPERE


def find_device(name: str, key: str = "--device") -> torch.device:
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        UserError: there is no such device on this machine; the line begins with ``key``.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"{key} {name}: must be {NAMES}")
    if device.type != "cuda" and device.index:
        raise UserError(f"{key} {name}: this machine has one {device.type}; use {device.type}")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if not count:
            raise UserError(f"{key} {name}: this machine has no CUDA GPU; use cpu")
        if (device.index or 0) >= count:
            raise UserError(
                f"{key} {name}: this machine has {counted(count, 'GPU')}, from cuda:0 on"
            )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"{key} {name}: this machine has no MPS device; use cpu")
    return device
