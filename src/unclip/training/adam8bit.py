"""AdamW with moments of 8 bits, by the optional library bitsandbytes (arXiv 2110.02861)."""

from __future__ import annotations

import logging
from typing import Any

import torch

from unclip.common.errors import UserError


def build(groups: list[dict[str, Any]], **settings: Any) -> torch.optim.Optimizer:
    """`bitsandbytes.optim.AdamW8bit`; tensors of less than 4096 numbers keep float32 moments.

    Raises:
        UserError: the library is not installed, or does not work here.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it tells of kernels that are not needed
    try:
        from bitsandbytes.optim import AdamW8bit  # slow
    except ImportError:
        raise UserError(
            "optim.name=adamw8bit: needs bitsandbytes, which is not installed: "
            "pip install 'unclip[bnb]', or use optim.name=adamw"
        ) from None
    finally:
        logging.disable(disabled)

    class Restored(AdamW8bit):  # type: ignore[misc]
        """Reads what a checkpoint holds, where counts are tensors too."""

        def load_state_dict(self, state_dict: Any, move_to_device: bool = True) -> None:
            for state in state_dict["state"].values():
                state["step"] = int(state["step"])
            super().load_state_dict(state_dict, move_to_device)

    Restored.__name__ = AdamW8bit.__name__
    found: torch.optim.Optimizer = Restored(groups, **settings)
    return found
