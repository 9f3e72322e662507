"""Work without autograd's bookkeeping, whose results are ordinary tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def inference(work: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """``work`` in torch's inference mode; it returns a tensor, or a NamedTuple of some.

    Tensors made in that mode can be neither changed in place nor trained on outside of it, so the
    caller gets copies that can.
    """

    @wraps(work)
    def inferring(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if torch.is_inference_mode_enabled():
            return work(*args, **kwargs)
        with torch.inference_mode():
            found = work(*args, **kwargs)
        return cast(Result, _ordinary(found))

    return inferring


def _ordinary(found: Any) -> Any:
    if isinstance(found, Tensor):
        return found.clone() if found.is_inference() else found
    if isinstance(found, tuple):
        return type(found)(*map(_ordinary, found))  # a NamedTuple
    return found
