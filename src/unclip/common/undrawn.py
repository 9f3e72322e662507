"""Networks whose weights are read, not drawn: a billion random numbers take half a minute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_DRAWS = {torch.Tensor.normal_, torch.Tensor.uniform_}


class Undrawn(TorchFunctionMode):
    """Parameters made in it keep what is in memory where `torch.nn.init` would fill them."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """``func``, or the tensor as it is where ``func`` would fill it."""
        given = kwargs or {}
        if func in _DRAWS or getattr(func, "__module__", "") == torch.nn.init.__name__:
            return args[0] if args else given["tensor"]
        return func(*args, **given)
