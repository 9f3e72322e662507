"""Sheets of a source's images: some of all, and those that one should look at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from unclip.common.images import grid
from unclip.data.inspect.report import Suspects
from unclip.data.inspect.scan_samples import Kind
from unclip.data.readers.source import Source

SIDE = 128  # pixels of a tile
TILES = 40  # of the contact sheet
COLUMNS = 8
GROUPS = 8  # of each kind of suspect


class _Tile(NamedTuple):
    image: np.ndarray
    caption: str


def contact_sheet(source: Source, readable: np.ndarray) -> Image.Image | None:
    """Up to 40 of the samples ``readable``, evenly spread, with a caption; None if there is none.

    Images are whole, on white where they are not square.
    """
    tiles = []
    for index in readable[evenly_spaced(len(readable), TILES)]:
        sample = source[int(index)]
        tiles.append(_Tile(_whole(sample.image), sample.captions[0]))
    return _sheet(tiles)


def suspects_sheet(
    source: Source, found: Suspects, problems: dict[str, Kind]
) -> Image.Image | None:
    """Unreadable, near-blank and repeated samples, a few of each; None if there is none."""
    tiles = [
        _Tile(np.full((8, 8, 3), 192, dtype=np.uint8), f"{kind}: {key}")
        for kind, those in problems.items()
        for key in those.keys
    ]
    tiles += (_tile(source, index, "blank") for index in found.blank[:GROUPS])
    for group in found.groups[:GROUPS]:
        tiles += _alike(source, group[:COLUMNS], "same as")
    for pair in () if found.near is None else found.near[:GROUPS]:
        tiles += _alike(source, pair, "nearly")
    return _sheet(tiles)


def evenly_spaced(length: int, most: int) -> np.ndarray:
    """Up to ``most`` different positions in [0, length), from first to last."""
    return np.linspace(0, length - 1, min(length, most)).round().astype(np.int64)


def _alike(source: Source, indices: np.ndarray, how: str) -> Iterator[_Tile]:
    first = source.key(int(indices[0]))
    yield _tile(source, indices[0], f"{len(indices)} alike")
    for index in indices[1:]:
        yield _tile(source, index, f"{how} {first}")


def _tile(source: Source, index: np.int64, what: str) -> _Tile:
    sample = source[int(index)]
    return _Tile(_whole(sample.image), f"{what}: {sample.key}")


def _whole(image: np.ndarray) -> np.ndarray:
    """The image on a white square of up to `SIDE` pixels."""
    side = min(SIDE, max(image.shape[:2]))
    return np.asarray(ImageOps.pad(Image.fromarray(image), (side, side), color="white"))


def _sheet(tiles: list[_Tile]) -> Image.Image | None:
    if not tiles:
        return None
    images, captions = zip(*tiles)
    return grid(images, captions, columns=COLUMNS, side=SIDE)
