"""The BSR degradations: crops per second, and the same images as the CPU's."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.degradations.bsr import bsr
from unclip.degradations.bsr_parameters import UNIFORMS, VARIANTS
from unclip.machine.check import Check, Machine, Row
from unclip.machine.step import synchronize

SIDE, SCALE = 256, 4
BATCH, BATCHES = 64, 20
LEVEL = 2 / 255
FEW = 1e-3  # share of the numbers that rounding may push over a level's edge


def measure(item: str, machine: Machine) -> list[Row]:
    """Of the variant ``item``."""
    batch, batches = (BATCH, BATCHES) if machine.gpu else (4, 1)
    image, noise, uniforms = _inputs(batch)

    def degrade(device: str) -> Tensor:
        given = image.to(device), noise.to(device)
        return bsr(given[0], scale=SCALE, variant=VARIANTS[item], uniforms=uniforms, noise=given[1])

    for _ in range(3 if machine.gpu else 0):  # plans of Fourier transforms
        degrade(machine.device)
    synchronize(machine)
    began = time.perf_counter()
    for _ in range(batches):
        found = degrade(machine.device)
    synchronize(machine)
    rate = batch * batches / (time.perf_counter() - began)
    title = f"{item}, {SIDE} px"
    rows = [Row(title, f"{rate:,.0f} crops/s", numbers={"crops": rate})]
    expected = degrade("cpu")
    rows.append(_same(f"{title}, against the CPU", found.cpu(), expected))
    if machine.gpu:
        torch.backends.cuda.matmul.fp32_precision = "tf32"  # as somebody's container may set it
        rows.append(_same(f"{title}, with TF32 on", degrade(machine.device).cpu(), expected))
        torch.backends.cuda.matmul.fp32_precision = "ieee"
    return rows


def _inputs(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Smooth images in [-1, 1], noise and what decides the operations."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, 17, 17, generator=rng) * 2 - 1
    image = F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic").clamp(-1, 1)
    noise = torch.randn(image.shape, generator=rng)
    return image, noise, torch.rand(batch, UNIFORMS, generator=rng)


def _same(what: str, found: Tensor, expected: Tensor) -> Row:
    """At most a level apart, and that in few places."""
    apart = (found - expected).abs() / LEVEL
    share, most = (apart > 0.5).float().mean().item(), apart.max().item()
    told = f"{share:.1e} of the numbers differ, by at most {most:.0f} levels"
    aim = f"at most {FEW:.0e}, by a level"
    return Row(what, told, aim, share <= FEW and most < 1.5, {"share": share, "levels": most})


CHECK = Check("degradations", "BSR crops per second", tuple(VARIANTS), measure)
