"""How large a stranger's experiment may be: numbers first, then the network without its memory."""

from __future__ import annotations

from typing import Any

import psutil

from unclip.common.errors import UserError
from unclip.common.fields import leaves
from unclip.config.load import ResolvedExperiment

MOST = {
    "max_steps": 10_000_000,
    "batch_size": 65_536,
    "accumulate": 65_536,
    "num_workers": 256,
    "devices": 1024,
    "layers": 256,
    "vision_layers": 256,
    "text_layers": 256,
    "vision_stages": 256,
    "blocks": 64,
    "multiples": 64,
    "width": 65_536,
    "vision_width": 65_536,
    "text_width": 65_536,
    "channels": 65_536,
    "embed_dim": 8192,
    "context": 65_536,
    "clip_tokens": 4096,
    "codes": 8192,
    "components": 8192,
    "buckets": 1_000_000,
    "reservoir": 10_000_000,
    "image_size": 16_384,
    "candidates": 1024,
}
"""The most that a field of this name may be, wherever it is."""
ANY_INTEGER = 1_000_000_000  # other fields
ITEMS = 32  # of a list
_BYTES = 4 * 4  # of a parameter: weight, gradient, two moments


def check_numbers(experiment: dict[str, Any]) -> None:
    """Raise ValueError for a number or a list that is larger than any real experiment's."""
    for key, value in leaves(experiment):
        most = MOST.get(key.rsplit(".", 1)[-1], ANY_INTEGER)
        items = value if isinstance(value, list) else [value]
        if len(items) > ITEMS:
            raise ValueError(f"{key}: a list of {len(items):,}, the most is {ITEMS}")
        for item in items:
            if isinstance(item, (int, float)) and abs(item) > most:
                raise ValueError(f"{key}={item}: the most that a bundle may have is {most:,}")


def check_memory(resolved: ResolvedExperiment) -> None:
    """Refuse what cannot fit into this machine: weights and optimizer, and one batch of images.

    The network is built on the meta device, which takes no memory.

    Raises:
        UserError: says what is needed and what is there.
    """
    from unclip.runs.parents import count_parameters

    model, data = getattr(resolved.config, "model", None), resolved.config.data
    parameters = count_parameters(resolved)
    pixels = getattr(model, "image_size", 1) ** 2
    images = data.batch_size // resolved.config.trainer.accumulate * 3 * pixels * 4
    needed, there = parameters * _BYTES + images, _memory()
    if needed > there:
        raise UserError(
            f"{resolved.files[0].name}: {parameters:,} parameters and {data.batch_size:,} samples "
            f"need {needed / 2**30:,.0f} GiB or more; this machine has {there / 2**30:,.0f}"
        )


def _memory() -> int:
    """Bytes of this machine's memory and its GPUs'."""
    import torch

    gpus = range(torch.cuda.device_count())
    return psutil.virtual_memory().total + sum(
        torch.cuda.get_device_properties(n).total_memory for n in gpus
    )
