"""What a user names of how networks run: what takes turns on the device, and what is compiled."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from unclip.common.checks import as_choice
from unclip.common.errors import UserError
from unclip.data.files import cache_folder
from unclip.nn.compilation import Compilation, missing_for_compilation
from unclip.nn.offload import Offload
from unclip.pipeline.settings import COMPILINGS, OFFLOADINGS

CACHE = "TORCHINDUCTOR_CACHE_DIR"
_tried: set[torch.device] = set()  # where something was compiled already


def choose_offload(name: str, device: torch.device | str, key: str = "--offload") -> Offload | None:
    """What moves networks to ``device`` one after another, or their blocks; None: all are there.

    Raises:
        UserError: no such way, or the device has no memory of its own; the line begins with
            ``key``.
    """
    device = torch.device(device)
    if as_choice(f"{key} {name}", name, OFFLOADINGS) == "none":
        return None
    if device.type != "cuda":
        raise UserError(
            f"{key} {name}: {device.type} computes in the machine's own memory, so nothing is "
            f"saved; use none"
        )
    return Offload(device, blocks=name == "blocks")


def choose_compilation(
    name: str, device: torch.device | str, offload: str, key: str = "--compile"
) -> Compilation | None:
    """What compiles networks on ``device``, with torch's cache on disk; None: nothing does.

    Raises:
        UserError: no such way, not with ``offload`` or not on this machine; the line begins with
            ``key``.
    """
    device = torch.device(device)
    if as_choice(f"{key} {name}", name, COMPILINGS) == "none":
        return None
    if offload == "blocks" or (name == "graphs" and offload != "none"):
        instead = "stages" if name == "blocks" else "none"
        raise UserError(
            f"{key} {name}: needs weights that stay in their place, which offload={offload} moves; "
            f"use offload={instead}"
        )
    if name == "graphs" and device.type != "cuda":
        raise UserError(f"{key} graphs: CUDA graphs need a CUDA GPU; use blocks")
    os.environ[CACHE] = str(compiled_folder())
    if device not in _tried and (reason := missing_for_compilation(device)):
        raise UserError(f"{key} {name}: nothing can be compiled here: {reason}; use none")
    _tried.add(device)
    return Compilation(graphs=name == "graphs")


def compiled_folder() -> Path:
    """Where torch keeps what it has compiled: in the cache, unless the user names a folder.

    Parts of torch name their own in the temporary folder as soon as they are imported.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    named = os.environ.get(CACHE)
    return cache_folder("compiled") if named in (None, default_cache_dir()) else Path(named)
