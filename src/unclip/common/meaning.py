"""Which settings say what the weights of a network mean. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from unclip.common.fields import leaves

SECTIONS = ("model", "diffusion")
_HARMLESS = (
    "*.dropout",
    "model.merges",
    "diffusion.timesteps",
    "diffusion.logit_*",
    "diffusion.vb_weight",
)
"""Fields of these that only training or the place of a file depend on."""


def meaning(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `SECTIONS` in ``config`` without which the same numbers mean something else."""
    found = dict(leaves({name: config[name] for name in SECTIONS if name in config}))
    return {
        key: value
        for key, value in found.items()
        if not any(fnmatchcase(key, pattern) for pattern in _HARMLESS)
    }
