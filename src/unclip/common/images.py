"""Images for people: uint8 conversion and captioned grids."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unclip.common.atomic import atomic_write
from unclip.common.fonts import drawable, font_for
from unclip.common.png_record import Record, chunks

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray


def to_uint8(image: Tensor) -> Array:
    """Images ``[..., 3, H, W]`` in [-1, 1] as uint8 arrays ``[..., H, W, 3]``, rounded."""
    scaled = (image.detach().float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to("cpu").byte().movedim(-3, -1).contiguous().numpy()


def grid(
    images: Sequence[Array],
    captions: Sequence[str],
    *,
    columns: int = 8,
    side: int = 128,
) -> Image.Image:
    """A sheet of ``images`` (uint8, [H, W, 3]) with a caption under each, ``columns`` a row.

    Small images are enlarged without smoothing, so that every pixel can be seen.
    """
    if len(images) != len(captions):
        raise ValueError(f"{len(images)} images, {len(captions)} captions")
    columns = max(1, min(columns, len(images)))
    pen = _Pen(side)
    lines = [pen.wrapped(c) for c in captions]
    text = pen.height(lines)
    rows = -(-len(images) // columns)
    width, height = columns * (side + _PAD) + _PAD, rows * (side + text + _PAD) + _PAD
    sheet = Image.new("RGB", (width, height), "white")
    for index, (image, caption) in enumerate(zip(images, lines)):
        x = _PAD + (index % columns) * (side + _PAD)
        y = _PAD + (index // columns) * (side + text + _PAD)
        sheet.paste(_sized(image, side), (x, y))
        pen.write(sheet, caption, x, y + side + 2)
    return sheet


def table(
    images: Sequence[Sequence[Array]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    side: int = 128,
) -> Image.Image:
    """A sheet of rows of ``images`` (uint8, [H, W, 3]) with a heading at each row and column."""
    if len(images) != len(rows) or any(len(row) != len(columns) for row in images):
        raise ValueError(f"{len(rows)} x {len(columns)} headings do not fit the images")
    pen = _Pen(side)
    above, beside = [pen.wrapped(c) for c in columns], [pen.wrapped(r, lines=8) for r in rows]
    top = pen.height(above) + _PAD
    left = pen.width(beside) + 2 * _PAD
    step = side + _PAD
    sheet = Image.new("RGB", (left + step * len(columns), top + step * len(rows)), "white")
    for number, heading in enumerate(above):
        pen.write(sheet, heading, left + number * step, 4)
    for down, (heading, row) in enumerate(zip(beside, images)):
        pen.write(sheet, heading, _PAD, top + down * step)
        for across, image in enumerate(row):
            sheet.paste(_sized(image, side), (left + across * step, top + down * step))
    return sheet


_PAD = 6


class _Wrapped(NamedTuple):
    """A text in lines, and the font that has its letters."""

    lines: list[str]
    font: ImageFont.FreeTypeFont


class _Pen:
    """Text that fits beside or under images of ``side`` pixels."""

    def __init__(self, side: int):
        self._side = side
        self._points = max(10, side // 12)
        self._line = int(self._points * 1.25)

    def wrapped(self, text: str, lines: int = 4) -> _Wrapped:
        text = drawable(" ".join(text.split()))
        font = font_for(text, self._points)
        letter = max(0.52 * self._points, font.getlength(text) / max(1, len(text)))
        width = max(8, int(self._side / letter))
        return _Wrapped(textwrap.wrap(text, width, max_lines=lines, placeholder=" ..."), font)

    def height(self, texts: Sequence[_Wrapped]) -> int:
        return self._line * max((len(text.lines) for text in texts), default=0) + 6

    def width(self, texts: Sequence[_Wrapped]) -> int:
        return max((int(t.font.getlength(line)) for t in texts for line in t.lines), default=0)

    def write(self, sheet: Image.Image, text: _Wrapped, x: int, y: int) -> None:
        draw = ImageDraw.Draw(sheet)
        for number, line in enumerate(text.lines):
            draw.text((x, y + number * self._line), line, fill="black", font=text.font)


def _sized(image: Array, side: int) -> Image.Image:
    small = max(image.shape[:2]) <= side
    how = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    return Image.fromarray(image).resize((side, side), how)


def save(image: Image.Image | Array, path: Path, record: Record | None = None) -> Path:
    """Write a PNG that says ``record`` of itself, whole or not at all, making its folder."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    with atomic_write(path) as scratch:
        image.save(scratch, "png", pnginfo=chunks(record))
    return path


class CaptionedImage(NamedTuple):
    """A sample to look at."""

    image: Array  # uint8 [H, W, 3]
    caption: str
    seed: int | None = None  # of its draw, where it was drawn
