"""Reads images of scenes without learning: which shape, of which colour and size, lies where.

Made for generated images of ``unclip.data.scenes``: soft edges, noise and wrong tints are
tolerated, whatever is not a clear shape is not reported. Printed words are not read. Two touching
objects are told apart by their colours; two of the same colour are read as one thing, or nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from itertools import combinations, permutations
from math import hypot

import numpy as np

from unclip.data.scenes.render import BACKGROUNDS, Array, Scene, place, relation
from unclip.evaluation.oracle.vision import (
    Detection,
    border,
    by_colour,
    lab_of,
    name_of,
    recognise,
    reduced,
    regions,
)

THRESHOLD = 0.65
"""Confidence under which a thing is not reported, as measured on images of 64 pixels.

Drawn shapes read at 0.9 or more. Blurred by a Gaussian of 1 pixel, with noise of 5 levels, they
read at 0.67 or more; at 1.5 pixels nearly all still pass, and what is taken for another shape stays
under 0.65. From 4 pixels on, where shapes are lost, few blobs pass, at 0.75 at the most.
"""

_CONTRAST = 16.0  # CIELAB distance from the background at which a pixel belongs to something
_SURE = 0.85  # confidence from which a region is not tried as several objects that touch


@dataclass(frozen=True)
class Verdict:
    """In which respects an image shows a scene.

    Seen objects are paired with the scene's so that most agrees; each field holds if it does for
    every object of the scene. ``colour`` and ``shape`` together therefore also mean that each
    colour is on its own shape. ``position`` compares ninths of the image (`place`).
    """

    colour: bool
    shape: bool
    size: bool
    position: bool
    relation: bool
    count: bool
    background: bool

    def shows(self, what: Iterable[str]) -> bool:
        """Whether all the named respects hold."""
        return all(getattr(self, name) for name in what)


def check(image: Array, scene: Scene) -> Verdict:
    """In which respects ``image`` (``uint8 [S, S, 3]``) shows ``scene``, which has no word."""
    return judge(read(image), scene, background=read_background(image))


def matches(
    detections: Sequence[Detection], scene: Scene, what: Iterable[str] = ("colour", "shape")
) -> bool:
    """Whether what was read agrees with ``scene`` in the named respects of `Verdict`."""
    return judge(detections, scene).shows(what)


def objects_right(detections: Sequence[Detection], scene: Scene) -> int:
    """How many of the scene's objects were read, each in its colour and shape."""
    seen = Counter((d.colour, d.shape) for d in detections)
    return (seen & Counter((item.colour, item.shape) for item in scene.items)).total()


def judge(
    detections: Sequence[Detection], scene: Scene, *, background: str | None = None
) -> Verdict:
    """As `check`, from what was read; ``background`` is taken for right if not given."""
    if scene.word is not None:
        raise ValueError("the oracle does not read printed words")
    count = len(detections) == len(scene.items)
    backdrop = background in (None, scene.background)
    pairings = (
        _agreement(seen, scene, count, backdrop)
        for seen in permutations(detections, len(scene.items))
    )
    nothing = Verdict(False, False, False, False, False, count, backdrop)
    # Things are told by colour and shape first: two that have changed places are still themselves.
    return max(pairings, key=lambda v: (v.colour + v.shape, sum(astuple(v))), default=nothing)


def _agreement(seen: Sequence[Detection], scene: Scene, count: bool, background: bool) -> Verdict:
    def same(name: str) -> bool:
        return all(getattr(d, name) == getattr(item, name) for d, item in zip(seen, scene.items))

    lies = relation(seen[1].x - seen[0].x, seen[1].y - seen[0].y) if len(seen) == 2 else None
    return Verdict(
        colour=same("colour"),
        shape=same("shape"),
        size=same("size"),
        position=all(place(d.x, d.y) == place(i.x, i.y) for d, i in zip(seen, scene.items)),
        relation=lies == scene.relation,
        count=count,
        background=background,
    )


def read_background(image: Array) -> str:
    """The name of the background's colour."""
    return name_of(border(lab_of(reduced(image))), BACKGROUNDS)


def read(image: Array, threshold: float = THRESHOLD) -> list[Detection]:
    """The objects in ``image`` (``uint8 [S, S, 3]``) of at least ``threshold`` confidence."""
    rgb = reduced(image)
    lab = lab_of(rgb)
    background = border(lab)
    foreground = np.linalg.norm(lab - background, axis=-1) > _CONTRAST
    if border(foreground) > 0:  # the border has no colour of its own: not a scene
        return []
    found: list[Detection] = []
    for region in regions(foreground):
        whole = recognise(rgb, region, foreground)
        if whole.confidence > _SURE:
            found.append(whole)
            continue
        parts = (recognise(rgb, part, foreground) for part in by_colour(lab, region, background))
        fitter = [part for part in parts if part.confidence > max(threshold, whole.confidence)]
        found += fitter if len(fitter) > 1 and _side_by_side(fitter) else [whole]
    # A thing of the background's own colour is a stain: no scene has one.
    stain = name_of(background)
    return [seen for seen in found if seen.confidence >= threshold and seen.colour != stain]


def _side_by_side(parts: Sequence[Detection]) -> bool:
    """Whether no part lies round another, as the soft rim of a blurred object does."""
    return all(hypot(a.x - b.x, a.y - b.y) > 0.1 for a, b in combinations(parts, 2))
