"""Grids of images, and images that no attentive rater prefers."""

from __future__ import annotations

import numpy as np
from PIL import Image

from unclip.common.errors import UserError

GAP = 1 / 32  # of an image's side, between the images of a grid
CELL = 256  # pixels a side at most in a grid
BACKGROUND = 255


def mosaic(images: list[np.ndarray]) -> np.ndarray:
    """Square images uint8 [S, S, 3] as a grid of as many rows as columns; a single one as it is."""
    if len(images) == 1:
        return images[0]
    columns = round(len(images) ** 0.5)
    cells = [_at_most(image, CELL) for image in images]
    side = len(cells[0])
    if any(len(cell) != side for cell in cells):
        raise UserError("images of one caption differ in size; --size brings them to one")
    step = side + max(1, round(side * GAP))
    whole = columns * step - (step - side)
    found = np.full((whole, whole, 3), BACKGROUND, np.uint8)
    for number, cell in enumerate(cells):
        y, x = (step * place for place in divmod(number, columns))
        found[y : y + side, x : x + side] = cell
    return found


def ruined(image: np.ndarray, seed: int) -> np.ndarray:
    """``image`` [S, S, 3] with its tiles shuffled, under noise."""
    rng = np.random.default_rng(seed)
    side = len(image)
    tiles = min(8, side)
    order = rng.permutation(tiles**2)
    edges = [side * k // tiles for k in range(tiles)]
    tile = side // tiles
    found = np.zeros((tiles * tile, tiles * tile, 3), np.float64)
    for target, source in enumerate(order):
        (y, x), (v, u) = divmod(target, tiles), divmod(int(source), tiles)
        found[y * tile : (y + 1) * tile, x * tile : (x + 1) * tile] = image[
            edges[v] : edges[v] + tile, edges[u] : edges[u] + tile
        ]
    found += rng.normal(0, 64, found.shape)
    pixels = found.clip(0, 255).round().astype(np.uint8)
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST))


def _at_most(image: np.ndarray, side: int) -> np.ndarray:
    if len(image) <= side:
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))
