"""Objects in a pickle beside its tensors: of a few harmless kinds as empty shells, others refused.

A trainer's checkpoint holds its optimizer, its version and the like. None of it is imported or
made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from unclip.common.errors import UserError

HARMLESS = ("builtins.dict", "collections.", "packaging.", "pytorch_warmup.", "torch.optim.")
"""What the names of their classes begin with."""


def shells_of(file: Path, where: str) -> list[Any]:
    """What stands for each class in a zip of torch's, for ``torch.serialization.safe_globals``.

    Raises:
        UserError: an object of another class.
    """
    names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    for name in names:
        if not name.startswith(HARMLESS):
            raise UserError(
                f"{where}: holds an object of the class {name[:80]}, which could run code; save "
                "the tensors alone, or give safetensors"
            )
    return [(_stand_in(name), name) for name in names]


class _Shell:
    """In the place of an object of a class that is not imported; forgets what it is given."""

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _stand_in(name: str) -> Any:
    """What is called in the place of a global of a pickle."""
    return _plain_dict if name == "collections.defaultdict" else type("Shell", (_Shell,), {})


def _plain_dict(*args: Any) -> dict[Any, Any]:
    return {}
