"""Pictures for people: uint8 conversion and captioned grids."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

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

    Small pictures are enlarged without smoothing, so that every pixel can be seen.
    """
    if len(images) != len(captions):
        raise ValueError(f"{len(images)} images, {len(captions)} captions")
    columns = max(1, min(columns, len(images)))
    points = max(10, side // 12)
    font = ImageFont.load_default(size=points)
    per_line = max(8, int(side / (points * 0.52)))
    lines = [textwrap.wrap(c, per_line)[:4] for c in captions]
    line_height = int(points * 1.25)
    text = line_height * max((len(each) for each in lines), default=0) + 6
    pad = 6
    rows = -(-len(images) // columns)
    width, height = columns * (side + pad) + pad, rows * (side + text + pad) + pad
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (image, caption) in enumerate(zip(images, lines)):
        x = pad + (index % columns) * (side + pad)
        y = pad + (index // columns) * (side + text + pad)
        small = max(image.shape[:2]) <= side
        how = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
        sheet.paste(Image.fromarray(image).resize((side, side), how), (x, y))
        for number, line in enumerate(caption):
            draw.text((x, y + side + 2 + number * line_height), line, fill="black", font=font)
    return sheet


def save(image: Image.Image | Array, path: Path) -> Path:
    """Write a PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(path)
    return path
