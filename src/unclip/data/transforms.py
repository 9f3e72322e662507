"""From a decoded image of any shape to the squares a network trains on.

Every random choice comes from the generator that is passed in, never from a global one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unclip.data.decode import BadSample

_SIDED = re.compile(
    r"(left|right)(hand|handed|hander|most|side|sided|wards?)?|(anti|counter)?clockwise|"
    r"words?|letters?|lettering|texts?|written|writing|reads|reading|says|saying|spells|spelling|"
    r"logos?|signs?|numbers?|digits?"
)


def may_mirror(caption: str) -> bool:
    """Whether ``caption`` stays true when its image is mirrored: it names no side and no writing.

    English alone is understood.

    >>> may_mirror("a dog on the left"), may_mirror("a bright dog"), may_mirror("the word LEAF")
    (False, True, False)
    """
    return not any(map(_SIDED.fullmatch, re.findall(r"\w+", caption.lower())))


class Transform(Protocol):
    """``uint8 [H, W, 3]`` to one or more ``uint8 [S, S, 3]``; raises `BadSample` if it cannot."""

    def __call__(
        self, image: np.ndarray, rng: Random, *, mirror: bool = True
    ) -> tuple[np.ndarray, ...]:
        """The squares; without ``mirror`` never mirrored, whatever the settings."""
        ...


@dataclass(frozen=True, kw_only=True)
class Square:
    """The largest square of the image, at each of ``sizes``."""

    sizes: tuple[int, ...]  # pixels a side
    random_crop: bool = False  # where on the longer side the square lies; else in the middle
    flip: bool = False  # mirror half of the images

    def __call__(
        self, image: np.ndarray, rng: Random, *, mirror: bool = True
    ) -> tuple[np.ndarray, ...]:
        """One square per size, all of the same region."""
        height, width = image.shape[:2]
        side = min(height, width)
        at = rng.random() if self.random_crop else 0.5
        top, left = int(at * (height - side + 1)), int(at * (width - side + 1))
        image = image[top : top + side, left : left + side]
        if self.flip and mirror and rng.random() < 0.5:
            image = image[:, ::-1]
        return tuple(_resize(image, (0, 0, side, side), size) for size in self.sizes)


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A random patch of the image at full size: its shorter side brought to ``image_size``.

    An image is never enlarged, because an upsampler would learn to produce the softness that comes
    of it: smaller ones are used as they are, and refused below half the size.
    """

    image_size: int  # pixels of the shorter side before cropping
    side: int  # pixels of the patch
    flip: bool = False  # mirror half of the patches

    def __call__(
        self, image: np.ndarray, rng: Random, *, mirror: bool = True
    ) -> tuple[np.ndarray, ...]:
        """The patch, alone in its tuple; ``mirror`` is moot, as an upsampler reads no caption."""
        height, width = image.shape[:2]
        least = max(self.image_size // 2, self.side)
        if min(height, width) < least:
            raise BadSample(f"{width}x{height} pixels are too few, at least {least} a side needed")
        scale = max(1.0, min(height, width) / self.image_size)
        # The patch lies on the pixel grid of the reduced image, of which only it is computed.
        top, left = (
            int(rng.random() * (int(length / scale) - self.side + 1)) * scale
            for length in (height, width)
        )
        right, bottom = (
            min(start + self.side * scale, length)
            for start, length in ((left, width), (top, height))
        )
        patch = _resize(image, (left, top, right, bottom), self.side)
        return (patch[:, ::-1] if self.flip and rng.random() < 0.5 else patch,)


def _resize(image: np.ndarray, box: tuple[float, float, float, float], size: int) -> np.ndarray:
    """The square ``box`` (left, top, right, bottom) of ``image`` at ``size``, antialiased."""
    left, top, right, bottom = box
    if right - left == size == bottom - top:
        return image[int(top) : int(bottom), int(left) : int(right)]
    whole = Image.fromarray(np.ascontiguousarray(image))
    # Pillow's bicubic filter widens with the reduction, which is what keeps it free of aliasing.
    return np.asarray(whole.resize((size, size), Image.Resampling.BICUBIC, box=box))


def to_tensor(images: Sequence[np.ndarray]) -> Tensor:
    """``uint8 [S, S, 3]`` images as one float tensor ``[B, 3, S, S]`` in [-1, 1]."""
    # In numpy: torch would start threads for this little, which on a busy machine costs far more.
    pixels = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32, order="C")
    pixels /= np.float32(127.5)
    pixels -= 1
    return torch.from_numpy(pixels)
