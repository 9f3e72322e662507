"""The oracle's eyes: colours in CIELAB, connected regions, and the shape that fits a region best.

Images are ``uint8 [S, S, 3]`` RGB, masks ``bool [S, S]``, coverages ``float [S, S]`` in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from unclip.data.config import SHAPES
from unclip.data.scenes.render import BACKGROUNDS, COLOURS, RADII, Array, patch

PALETTE = {**BACKGROUNDS, **COLOURS}  # a grey thing is called grey, though no object should be

_SIDE = 128  # larger images are reduced to about this: nothing finer matters here
_SMALLEST, _LARGEST = 0.008, 0.3  # area of an object, as a share of the image's
_ANGLES = (-0.12, -0.06, 0.0, 0.06, 0.12)  # radians, the range of rotations of scenes


class Detection(NamedTuple):
    """One object seen in an image.

    Attributes:
        colour: The nearest name of the scenes' palette (also of backgrounds: a grey object).
        shape: The best fitting shape's name.
        size: ``small`` or ``large``.
        x: Centre, fraction of the side from the left.
        y: Centre, fraction of the side from the top.
        confidence: In [0, 1], how well the shape fits: the intersection over union of the soft
            masks of the object and of the shape.
    """

    colour: str
    shape: str
    size: str
    x: float
    y: float
    confidence: float


def reduced(image: Array) -> Array:
    """The image at no more than twice the side that matters."""
    if image.ndim != 3 or image.shape[2] != 3 or image.shape[0] != image.shape[1]:
        raise ValueError(f"a square image [S, S, 3] is needed, not {list(image.shape)}")
    factor = image.shape[0] // _SIDE
    return np.asarray(Image.fromarray(image).reduce(factor)) if factor > 1 else image


def border(values: Array) -> Array:
    """The median colour of the outermost pixels."""
    edges = (values[0], values[-1], values[1:-1, 0], values[1:-1, -1])
    return np.median(np.concatenate(edges), axis=0)


# sRGB (IEC 61966-2-1) to CIELAB under D65 (CIE 15).
_RGB_TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)
_LEVELS = np.arange(256) / 255
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)


def lab_of(rgb: Array) -> Array:
    """CIELAB of ``uint8 [..., 3]`` sRGB."""
    xyz = _LINEAR[rgb] @ (_RGB_TO_XYZ / _RGB_TO_XYZ.sum(1, keepdims=True)).T
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), -1)


@lru_cache
def _palette(names: tuple[str, ...]) -> Array:
    return lab_of(np.array([PALETTE[name] for name in names], np.uint8))


def name_of(lab: Array, names: Iterable[str] = PALETTE) -> str:
    """The one of ``names`` whose colour is nearest to ``lab`` ``[3]``."""
    names = tuple(names)
    return names[int(np.linalg.norm(_palette(names) - lab, axis=1).argmin())]


def regions(mask: Array) -> list[Array]:
    """The 4-connected parts of ``mask`` that have an object's area, largest first, as masks."""
    none = mask.size
    label = np.full((mask.shape[0] + 2, mask.shape[1] + 2), none)
    inside = label[1:-1, 1:-1]
    inside[mask] = np.flatnonzero(mask)
    while True:  # each pixel takes its neighbourhood's least label, then that label's own label
        around = (label[:-2, 1:-1], label[2:, 1:-1], label[1:-1, :-2], label[1:-1, 2:])
        least = np.minimum.reduce((inside, *around))
        least = np.append(least, none)[least]
        if np.array_equal(least[mask], inside[mask]):
            break
        inside[mask] = least[mask]
    areas = np.bincount(inside[mask], minlength=1)
    kept = np.flatnonzero((areas > _SMALLEST * none) & (areas < _LARGEST * none))
    return [inside == k for k in kept[np.argsort(-areas[kept], kind="stable")]]


def by_colour(lab: Array, region: Array, background: Array) -> list[Array]:
    """The parts of ``region`` of one colour each; soft edges go to the nearest part."""
    names = np.linalg.norm(lab[..., None, :] - _palette(tuple(COLOURS)), axis=-1).argmin(-1)
    names[~region] = -1
    flat = names == np.roll(names, 1, 0)  # the inside of a colour, where no edge blends into it
    for shift, axis in ((-1, 0), (1, 1), (-1, 1)):
        flat &= names == np.roll(names, shift, axis)
    areas = np.bincount(names[flat & region], minlength=len(COLOURS))
    main = np.flatnonzero(areas > 0.1 * max(1, areas.sum()))
    centres = [np.median(lab[flat & (names == k)], axis=0) for k in main]
    nearest = np.linalg.norm(lab[..., None, :] - np.array([background, *centres]), axis=-1)
    owner = nearest.argmin(-1)
    return [part for k in range(len(main)) for part in regions(region & (owner == k + 1))]


def recognise(rgb: Array, region: Array, foreground: Array) -> Detection:
    """The palette's colour and the shape that fit ``region`` best."""
    size = region.shape[0]
    soft, colour = _coverage(rgb, region, foreground)
    area = soft.sum()
    centre = (np.arange(size) + 0.5) / size
    x, y = soft.sum(0) @ centre / area, soft.sum(1) @ centre / area
    fits = []
    for shape in SHAPES:
        for angle in _ANGLES:
            # The shape placed so that its area and its centroid are those of the object.
            unit = _moments(shape, angle)
            radius = float(np.sqrt(area / unit.area)) / size
            where = {"x": float(x - radius * unit.x), "y": float(y - radius * unit.y)}
            drawn = patch(shape, radius=radius, angle=angle, size=size, **where)
            both = np.minimum(soft[drawn.rows, drawn.columns], drawn.coverage).sum()
            iou = both / (area + drawn.coverage.sum() - both)
            fits.append(_Fit(float(iou), shape, radius, **where))
    best = max(fits)
    big = best.radius**2 > RADII["small"] * RADII["large"]
    return Detection(
        colour=colour,
        shape=best.shape,
        size="large" if big else "small",
        x=best.x,
        y=best.y,
        confidence=best.iou,
    )


class _Fit(NamedTuple):
    iou: float
    shape: str
    radius: float
    x: float
    y: float


class _Coverage(NamedTuple):
    soft: Array  # [S, S] in [0, 1]
    colour: str


def _coverage(rgb: Array, region: Array, foreground: Array) -> _Coverage:
    """How much of each pixel the object covers, from its colour between background and object."""
    values = rgb.astype(np.float64)
    background = border(values)
    contrast = np.linalg.norm(values - background, axis=-1)
    strong = region & (contrast >= 0.9 * np.percentile(contrast[region], 95))  # not its soft edge
    colour = np.median(values[strong], axis=0)
    way = colour - background
    soft = np.clip((values - background) @ way / max(1.0, way @ way), 0, 1)
    # The faint rim outside the region counts too, where nothing else lies: it is wide if blurred.
    near = region
    for _ in range(region.shape[0] // 16):
        near = np.pad(near, 1)
        near = (
            near[:-2, 1:-1] | near[2:, 1:-1] | near[1:-1, :-2] | near[1:-1, 2:] | near[1:-1, 1:-1]
        )
    soft[~(region | (near & ~foreground))] = 0
    name = name_of(lab_of(colour.round().astype(np.uint8)))
    return _Coverage(soft, name)


class _Moments(NamedTuple):
    area: float
    x: float
    y: float


@lru_cache
def _moments(shape: str, angle: float) -> _Moments:
    """Area and centroid of a shape of radius 1 at the origin."""
    size, radius = 256, 0.4
    drawn = patch(shape, x=0.5, y=0.5, radius=radius, angle=angle, size=size)
    mask = np.zeros((size, size))
    mask[drawn.rows, drawn.columns] = drawn.coverage
    unit = ((np.arange(size) + 0.5) / size - 0.5) / radius
    area = mask.sum()
    x, y = mask.sum(0) @ unit / area, mask.sum(1) @ unit / area
    return _Moments(area / (size * radius) ** 2, float(x), float(y))
