"""The built-in dataset: procedural scenes with captions, a function of (seed, index) alone.

``unclip.data.scenes.render`` says what a scene is and draws it, ``unclip.data.scenes.captions``
describes it; here scenes are drawn at random and served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from random import Random
from typing import NamedTuple

from unclip.common.seeding import derive_seed
from unclip.data.config import EXCHANGED, SHAPES, ScenesConfig
from unclip.data.sample import Sample
from unclip.data.scenes.captions import caption, phrase
from unclip.data.scenes.render import BACKGROUNDS, COLOURS, RADII, TINTS, Item, Scene, Word, draw

__all__ = [
    "WORDS",
    "Item",
    "Prompt",
    "Scene",
    "Scenes",
    "Word",
    "caption",
    "draw",
    "single_object_prompts",
    "two_object_prompts",
]

CAPTIONS = 3  # wordings of each scene
WORDS = (
    *("apple", "bird", "boat", "book", "bus", "cake", "car", "cat", "cup", "dog", "door", "egg"),
    *("fish", "hat", "home", "key", "lamp", "leaf", "moon", "pizza", "rain", "ship", "sun", "tree"),
    *SHAPES,  # for typographic attacks: the name of one shape over another
)
_MARGIN = 0.03
_NEXT = 0.15  # less than from one third to the next, more than the play within one
_GAP = 0.05  # between two items, at least


class Scenes:
    """Scenes ``start`` to ``start + count`` of the endless sequence of ``config.seed``.

    Disjoint ranges are disjoint data: held-out scenes are those after the training scenes. With
    ``config.contrast`` above 1, as many consecutive scenes differ in one fact of ``contrasts`` (or
    are other words): minimal pairs, the hard negatives of contrastive training.

    Args:
        config: Kinds of scenes and the seed (its ``count`` is the caller's to use).
        size: Side of the images, in pixels.
        start: Index of the first scene.
        count: Number of scenes.
    """

    def __init__(self, config: ScenesConfig, *, size: int, start: int = 0, count: int):
        self.config = config
        self.size = size
        self.start = start
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Sample:
        scene, index = self.scene(i), self.start + i
        rng = Random(derive_seed("scene captions", self.config.seed, index))
        captions = [caption(scene, rng, self.config.detail) for _ in range(CAPTIONS)]
        return Sample(self.key(i), draw(scene, self.size), captions)

    def key(self, i: int) -> str:
        """The scene's number as text."""
        return f"scene-{self.start + i:08d}"

    def scene(self, i: int) -> Scene:
        """The truth behind sample ``i``."""
        if not 0 <= i < self.count:
            raise IndexError(f"scene {i} of {self.count}")
        run, member = divmod(self.start + i, self.config.contrast)
        rng = Random(derive_seed("scenes", self.config.seed, run))
        if rng.random() < self.config.words:
            return [_word_scene(rng) for _ in range(member + 1)][-1]
        shapes = self.config.shapes
        if self.config.max_objects == 2 and rng.random() < 0.5:
            scene = _two_objects(rng, shapes)
        else:
            scene = _one_object(rng, rng.choice(list(COLOURS)), rng.choice(shapes))
        return _altered(scene, member, self.config, rng)


class Prompt(NamedTuple):
    """A caption to generate from, and a scene it describes.

    Attributes:
        caption: The text.
        scene: The truth to compare with.
        stated: What the caption says (of `unclip.data.scenes.captions.STATED`): judge only this.
    """

    caption: str
    scene: Scene
    stated: frozenset[str]


def single_object_prompts(n: int, seed: int, shapes: Sequence[str] = SHAPES) -> list[Prompt]:
    """``n`` captions of one object, going round all pairs of colour and shape evenly."""
    rng = Random(derive_seed("single-object prompts", seed))
    pairs = list(product(COLOURS, shapes))
    rng.shuffle(pairs)
    return [_prompt(_one_object(rng, *pairs[i % len(pairs)]), rng) for i in range(n)]


def two_object_prompts(n: int, seed: int, shapes: Sequence[str] = SHAPES) -> list[Prompt]:
    """``n`` captions of two objects, most of them with their relation."""
    rng = Random(derive_seed("two-object prompts", seed))
    return [_prompt(_two_objects(rng, shapes), rng) for _ in range(n)]


def _prompt(scene: Scene, rng: Random) -> Prompt:
    text, stated = phrase(scene, rng)
    return Prompt(text, scene, stated)


def _one_object(rng: Random, colour: str, shape: str) -> Scene:
    size = rng.choice(list(RADII))
    radius = _radius(rng, size)
    x, y = _third(rng), _third(rng)
    item = _item(rng, colour=colour, shape=shape, size=size, radius=radius, x=x, y=y)
    return _on_background(rng, item)


def _altered(scene: Scene, member: int, config: ScenesConfig, rng: Random) -> Scene:
    """The scene with one fact changed, the first member of a run as it is."""
    if not member:
        return scene
    facts = [config.contrasts[k % len(config.contrasts)] for k in range(member)]
    if len({item.colour for item in scene.items}) < 2:
        facts = ["colour" if fact == EXCHANGED else fact for fact in facts]
    fact, nth = facts[-1], facts.count(facts[-1])  # of several of one kind no two are alike
    if fact == "shape":
        return _turned(scene, nth, config.shapes)
    if fact == "place":
        return _moved(scene, rng)
    if fact == "colour":
        return _coloured(scene, nth, rng)
    first, second = scene.items
    exchanged = replace(first, colour=second.colour), replace(second, colour=first.colour)
    return replace(scene, items=exchanged)


def _coloured(scene: Scene, nth: int, rng: Random) -> Scene:
    """The scene with one object in the ``nth`` of the other colours, in an order drawn by rng."""
    changed = rng.randrange(len(scene.items))
    taken = {scene.background, *(item.colour for item in scene.items)}
    others = rng.sample([name for name in COLOURS if name not in taken], nth)
    items = list(scene.items)
    items[changed] = replace(items[changed], colour=others[-1])
    return replace(scene, items=tuple(items))


def _turned(scene: Scene, by: int, shapes: Sequence[str]) -> Scene:
    """The scene with every shape replaced by the one ``by`` places after it."""
    items = tuple(
        replace(item, shape=shapes[(shapes.index(item.shape) + by) % len(shapes)])
        for item in scene.items
    )
    return replace(scene, items=items)


def _moved(scene: Scene, rng: Random) -> Scene:
    """The scene with its objects elsewhere: one along an axis, a pair with its places mirrored."""
    if len(scene.items) == 2:
        mirrored = ((1 - item.x, 1 - item.y) for item in scene.items)
        items = (
            replace(i, x=round(x, 4), y=round(y, 4)) for i, (x, y) in zip(scene.items, mirrored)
        )
        return replace(scene, items=tuple(items))
    (item,) = scene.items
    axis = rng.choice("xy")
    here = there = getattr(item, axis)
    while abs(there - here) < _NEXT:
        there = round(_third(rng), 4)
    return replace(scene, items=(replace(item, **{axis: there}),))


def _third(rng: Random) -> float:
    """A coordinate clearly low, middle or high."""
    return rng.choice((0.27, 0.5, 0.73)) + rng.uniform(-0.02, 0.02)


def _two_objects(rng: Random, shapes: Sequence[str]) -> Scene:
    """Two items that differ in colour or shape, clearly apart along one axis."""
    kinds = rng.sample(list(product(COLOURS, shapes)), 2)
    sizes = [rng.choice(list(RADII)) for _ in kinds]
    radii = [_radius(rng, size) for size in sizes]
    a, b = (radius + _MARGIN for radius in radii)
    distance = rng.uniform(sum(radii) + _GAP, 1 - a - b)
    start = rng.uniform(a, 1 - b - distance)
    # Across the axis they differ by at most 0.4 of the distance along it.
    offset = rng.uniform(-0.4, 0.4) * distance
    across = rng.uniform(max(a, b - offset), min(1 - a, 1 - b - offset))
    places = [(start, across), (start + distance, across + offset)]
    if rng.random() < 0.5:
        places = [(y, x) for x, y in places]
    items = [
        _item(rng, colour=colour, shape=shape, size=size, radius=radius, x=x, y=y)
        for (colour, shape), size, radius, (x, y) in zip(kinds, sizes, radii, places)
    ]
    rng.shuffle(items)
    return _on_background(rng, *items)


def _item(
    rng: Random, *, colour: str, shape: str, size: str, radius: float, x: float, y: float
) -> Item:
    return Item(
        shape=shape,
        colour=colour,
        size=size,
        x=round(x, 4),
        y=round(y, 4),
        radius=radius,
        angle=round(rng.uniform(-0.05, 0.05), 3),
        tint=rng.choice(TINTS),
    )


def _radius(rng: Random, size: str) -> float:
    return round(RADII[size] + rng.uniform(-0.008, 0.008), 4)


def _on_background(rng: Random, *items: Item) -> Scene:
    taken = {item.colour for item in items}
    background = rng.choice([name for name in BACKGROUNDS if name not in taken])
    return Scene(background=background, items=items, tint=rng.choice(TINTS))


def _word_scene(rng: Random) -> Scene:
    background = rng.choice(list(BACKGROUNDS))
    text = rng.choice(WORDS)
    width = min(0.84, 0.17 * len(text) + rng.uniform(0, 0.1))
    word = Word(
        text=text,
        colour=rng.choice([name for name in COLOURS if name != background]),
        x=round(0.5 + rng.uniform(-0.5, 0.5) * (0.92 - width), 4),
        y=round(rng.uniform(0.25, 0.75), 4),
        width=round(width, 4),
    )
    return Scene(background=background, word=word, tint=rng.choice(TINTS))
