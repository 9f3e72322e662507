"""Captions of scenes: many wordings, every one of them true of its scene."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from unclip.data.config import ScenesConfig
from unclip.data.scenes.render import Item, Scene, Word, place

STATED = ("colour", "shape", "size", "position", "relation", "count", "background")

_RELATIONS = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above",),
    "below": ("below", "under", "beneath"),
}
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_PLACES = {
    "top left": ("in the top left", "in the top left corner"),
    "top right": ("in the top right", "in the top right corner"),
    "bottom left": ("in the bottom left", "in the bottom left corner"),
    "bottom right": ("in the bottom right", "in the bottom right corner"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "middle": ("in the middle", "in the center"),
}
_OPENINGS = ("", "", "", "a picture of ", "an image of ", "a drawing of ", "there is ")


class Phrase(NamedTuple):
    """A caption, and what of the scene it says.

    Attributes:
        text: The caption.
        stated: Which of `STATED` an image needs in order to agree with it; empty for a word.
    """

    text: str
    stated: frozenset[str]


def caption(scene: Scene, rng: Random, detail: float = ScenesConfig.detail) -> str:
    """A random true description of ``scene``."""
    return phrase(scene, rng, detail).text


def phrase(scene: Scene, rng: Random, detail: float = ScenesConfig.detail) -> Phrase:
    """A random true description of ``scene``, and what it states.

    Colours and shapes are always said; size, place and background each with chance ``detail``.
    """
    if scene.word is not None:
        return Phrase(_printed(scene.word, scene.background, rng), frozenset())
    if rng.random() < 0.15:
        return _tags(scene, rng, detail)
    said = {"colour", "shape", "count"}
    body = (_single if len(scene.items) == 1 else _pair)(scene, rng, said, detail)
    body = rng.choice(_OPENINGS) + body
    if rng.random() < detail:
        said.add("background")
        joint = rng.choice(("on a", "on a", "against a"))
        body += f" {joint} {scene.background} background"
    return Phrase(body, frozenset(said))


def _single(scene: Scene, rng: Random, said: set[str], detail: float) -> str:
    (item,) = scene.items
    if rng.random() < detail:
        said.add("size")
    body = noun(item, "size" in said)
    if rng.random() < detail:
        said.add("position")
        body += " " + rng.choice(_PLACES[place(item.x, item.y)])
    return body


def _pair(scene: Scene, rng: Random, said: set[str], detail: float) -> str:
    first, second, relation = _order(scene, rng)
    sized = (rng.random() < detail, rng.random() < detail)
    if all(sized):
        said.add("size")
    a, b = noun(first, sized[0]), noun(second, sized[1])
    style = rng.random()
    if style < 0.15:
        return f"{a} and {b}"
    said.add("relation")
    if style < 0.3 and _apart(first, second):
        sides = {"left of": ("left", "right"), "above": ("top", "bottom")}
        one, other = sides.get(relation) or sides[_OPPOSITE[relation]][::-1]
        return f"{a} {_PLACES[one][0]} and {b} {_PLACES[other][0]}"
    return f"{a} {rng.choice(_RELATIONS[relation])} {b}"


def _tags(scene: Scene, rng: Random, detail: float) -> Phrase:
    """Without articles: ``blue star, large, top left, grey background``."""
    said = {"colour", "shape", "count"}
    if len(scene.items) == 2:
        first, second, relation = _order(scene, rng)
        said.add("relation")
        body = f"{first.colour} {first.shape} {relation} {second.colour} {second.shape}"
        extras = {}
    else:
        (item,) = scene.items
        body = f"{item.colour} {item.shape}"
        extras = {"size": item.size, "position": place(item.x, item.y)}
    extras["background"] = f"{scene.background} background"
    for name, text in extras.items():
        if rng.random() < detail:
            said.add(name)
            body += f", {text}"
    return Phrase(body, frozenset(said))


class _Ordered(NamedTuple):
    first: Item
    second: Item
    relation: str


def _order(scene: Scene, rng: Random) -> _Ordered:
    """The two items in either order, with the relation of the first to the second."""
    first, second = scene.items
    relation = scene.relation
    assert relation is not None  # two items always have one
    if rng.random() < 0.5:
        return _Ordered(second, first, _OPPOSITE[relation])
    return _Ordered(first, second, relation)


def _apart(first: Item, second: Item) -> bool:
    """Whether the two lie on opposite sides of the image, not only of each other."""
    along = (first.x, second.x) if abs(first.x - second.x) > abs(first.y - second.y) else None
    low, high = sorted(along or (first.y, second.y))
    return low < 0.4 and high > 0.6


def noun(item: Item, sized: bool = False) -> str:
    """The item in words, with its article: ``a red circle``, ``a large red circle``."""
    words = f"{item.size} {item.colour} {item.shape}" if sized else f"{item.colour} {item.shape}"
    return ("an " if words[0] in "aeiou" else "a ") + words


def _printed(word: Word, background: str, rng: Random) -> str:
    text, colour = word.text, word.colour
    article = "an" if colour[0] in "aeiou" else "a"
    body = rng.choice(
        (
            f"the word {text}",
            f"the word {text} printed in {colour}",
            f"the word {text} in {colour} letters",
            f"a picture of the word {text}",
            f"{article} {colour} word that says {text}",
        )
    )
    return body + (f" on a {background} background" if rng.random() < 0.5 else "")
