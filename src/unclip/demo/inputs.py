"""What a visitor may send: bounds on numbers and captions, images decoded within limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unclip.common.blank import is_blank
from unclip.common.errors import UserError
from unclip.common.seeds import MAX_SEED, seeds_from
from unclip.data.decode import Limits, decode_image, upright_rgb

Array = np.ndarray

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 50_000_000  # a phone's largest, 150 MB unpacked
MAX_CAPTION = 500  # characters


class UploadLimits(Limits):
    """In words for somebody who has no configuration file."""

    def problem(self, width: int, height: int) -> str | None:
        """What is wrong with an image of this size, in pixels."""
        if super().problem(width, height) is None:
            return None
        return (
            f"{width}x{height} pixels; at most {self.max_pixels // 10**6} million, and "
            f"{self.max_aspect:g} times as long as wide, can be used"
        )


def image(path: str | None, name: str = "image") -> Array:
    """The uploaded file as ``uint8 [H, W, 3]``, upright; of an animation the first frame.

    Raises:
        UserError: there is none, or it cannot be used.
    """
    if not path:
        raise UserError(f"{name}: upload one first")
    data = Path(path).read_bytes()
    if len(data) > MAX_BYTES:
        raise UserError(f"{name}: has {len(data)} bytes; at most {MAX_BYTES} can be used")
    return decode_image(data, where=name, limits=UploadLimits(max_pixels=MAX_PIXELS))


def painted(editor: dict[str, Any] | None) -> tuple[Array, Array]:
    """An image ``uint8 [H, W, 3]`` and its mask ``bool [H, W]``, True = not painted over.

    Args:
        editor: What `gradio.ImageEditor` gives: Pillow's "background" and "layers", of one size.
    """
    if not editor or editor["background"] is None:
        raise UserError(
            "image: none was read; upload a PNG or JPEG, then paint over what is to be redrawn"
        )
    background = editor["background"]
    problem = UploadLimits(max_pixels=MAX_PIXELS).problem(*background.size)
    if problem is not None:
        raise UserError(f"image: {problem}")
    keep = np.ones(background.size[::-1], bool)
    for layer in editor["layers"] or []:
        keep &= _bare(layer, background.size)
    if keep.all():
        raise UserError("mask: paint over the part that is to be redrawn")
    return upright_rgb(background), keep


def _bare(layer: Image.Image, size: tuple[int, int]) -> Array:
    """Where nothing is painted on a layer."""
    if layer.size != size:
        raise UserError(
            f"mask: is {layer.width}x{layer.height} pixels, its image {size[0]}x{size[1]}"
        )
    return np.array(layer.convert("RGBA").getchannel("A")) == 0


def caption(text: str | None, name: str = "caption") -> str:
    """``text`` without the spaces around it, neither empty nor endless."""
    text = (text or "").strip()
    if is_blank(text):
        raise UserError(f"{name}: write one first, such as a red circle on a white background")
    if len(text) > MAX_CAPTION:
        raise UserError(f"{name}: has {len(text)} characters; at most {MAX_CAPTION} can be used")
    return text


def number(value: float | None, name: str, low: float, high: float) -> float:
    """``value`` if it is in [low, high]."""
    if value is None or not low <= value <= high:
        raise UserError(f"{name}: give a number from {low:g} to {high:g}")
    return value


def whole(value: float | None, name: str, low: int, high: int) -> int:
    """``value`` if it is a whole number in [low, high]."""
    found = number(value, name, low, high)
    if found != int(found):
        raise UserError(f"{name}: give a whole number")
    return int(found)


def seeds(first: float | None, count: int) -> list[int]:
    """``count`` of them from ``first`` on."""
    return seeds_from(whole(first, "seed", 0, MAX_SEED), count, "seed")
