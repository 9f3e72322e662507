"""Pictures as people have them, to the squares that the networks take."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unclip.common.errors import UserError
from unclip.common.images import to_uint8
from unclip.data.decode import upright_rgb
from unclip.data.transforms import Square, to_tensor

Array = np.ndarray
Pictures = Any
"""One picture or several: of Pillow, ``uint8 [H, W, 3]`` arrays, ``[3, H, W]`` tensors in [-1, 1].

A sequence may mix kinds and sizes; an array or tensor may have a batch dimension in front.
"""


def arrays(pictures: Pictures) -> list[Array]:
    """``pictures`` as ``uint8 [H, W, 3]``, each of its own size; a single one as a list of one.

    Raises:
        UserError: there is none, or it is no picture.
    """
    batched = isinstance(pictures, (Tensor, np.ndarray)) and pictures.ndim == 4
    listed = isinstance(pictures, Sequence) or batched
    found = [_array(one) for one in (pictures if listed else [pictures])]
    if not found:
        raise UserError("no picture was given")
    return found


def _array(picture: Any) -> Array:
    if isinstance(picture, Tensor):
        if picture.ndim != 3 or len(picture) != 3 or not picture.is_floating_point():
            raise UserError(f"tensor {_is(picture)}: a picture is a float tensor [3, H, W]")
        if not picture.abs().max() <= 1.001:  # NaN is not either
            raise UserError("tensor: its values are not in [-1, 1]")
        return to_uint8(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise UserError(f"array {_is(picture)}: a picture is uint8 [H, W, 3]")
        return picture
    if isinstance(picture, Image.Image):
        return upright_rgb(picture)
    raise UserError(f"{type(picture).__name__}: is no picture; give one of Pillow, array or tensor")


def _is(x: Any) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"


def squares(pictures: Sequence[Array], size: int, device: torch.device | str) -> Tensor:
    """The largest middle square of each at ``size``: ``[B, 3, size, size]`` in [-1, 1].

    As in training (`data_modules.transforms`), where nothing is random.
    """
    cut = Square(sizes=(size,))
    return to_tensor([cut(picture, Random())[0] for picture in pictures]).to(device)
