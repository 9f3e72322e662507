"""How large a network or a step may be, whoever asks for it: far beyond any real one.

A number that passes can still be too much for a machine; one that does not would keep it busy
for ever before anybody could say so.
"""

from __future__ import annotations

from typing import Any

from unclip.common.errors import UserError

MOST = {
    "accumulate": 65_536,
    "batch_size": 1_048_576,
    "blocks": 64,
    "buckets": 1_000_000,
    "candidates": 1024,
    "channels": 65_536,
    "clip_text_width": 65_536,
    "clip_tokens": 4096,
    "codes": 8192,
    "components": 8192,
    "context": 65_536,
    "devices": 1024,
    "embed_dim": 8192,
    "head_channels": 65_536,
    "heads": 4096,
    "image_size": 16_384,
    "layers": 256,
    "low_size": 16_384,
    "max_steps": 1_000_000_000,
    "multiples": 64,
    "noise_levels": 100_000,
    "nodes": 16_384,
    "norm_groups": 65_536,
    "num_workers": 256,
    "patch_size": 16_384,
    "reservoir": 10_000_000,
    "steps": 100_000,
    "text_heads": 4096,
    "text_layers": 256,
    "text_width": 65_536,
    "threads": 1024,
    "vision_head_width": 65_536,
    "vision_layers": 256,
    "vision_stages": 256,
    "vision_width": 65_536,
    "vocabulary": 10_000_000,
    "width": 65_536,
}
"""The most that a field of this name may be, wherever it is."""
ITEMS = 32  # of a list of numbers
_MAY_BE_ZERO = "noise_levels"  # of the numbers in a section `model`


def check_size(key: str, value: Any, setting: str) -> None:
    """Hold the value of the dotted ``key`` to what its name may have.

    Raises:
        UserError: it is larger, or a size of a network below 1; ``setting`` is how it was given.
    """
    name = key.rsplit(".", 1)[-1]
    items = value if isinstance(value, list) else [value]
    numbers = [item for item in items if type(item) in (int, float)]
    if len(numbers) > ITEMS:
        raise UserError(f"{setting}: has {len(numbers):,} numbers; the most is {ITEMS}")
    most = MOST.get(name)
    if most is not None and any(number > most for number in numbers):
        raise UserError(f"{setting}: must be at most {most:,}")
    whole = [number for number in numbers if type(number) is int]
    if key.startswith("model.") and name != _MAY_BE_ZERO and any(n < 1 for n in whole):
        raise UserError(f"{setting}: must be at least 1")
