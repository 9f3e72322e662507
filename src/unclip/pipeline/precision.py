"""The precision that a user names for sampling."""

from __future__ import annotations

import torch
from torch import nn

from unclip.common.checks import as_choice
from unclip.common.devices import is_ampere
from unclip.common.errors import UserError
from unclip.pipeline.settings import PRECISIONS

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(
    name: str, device: torch.device | str, key: str = "--precision"
) -> torch.dtype:
    """The type of the weights, and TF32 on or off for what this process computes in float32.

    ``auto`` is bf16 on a GPU that is fast in it, fp16 on other GPUs, and 32 on a CPU, where half
    precision is slower (docs/benchmarks.md). ``32`` is float32 in every product: a GPU's
    convolutions would otherwise be TF32, torch's default.

    Raises:
        UserError: no such precision, or the device does not have it; the line begins with ``key``.
    """
    device = torch.device(device)
    as_choice(f"{key} {name}", name, PRECISIONS)
    ampere = device.type == "cuda" and is_ampere(device)
    if name == "auto":
        name = "32" if device.type == "cpu" else "bf16" if ampere else "fp16"
    if name == "tf32" and not ampere:
        raise UserError(f"{key} tf32: only NVIDIA GPUs from Ampere on have it; use 32")
    if name == "bf16" and device.type == "cuda" and not ampere:
        raise UserError(f"{key} bf16: this GPU is too old for it; use fp16")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
    return _DTYPES.get(name, torch.float32)


def cast_parameters(net: nn.Module, dtype: torch.dtype) -> None:
    """Hold ``net``'s parameters in ``dtype``; buffers, which are statistics, stay in float32.

    The networks take and return float32 whatever their own type.
    """
    for parameter in net.parameters():
        parameter.data = parameter.data.to(dtype)
