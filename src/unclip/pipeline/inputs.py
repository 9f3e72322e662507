"""What a caller gives: images as people have them, lists and numbers of the right type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unclip.common.blank import is_blank
from unclip.common.errors import UserError
from unclip.common.images import to_uint8
from unclip.common.seeds import require_seed
from unclip.data.decode import upright_rgb
from unclip.data.transforms import Square, to_tensor

Array = np.ndarray
Images = Any
"""One image or several: of Pillow, ``uint8 [H, W, 3]`` arrays, ``[3, H, W]`` tensors in [-1, 1].

A sequence may mix kinds and sizes; an array or tensor may have a batch dimension in front.
"""


NAMES = {str: "text", int: "whole number", float: "number"}


def one(key: str, value: Any, kind: type) -> None:
    """Refuse a ``value`` that is not a ``kind`` of `NAMES`; True and False are no numbers.

    Raises:
        UserError: it names ``key``.
    """
    if not _is_a(kind, value):
        raise UserError(f"{key}={value!r}: must be a {NAMES[kind]}")


def listed(key: str, values: Any, kind: type) -> list[Any]:
    """``values`` as a list, each of ``kind``.

    Raises:
        UserError: it names ``key``.
    """
    name = f"{NAMES[kind]}s"
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise UserError(f"{key}: must be a list of {name}, as [{values!r}]")
    found = list(values)
    for value in found:
        if not _is_a(kind, value):
            raise UserError(f"{key}: must be a list of {name}; {value!r} is not one")
    return found


def _is_a(kind: type, value: Any) -> bool:
    wanted = {str: str, int: Integral, float: Real}[kind]
    return isinstance(value, wanted) and not isinstance(value, bool)


def captions_of(captions: Any, key: str = "captions") -> list[str]:
    """``captions`` as a list.

    Raises:
        UserError: one is not text, or shows nothing; it names ``key``.
    """
    found = listed(key, captions, str)
    if any(map(is_blank, found)):
        raise UserError(f"{key}: {'one ' if len(found) > 1 else ''}is empty; give words")
    return found


def caption_of(caption: Any, key: str) -> str:
    """One caption.

    Raises:
        UserError: it is not text, or shows nothing; it names ``key``.
    """
    one(key, caption, str)
    return captions_of([caption], key)[0]


def seeds_of(seeds: Any, key: str = "seeds") -> list[int]:
    """``seeds`` as a list.

    Raises:
        UserError: one is not a whole number, or out of range; it names ``key``.
    """
    found = listed(key, seeds, int)
    for seed in found:
        require_seed(seed, key)
    return found


def arrays(images: Images) -> list[Array]:
    """``images`` as ``uint8 [H, W, 3]``, each of its own size; a single one as a list of one.

    Raises:
        UserError: there is none, or it is not an image.
    """
    batched = isinstance(images, (Tensor, np.ndarray)) and images.ndim == 4
    listed = isinstance(images, Sequence) or batched
    found = [_array(one) for one in (images if listed else [images])]
    if not found:
        raise UserError("no image was given")
    return found


def _array(image: Any) -> Array:
    if isinstance(image, Tensor):
        if image.ndim != 3 or len(image) != 3 or not image.is_floating_point():
            raise UserError(f"tensor {_is(image)}: an image is a float tensor [3, H, W]")
        if not image.abs().max() <= 1.001:  # NaN is not either
            raise UserError("tensor: its values are not in [-1, 1]")
        return to_uint8(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(f"array {_is(image)}: an image is uint8 [H, W, 3]")
        return image
    if isinstance(image, Image.Image):
        return upright_rgb(image)
    raise UserError(
        f"{type(image).__name__}: is not an image; give a Pillow image, an array or a tensor"
    )


def _is(x: Any) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"


def squares(images: Sequence[Array], size: int, device: torch.device | str) -> Tensor:
    """The largest middle square of each at ``size``: ``[B, 3, size, size]`` in [-1, 1].

    As in training (`unclip.data.transforms`), where nothing is random.
    """
    cut = Square(sizes=(size,))
    return to_tensor([cut(image, Random())[0] for image in images]).to(device)
