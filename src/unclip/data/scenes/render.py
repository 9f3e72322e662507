"""What a scene can hold, and its image: shapes as distance functions, drawn anti-aliased.

Geometry is in fractions of the image's side, x to the right and y down, so that a scene is the
same image at every size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import cos, hypot, pi, sin, sqrt
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Array = np.ndarray

# Chosen pairwise far apart in CIELAB, whatever the tint, from each other and from backgrounds.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 36, 40),
    "orange": (248, 134, 28),
    "yellow": (252, 222, 48),
    "green": (38, 160, 66),
    "cyan": (64, 206, 226),
    "blue": (30, 90, 210),
    "purple": (150, 44, 160),
    "pink": (248, 136, 192),
    "brown": (118, 70, 34),
    "black": (20, 20, 20),
    "white": (246, 246, 246),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": COLOURS["white"],
    "black": COLOURS["black"],
    "grey": (130, 130, 130),
    "tan": (222, 190, 130),
}
TINTS = (-6, 0, 6)  # added to all three channels: variety that leaves the colour's name certain
RADII = {"small": 0.15, "large": 0.21}  # half the side of the square a shape lies in


@dataclass(frozen=True, kw_only=True)
class Item:
    """One object of a scene.

    Attributes:
        shape: One of `unclip.data.config.SHAPES`.
        colour: A key of `COLOURS`.
        size: A key of `RADII`.
        x: Centre, fraction of the side from the left.
        y: Centre, fraction of the side from the top.
        radius: Half the side of the square it lies in, fraction of the image's side.
        angle: Rotation in radians, a few degrees at most.
        tint: Added to each colour channel, in levels of 255.
    """

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: float = 0.0
    tint: int = 0


@dataclass(frozen=True, kw_only=True)
class Word:
    """A printed word, centred at (x, y), ``width`` of the image's side long."""

    text: str
    colour: str
    x: float
    y: float
    width: float


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The truth behind an image: one or two items, or a word, on a background."""

    background: str
    items: tuple[Item, ...] = ()
    word: Word | None = None
    tint: int = 0

    @property
    def relation(self) -> str | None:
        """How the first item lies to the second; None unless there are two."""
        if len(self.items) != 2:
            return None
        first, second = self.items
        return relation(second.x - first.x, second.y - first.y)


def relation(dx: float, dy: float) -> str:
    """The relation of a thing to another that is (``dx``, ``dy``) away from it (y down)."""
    if abs(dx) >= abs(dy):
        return "left of" if dx > 0 else "right of"
    return "above" if dy > 0 else "below"


def place(x: float, y: float) -> str:
    """The name of the ninth of the image that holds (x, y), such as ``top left``."""
    across = "left" if x < 0.4 else "right" if x > 0.6 else ""
    down = "top" if y < 0.4 else "bottom" if y > 0.6 else ""
    return f"{down} {across}".strip() or "middle"


# Signed distances (negative inside, exact near the edges) of shapes that lie in [-1, 1]².


def _square(u: Array, v: Array) -> Array:
    return np.maximum(abs(u), abs(v)) - 0.84


def _triangle(u: Array, v: Array) -> Array:
    v = v - 0.21  # equilateral about its centroid, then moved to the middle of the square
    return np.maximum(v, abs(u) * (sqrt(3) / 2) - v / 2) - 0.52


def _cross(u: Array, v: Array) -> Array:
    u, v = abs(u), abs(v)
    return np.minimum(np.maximum(u - 0.94, v - 0.3), np.maximum(u - 0.3, v - 0.94))


def _star(u: Array, v: Array) -> Array:
    # Five-fold symmetry: fold into half a point, whose edge is one straight line.
    outer, inner, half = 1.04, 0.44, pi / 5
    v = v - 0.06
    r = np.hypot(u, v)
    angle = abs((np.arctan2(u, -v) + half) % (2 * half) - half)  # 0 at a tip, `half` at a notch
    ex, ey = inner * cos(half) - outer, inner * sin(half)
    return ((r * np.cos(angle) - outer) * ey - r * np.sin(angle) * ex) / hypot(ex, ey)


def _heart(u: Array, v: Array) -> Array:
    # A square on its corner, and a circle upon the middle of each upper side.
    u, v, r = abs(u), v - 0.08, 0.55  # r: radius of the circles, half the square's side
    tilted = np.maximum(abs(u + v), abs(u - v)) / sqrt(2) - r
    return np.minimum(tilted, np.hypot(u - r / sqrt(2), v + r / sqrt(2)) - r)


_DISTANCES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": lambda u, v: np.hypot(u, v) - 0.94,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
}


class Patch(NamedTuple):
    """The part of an image that one shape touches."""

    rows: slice
    columns: slice
    coverage: Array  # float32 in [0, 1], the share of each pixel that the shape covers


def patch(shape: str, *, x: float, y: float, radius: float, angle: float, size: int) -> Patch:
    """Rasterise a shape in an image of ``size`` pixels a side (arguments as in `Item`)."""
    reach = radius * 1.15 + 1 / size  # a rotated corner and the soft edge
    left, right = _span(x - reach, x + reach, size)
    top, bottom = _span(y - reach, y + reach, size)
    u = ((np.arange(left, right, dtype=np.float32) + 0.5) / size - x) / radius
    v = (((np.arange(top, bottom, dtype=np.float32) + 0.5) / size - y) / radius)[:, None]
    c, s = cos(angle), sin(angle)
    distance = _DISTANCES[shape](c * u + s * v, c * v - s * u)
    coverage = np.clip(0.5 - distance * (radius * size), 0, 1)
    return Patch(slice(top, bottom), slice(left, right), coverage)


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    return max(0, int(low * size)), min(size, int(high * size) + 1)


def draw(scene: Scene, size: int) -> Array:
    """The image of ``scene``, ``uint8 [size, size, 3]`` RGB."""
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = _tinted(BACKGROUNDS[scene.background], scene.tint)
    for item in scene.items:
        rows, columns, coverage = patch(
            item.shape, x=item.x, y=item.y, radius=item.radius, angle=item.angle, size=size
        )
        _paint(canvas[rows, columns], _tinted(COLOURS[item.colour], item.tint), coverage)
    if scene.word is not None:
        _paint(canvas, _tinted(COLOURS[scene.word.colour], 0), _print(scene.word, size))
    return canvas


def _tinted(colour: tuple[int, int, int], tint: int) -> Array:
    return np.array([min(255, max(0, channel + tint)) for channel in colour], np.float32)


def _paint(canvas: Array, colour: Array, coverage: Array) -> None:
    canvas[:] = canvas + coverage[..., None] * (colour - canvas) + 0.5  # rounded to uint8


def _print(word: Word, size: int) -> Array:
    """The coverage ``[size, size]`` of a printed word."""
    factor = max(2, -(-1024 // size))  # drawn large and averaged: small letters would be hinted
    side = factor * size
    mask = Image.new("L", (side, side))
    points = word.width * side / _font(100).getlength(word.text) * 100
    ImageDraw.Draw(mask).text(
        (word.x * side, word.y * side), word.text, fill=255, font=_font(round(points)), anchor="mm"
    )
    return np.asarray(mask.reduce(factor), np.float32) / 255


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # every wheel of Pillow has FreeType
    return font
