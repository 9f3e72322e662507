"""Image files in, results and their labelled figure out."""

from __future__ import annotations

import hashlib
import io
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unclip.cli.outputs import Outputs, unique, writing
from unclip.common.errors import UserError

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from torch import Tensor

    from unclip.common.png_record import Record


def read(path: Path) -> Array:
    """The upright RGB image ``uint8 [H, W, 3]`` of a file; of an animation the first frame."""
    from unclip.data.decode import decode_image

    return decode_image(_bytes(path), where=str(path))


def read_mask(path: Path) -> Array:
    """What of an image is kept, ``bool [H, W]``: its opaque part, or the white of an opaque mask.

    A mask of the values 0 and 1 counts as black and white.
    """
    import numpy as np
    from PIL import Image

    from unclip.data.decode import decode_image

    data = _bytes(path)
    grey = decode_image(data, where=str(path)).max(axis=2)
    with Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith("I"):  # 16 bits, of which `decode_image` keeps the upper 8
            deep = np.asarray(image)
            return deep > (32767 if deep.max() > 1 else 0)
        if image.has_transparency_data:
            alpha = image.convert("RGBA").getchannel("A")
            if alpha.getextrema() != (255, 255):
                return np.asarray(alpha) > 127
    return np.asarray(grey > (127 if grey.max() > 1 else 0))


def _bytes(path: Path) -> bytes:
    from unclip.data import files
    from unclip.data.remote import Unreadable

    try:
        return files.read(str(path))
    except Unreadable as problem:
        raise UserError(f"{path}: {problem.reason}") from None


def sha256s(paths: Sequence[Path]) -> list[str]:
    """The hash of each file, by which a record names the images that a command started from."""
    return [hashlib.sha256(_bytes(path)).hexdigest() for path in paths]


def names(paths: Sequence[Path]) -> list[str]:
    """A name for the results of each image: its own, numbered where two have the same."""
    return unique([slug(path.stem) for path in paths])


def slug(text: str) -> str:
    """A file name that says ``text``: letters of any script, digits and dashes, at most 60."""
    words = re.sub(r"[\W_]+", "-", unicodedata.normalize("NFC", text).lower())
    return words.strip("-")[:60].strip("-") or "image"


def write(
    out: Outputs,
    figure: str,
    originals: Sequence[Sequence[Array]],
    images: Tensor,
    *,
    files: Sequence[Sequence[str]],
    records: Sequence[Sequence[Record]],
    rows: Sequence[str],
    columns: Sequence[str],
    last: bool = False,
) -> Path:
    """Write ``images`` ``[R, C, 3, S, S]`` as ``files`` and a figure with the originals beside.

    Args:
        out: Where, with ``files`` and ``figure`` among its names.
        figure: Name of the figure's file.
        originals: Of each row, shown before its images; cut to their middle square.
        images: In [-1, 1].
        files: Name of each image.
        records: What the file of each says of it.
        rows: Heading of each row.
        columns: Heading of each column, the originals' too.
        last: Show the last original of each row after the images.

    Raises:
        UserError: the folder cannot be written to.
    """
    from random import Random

    from unclip.common.images import save, table, to_uint8
    from unclip.data.transforms import Square

    crop = Square(sizes=(images.shape[-1],))
    cells = []
    with writing(out.folder):
        for given, drawn, own, said in zip(originals, to_uint8(images), files, records):
            for image, name, record in zip(drawn, own, said, strict=True):
                save(image, out.path(name), record)
            before = [crop(each, Random())[0] for each in given]
            after = [before.pop()] if last else []
            cells.append([*before, *drawn, *after])
        return save(table(cells, rows=rows, columns=columns), out.path(figure))
