"""What an export of ours has noted beside the files of a layout that has no place for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unclip.common.fields import as_dataclass
from unclip.stages import registry
from unclip.weights.found import Found
from unclip.weights.reading.folders import Source

PROVENANCE = "provenance.json"
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def restore_samplers(source: Source, found: list[Found]) -> None:
    """Set the samplers' steps, guidance and the like; how x_0 is clamped a scheduler has said.

    Raises:
        UserError: a value that the sampler of a stage cannot have.
    """
    if PROVENANCE not in source.names:
        return
    exported = source.json(PROVENANCE).get("exported")
    stages: Any = exported.get("stages") if isinstance(exported, dict) else None
    for each in found:
        noted = stages.get(registry.STAGES[each.stage].kind) if isinstance(stages, dict) else None
        values = noted.get("sampler") if isinstance(noted, dict) else None
        if values is not None:
            sampler = each.experiment.sampler
            where = f"{source.where(PROVENANCE)}: "
            mine = as_dataclass(type(sampler), values, where, "sampler.")
            same = {"clip": sampler.clip, "clip_range": sampler.clip_range}
            each.experiment.sampler = replace(mine, **same)


def half_parts(state: dict[str, Tensor]) -> dict[str, str]:
    """Which parts of a state dict have half precision alone: the first word of the names, the kind.

    The artifact's provenance keeps it, by which an export gives back the very tensors.
    """
    kinds: dict[str, set[torch.dtype]] = {}
    for name, tensor in state.items():
        kinds.setdefault(name.partition(".")[0], set()).add(tensor.dtype)
    return {
        part: word
        for part, found in kinds.items()
        for word, dtype in HALVES.items()
        if found == {dtype}
    }


def in_halves(state: dict[str, Tensor], parts: object) -> dict[str, Tensor]:
    """The tensors with those in half precision again that were read so and have not changed since.

    ``parts`` are those of `half_parts`.
    """
    if not isinstance(parts, dict):
        return state
    found = {}
    for name, tensor in state.items():
        dtype = HALVES.get(str(parts.get(name.partition(".")[0])))
        if dtype is not None and tensor.dtype == torch.float32:
            short = tensor.to(dtype)
            tensor = short if torch.equal(short.float(), tensor) else tensor
        found[name] = tensor
    return found
