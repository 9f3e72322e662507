"""Reads tests/goldens: tiny random networks of other projects, with inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDENS = Path(__file__).parent / "goldens"


def tensors(name: str) -> dict[str, Tensor]:
    """A safetensors file, such as ``karlo/improved_sr_io``; floats as float64."""
    found = load_file(GOLDENS / f"{name}.safetensors")
    return {k: v.double() if v.is_floating_point() else v for k, v in found.items()}


def state(name: str) -> dict[str, Tensor]:
    """The weights in a ``.ckpt`` or ``.pt`` file, as they are."""
    found = torch.load(GOLDENS / name, weights_only=True)
    return found.get("state_dict", found)


def component(name: str) -> dict[str, Tensor]:
    """The weights of a component folder of karlo-diffusers, its name and a dot before each name."""
    file = GOLDENS / "karlo-diffusers" / name / "diffusion_pytorch_model.safetensors"
    return {f"{name}.{key}": tensor for key, tensor in load_file(file).items()}


class Recorded:
    """The noise of a golden sampling ``[N, B, ...]``, one entry per call."""

    def __init__(self, noise: Tensor):
        self._entries = iter(noise)

    def __call__(self, shape: Sequence[int], device: torch.device) -> Tensor:
        entry = next(self._entries)
        assert entry.shape == tuple(shape)
        return entry.to(device)
