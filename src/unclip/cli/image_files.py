"""Image files in, results and their labelled figure out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unclip.common.errors import UserError

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from PIL import Image
    from torch import Tensor


def read(path: Path) -> Array:
    """The upright RGB image ``uint8 [H, W, 3]`` of a file; of an animation the first frame."""
    from unclip.data import files
    from unclip.data.decode import decode_image
    from unclip.data.remote import Unreadable

    try:
        data = files.read(str(path))
    except Unreadable as problem:
        raise UserError(f"{path}: {problem.reason}") from None
    return decode_image(data, where=str(path))


def names(paths: Sequence[Path]) -> list[str]:
    """A name for the results of each image: its own, numbered where two have the same."""
    found: list[str] = []
    for path in paths:
        name = slug(path.stem)
        found.append(name if name not in found else f"{name}-{len(found) + 1}")
    return found


def slug(text: str) -> str:
    """A file name that says ``text``: letters, digits and dashes, at most 60."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "image"


def write(
    folder: Path,
    figure: str,
    originals: Sequence[Sequence[Array]],
    images: Tensor,
    *,
    files: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    last: bool = False,
) -> Path:
    """Write ``images`` ``[R, C, 3, S, S]`` as ``files`` and a figure with the originals beside.

    Args:
        folder: Is made.
        figure: Name of the figure.
        originals: Of each row, shown before its images; cut to their middle square.
        images: In [-1, 1].
        files: Name of each image, without its suffix.
        rows: Heading of each row.
        columns: Heading of each column, the originals' too.
        last: Show the last original of each row after the images.

    Raises:
        UserError: the folder cannot be written to.
    """
    from random import Random

    from PIL import Image

    from unclip.common.images import table, to_uint8
    from unclip.data.transforms import Square

    cut = Square(sizes=(images.shape[-1],))
    cells = []
    try:
        for given, drawn, stems in zip(originals, to_uint8(images), files):
            for image, stem in zip(drawn, stems):
                _save(Image.fromarray(image), folder / f"{stem}.png")
            before = [cut(each, Random())[0] for each in given]
            after = [before.pop()] if last else []
            cells.append([*before, *drawn, *after])
        return _save(table(cells, rows=rows, columns=columns), folder / figure)
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror or error}") from None


def _save(image: Image.Image, path: Path) -> Path:
    from unclip.common.atomic import atomic_write

    with atomic_write(path) as scratch:
        image.save(scratch, "png")
    return path
