"""A run that is stopped and resumed, here or on the CPU, goes on as if nothing had been."""

from __future__ import annotations

import shutil

from unclip.machine.check import Check, Machine, Row, agreement
from unclip.machine.stages import (
    REFERENCE,
    STEPS,
    drawing_on_the_host,
    expected,
    losses,
    run_of,
    trained,
)
from unclip.runs.train import train

HALFWAY = STEPS // 2
WITHIN = 1e-3  # of what another device computed
KINDS = ("decoder", "prior")


def measure(item: str, machine: Machine) -> list[Row]:
    """``item`` is "WAY: STAGE"."""
    way, _, kind = item.partition(": ")
    first = machine._replace(device="cpu") if way == "CPU to device" else machine
    second = machine._replace(device="cpu") if way == "device to CPU" else machine
    folder = machine.folder / "resume" / way.replace(" ", "_") / kind
    if way == "device":
        whole = trained(machine, kind, folder.with_name(f"{kind}-whole"))
    else:
        whole = expected(machine, kind)
    every = {"trainer.checkpoint_every": str(HALFWAY)}
    trained(first, kind, folder, **every)
    for path in (folder / "checkpoints").glob("step_*"):  # as it was halfway
        if int(path.name.removeprefix("step_")) != HALFWAY:
            shutil.rmtree(path)
    shutil.rmtree(folder / "artifact")
    with drawing_on_the_host():
        train(run_of(second, kind, folder, **every), resume=True)
    return [agreement(item, losses(folder), whole, WITHIN, "in one go")]


WAYS = ("device", "CPU to device", "device to CPU")
CHECK = Check(
    "resume",
    "a run resumed, also from and on the CPU",
    [f"{way}: {kind}" for way in WAYS for kind in KINDS],
    measure,
    after=(REFERENCE,),
)
