"""Whether a checkpoint can be read: files as they were written, content of the right kind."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from unclip.common import terminal
from unclip.common.errors import UserError
from unclip.common.unreadable import why_unreadable
from unclip.training.checkpoint_folders import REST, checkpoints, files_damage, step_of
from unclip.training.checkpoint_rows import Stored

# What torch.load and a look at its result raise for a file that is something else.
_UNREADABLE = (
    pickle.UnpicklingError,
    OSError,
    EOFError,
    RuntimeError,
    AttributeError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
)


def newest_whole(folder: Path, *, say: bool = True) -> Path:
    """The newest checkpoint of a run that can be read; says so when it passes over another.

    Raises:
        UserError: there are none, or all are damaged.
    """
    damages: list[str] = []
    for path in reversed(checkpoints(folder)):
        found = damage_of(path)
        if found is None:
            for line in damages if say else ():
                terminal.say(f"{line}; continuing from {path.name}")
            return path
        damages.append(f"{path}: damaged checkpoint: {found}")
    first = damages[0] if damages else f"{folder}: no checkpoint"
    raise UserError(f"{first}; there is no other; start over with --force")


def damage_of(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None: files as written, and of the right kind."""
    found = files_damage(path)
    if found is not None:
        return found
    try:
        rest = read_rest(path)
        with Stored(path) as stored:
            broken = stored.broken()
    except UserError as error:
        return str(error).removeprefix(f"{path}/")
    if rest.get("global_step", step_of(path)) != step_of(path):
        return f"{REST} is of step {rest['global_step']}"
    return broken


def read_rest(path: Path) -> dict[str, Any]:
    """The content of ``rest.pt``, whose outermost types are checked.

    Raises:
        UserError: it is something else.
    """
    file = path / REST
    try:
        rest = torch.load(file, map_location="cpu", weights_only=True)
        described = rest["optimizer"]
        groups = described["groups"]
        named = isinstance(described["kind"], str) and isinstance(groups, list)
        fits = named and all(isinstance(group["params"], list) for group in groups)
    except _UNREADABLE as error:
        raise UserError(f"{file}: cannot be read: {why_unreadable(error)}") from None
    if not fits or not isinstance(rest, dict):
        raise UserError(f"{file}: is not a checkpoint of unclip")
    return rest
