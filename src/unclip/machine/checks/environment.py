"""The machine itself: versions, TF32, what other programs set, whether anything compiles."""

from __future__ import annotations

import os
import platform
import shutil
import sys

import psutil
import torch

from unclip.common.devices import find_device
from unclip.machine.check import Check, Machine, Row
from unclip.nn.compilation import missing_for_compilation

OVERRIDES = ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "NVIDIA_TF32_OVERRIDE")
SPOKEN = ("CUBLAS", "NCCL", "TF32", "CUDA_VISIBLE", "PYTORCH", "OMP_NUM")


def measure(item: str, machine: Machine) -> list[Row]:
    """One of the items."""
    return {"versions": _versions, "settings": _settings, "compiler": _compiler}[item](machine)


def _versions(machine: Machine) -> list[Row]:
    python = f"Python {sys.version.split()[0]}, torch {torch.__version__}"
    cores = f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB"
    if not machine.gpu:
        return [Row("CPU", f"{platform.machine()}, {cores}, {python}")]
    device = find_device(machine.device)
    properties = torch.cuda.get_device_properties(device)
    major, minor = torch.cuda.get_device_capability(device)
    found = f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB, {major}.{minor}"
    numbers = {"bytes": float(properties.total_memory), "gpus": float(torch.cuda.device_count())}
    return [
        Row("GPU", f"{found}, of {torch.cuda.device_count()}", numbers=numbers),
        Row("versions", f"{python}, CUDA {torch.version.cuda}, {cores}"),
    ]


def _settings(machine: Machine) -> list[Row]:
    flags = f"cuDNN {torch.backends.cudnn.allow_tf32}, products {_products_in_tf32()}"
    forced = [name for name in OVERRIDES if os.environ.get(name)]
    said = [name for name in sorted(os.environ) if any(word in name for word in SPOKEN)]
    return [
        Row("TF32 before unclip sets it", flags),
        Row(
            "TF32 forced by the environment",
            ", ".join(forced) or "no",
            "no: degradations and float32 count on exact products",
            not forced,
        ),
        Row("variables", ", ".join(f"{name}={os.environ[name]}" for name in said) or "none"),
    ]


def _products_in_tf32() -> bool:
    return bool(torch.backends.cuda.matmul.allow_tf32)


def _compiler(machine: Machine) -> list[Row]:
    missing = missing_for_compilation(find_device(machine.device))
    there = ", ".join(name for name in ("gcc", "cc", "clang") if shutil.which(name)) or "none"
    row = Row("compilers", there)
    # On a CPU nothing is compiled unless somebody asks for it.
    ok = missing is None if machine.gpu else None
    return [row, Row("a tiny compiled step", missing or "works", "works", ok)]


CHECK = Check(
    "environment", "versions, TF32, compiler", ("versions", "settings", "compiler"), measure
)
