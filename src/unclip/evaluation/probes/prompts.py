"""Captions and images that probes start from: held-out scenes, whose truth the oracle knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import NamedTuple

from unclip.common.errors import UserError
from unclip.common.fields import as_dataclass
from unclip.common.seeding import derive_seed
from unclip.data.config import ScenesConfig
from unclip.data.scenes.captions import noun
from unclip.data.scenes.dataset import Prompt, Scenes
from unclip.data.scenes.render import BACKGROUNDS, COLOURS, RADII, Array, Item, Scene, draw
from unclip.stages.decoder.part import describe

SIZE = 128
"""Pixels a side at which scenes are drawn, to be shown and to be encoded."""
RELATIONS = ("left of", "right of", "above", "below")
_PLACES = ((0.27, 0.5), (0.73, 0.5)), ((0.5, 0.27), (0.5, 0.73))


class Attack(NamedTuple):
    """An image to write words on."""

    scene: Scene
    words: list[str]
    labels: list[str]


def images_of(scenes: Sequence[Scene]) -> list[Array]:
    """Images of scenes as probes start from them, ``uint8 [128, 128, 3]``."""
    return [draw(scene, SIZE) for scene in scenes]


def trained_scenes(decoder: Path | str) -> ScenesConfig:
    """The kinds of scenes a decoder's experiment names, else the default ones.

    Whether it was trained on them is another matter: see `warnings`. ``decoder`` is an artifact, or
    the folder of a run.
    """
    artifact = describe(decoder)
    try:
        data = artifact.config.get("data", {})
        scenes = as_dataclass(ScenesConfig, data.get("scenes", {}))
        scenes.validate()
    except (AttributeError, TypeError, UserError) as error:
        raise UserError(f"{artifact.path / 'config.yaml'}: data.scenes: {error}") from None
    return scenes


def warnings(decoder: Path | str) -> list[str]:
    """What makes scenes, or scenes of two objects, hard for a decoder."""
    source = describe(decoder).config.get("data", {}).get("source")
    if source != "scenes":
        return [f"the decoder was trained on {source}: the oracle's scenes are new to it"]
    if trained_scenes(decoder).max_objects == 1:
        return ["the decoder was trained on single objects: images of two are new to it"]
    return []


def held_out_scenes(n: int, seed: int, config: ScenesConfig) -> list[Scene]:
    """``n`` scenes of one object, none of them among ``config.count`` that were trained on.

    Fewer are the first of more, of the same ``seed``.
    """
    single = replace(config, max_objects=1, words=0.0, contrast=1)
    source = Scenes(single, size=1, start=config.count + 1000 * seed, count=n)
    return [source.scene(k) for k in range(n)]


def attack(scene: Scene, shapes: Sequence[str]) -> Attack:
    """Words to write on a scene of one object, and labels: itself, and what the words say.

    The object is moved to where `unclip.pipeline.typographic.paste` leaves it free.
    """
    (item,) = scene.items
    free = replace(item, x=0.5, y=0.35)
    words = [shape for shape in shapes if shape != item.shape][:2]
    labels = [noun(kind) for kind in (item, *(replace(item, shape=word) for word in words))]
    return Attack(replace(scene, items=(free,)), words, labels)


def exchanged(scene: Scene) -> Scene:
    """The scene of two objects with each in the other's colour."""
    a, b = scene.items
    return replace(scene, items=(replace(a, colour=b.colour), replace(b, colour=a.colour)))


def binding_prompts(n: int, seed: int, shapes: Sequence[str]) -> list[Prompt]:
    """``n`` captions like "a red circle and a blue square", of two colours and two shapes.

    Each second one is the one before with its colours exchanged.
    """
    scenes = _pairs(n, seed, shapes)
    return [
        Prompt(f"{noun(s.items[0])} and {noun(s.items[1])}", s, frozenset({"colour", "shape"}))
        for first in scenes
        for s in (first, exchanged(first))
    ][:n]


def relation_prompts(n: int, seed: int, shapes: Sequence[str]) -> list[Prompt]:
    """``n`` captions like "a red circle above a blue square", going round `RELATIONS`.

    Each second one is the one before with its objects exchanged.
    """
    prompts = []
    for number, pair in enumerate(_pairs(n, seed, shapes)):
        relation = RELATIONS[number % 4]
        low, high = _PLACES[number % 4 // 2]
        places = (low, high) if relation in ("left of", "above") else (high, low)
        items = [replace(item, x=x, y=y) for item, (x, y) in zip(pair.items, places)]
        swapped = [replace(i, x=x, y=y) for i, (x, y) in zip(reversed(pair.items), places)]
        for a, b in (items, swapped):
            scene = replace(pair, items=(a, b))
            stated = frozenset({"colour", "shape", "relation"})
            prompts.append(Prompt(f"{noun(a)} {relation} {noun(b)}", scene, stated))
    return prompts[:n]


def stacked_prompts(n: int, shapes: Sequence[str]) -> list[Prompt]:
    """``n`` times the paper's "a red cube on top of a blue cube", with squares if there are."""
    shape = "square" if "square" in shapes else shapes[0]
    a, b = (_item(shape, colour, *at) for colour, at in zip(("red", "blue"), _PLACES[1]))
    scene = Scene(background="white", items=(a, b))
    stated = frozenset({"colour", "shape", "relation"})
    return [Prompt(f"{noun(a)} above {noun(b)}", scene, stated)] * n


def _pairs(n: int, seed: int, shapes: Sequence[str]) -> list[Scene]:
    """Half of ``n`` scenes, rounded up: two objects of two colours and two shapes, side by side."""
    if len(shapes) < 2:
        raise UserError(f"data.scenes.shapes={list(shapes)}: two objects need two shapes")
    rng = Random(derive_seed("pairs of objects", seed))
    scenes = []
    for _ in range(-(-n // 2)):
        colours = rng.sample(list(COLOURS), 2)
        kinds = zip(rng.sample(list(shapes), 2), colours, _PLACES[0])
        items = tuple(_item(shape, colour, *at) for shape, colour, at in kinds)
        background = rng.choice([name for name in BACKGROUNDS if name not in colours])
        scenes.append(Scene(background=background, items=items))
    return scenes


def _item(shape: str, colour: str, x: float, y: float) -> Item:
    return Item(shape=shape, colour=colour, size="small", x=x, y=y, radius=RADII["small"])
