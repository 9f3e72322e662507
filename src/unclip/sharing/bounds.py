"""How large a stranger's experiment may be: numbers first, then the network without its memory."""

from __future__ import annotations

from typing import Any

import psutil

from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.fields import leaves
from unclip.config.load import OVERRIDE, ResolvedExperiment
from unclip.data.loader import cores

MOST = 1_000_000_000  # of any number that has no smaller limit of its own
MOST_STEPS = 10_000_000
ITEMS = 32  # of a list
_BYTES = 4 * 4  # of a parameter: weight, gradient, two moments


def check_numbers(experiment: dict[str, Any]) -> None:
    """Raise ValueError for a number or a list that is larger than any real experiment's."""
    for key, value in leaves(experiment):
        items = value if isinstance(value, list) else [value]
        if len(items) > ITEMS:
            raise ValueError(f"{key}: a list of {len(items):,}, the most is {ITEMS}")
        most = MOST_STEPS if key == "trainer.max_steps" else MOST
        for item in items:
            if isinstance(item, (int, float)) and abs(item) > most:
                raise ValueError(f"{key}={item}: the most that a bundle may have is {most:,}")


def check_machine(resolved: ResolvedExperiment) -> None:
    """Refuse what this machine does not have: processes, threads, memory.

    What the user has typed of processes and threads is taken as it is. The network is built on
    the meta device, which takes no memory.

    Raises:
        UserError: says what is needed and what is there.
    """
    from unclip.runs.parents import count_parameters

    trainer, data = resolved.config.trainer, resolved.config.data
    asked = {name: getattr(trainer, name, None) or 1 for name in ("here", "nodes", "threads")}
    for name, wanted, there in (
        ("devices", asked["here"], _devices()),
        ("nodes", asked["nodes"], 1),
        ("threads", asked["threads"], cores()),
    ):
        key = f"trainer.{name}"
        if wanted > there and resolved.origins.get(key) != OVERRIDE:
            raise UserError(
                f"{resolved.files[0].name}: {key}={wanted:,}: this machine has {there}; add "
                f"{key}={there}, or as many as you want"
            )
    model = getattr(resolved.config, "model", None)
    parameters, devices = count_parameters(resolved), getattr(trainer, "here", 1)
    pixels = getattr(model, "image_size", 1) ** 2
    batches = 1 + min(data.num_workers, cores())  # each worker has one ready
    images = data.batch_size // getattr(trainer, "accumulate", 1) * 3 * pixels * 4 * batches
    needed, there = parameters * _BYTES * devices + images, _memory()
    if needed > there:
        raise UserError(
            f"{resolved.files[0].name}: {parameters:,} parameters and "
            f"{counted(data.batch_size, 'sample')} need {needed / 2**30:,.0f} GiB or more; "
            f"this machine has {there / 2**30:,.0f}"
        )


def _devices() -> int:
    import torch

    return max(1, torch.cuda.device_count())


def _memory() -> int:
    """Bytes of this machine's memory and its GPUs'."""
    import torch

    gpus = range(torch.cuda.device_count())
    return psutil.virtual_memory().total + sum(
        torch.cuda.get_device_properties(n).total_memory for n in gpus
    )
