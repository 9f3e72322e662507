"""What an export of ours has noted beside the files of a layout that has no place for it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from unclip.common.fields import as_dataclass
from unclip.stages import registry
from unclip.stages.row import DECODER, UPSAMPLER
from unclip.weights.found import Found
from unclip.weights.reading.folders import Source
from unclip.weights.together import validate

PROVENANCE = "provenance.json"
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def restore_notes(source: Source, found: list[Found]) -> None:
    """Set the samplers' steps, guidance and the like; how x_0 is clamped a scheduler has said.

    Also the precision of the schedule's tables, and the size that an upsampler enlarges, unless a
    decoder is beside it.

    Raises:
        UserError: a value that a stage cannot have.
    """
    if PROVENANCE not in source.names:
        return
    exported = source.json(PROVENANCE).get("exported")
    stages: Any = exported.get("stages") if isinstance(exported, dict) else None
    where = source.where(PROVENANCE)
    alone = not any(each.stage == DECODER for each in found)
    for each in found:
        noted = stages.get(registry.STAGES[each.stage].kind) if isinstance(stages, dict) else None
        noted = noted if isinstance(noted, dict) else {}
        experiment = each.experiment
        if noted.get("sampler") is not None:
            sampler = experiment.sampler
            mine = as_dataclass(type(sampler), noted["sampler"], f"{where}: ", "sampler.")
            same = {"clip": sampler.clip, "clip_range": sampler.clip_range}
            validate(mine, where)
            experiment.sampler = replace(mine, **same)
        if "tables" in noted:
            values = asdict(experiment.diffusion) | {"tables": noted["tables"]}
            experiment.diffusion = as_dataclass(
                type(experiment.diffusion), values, f"{where}: ", "diffusion."
            )
        if each.stage == UPSAMPLER and alone and "low_size" in noted:
            values = asdict(experiment.model) | {"low_size": noted["low_size"]}
            experiment.model = as_dataclass(type(experiment.model), values, f"{where}: ", "model.")
            validate(experiment.model, where)


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
