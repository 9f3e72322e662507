"""Every stage on the CPU in float32: the losses that the others compare with, and a cascade."""

from __future__ import annotations

from unclip.machine.check import Check, Machine, Row
from unclip.machine.stages import REFERENCE, STAGES, fit_pca, trained


def measure(item: str, machine: Machine) -> list[Row]:
    """Train the stage ``item`` on the CPU."""
    folder = machine.folder / REFERENCE / item
    if item == "pca":
        fit_pca(machine, folder)
        return []
    found = trained(machine._replace(device="cpu"), item, folder)
    return [Row(f"{item}, float32 on the CPU", f"loss {found[0]:.5f} to {found[-1]:.5f}")]


ITEMS = ("clip", "pca", *(kind for kind in STAGES if kind != "clip"))
CHECK = Check(REFERENCE, "each stage on the CPU, to compare with", ITEMS, measure)
