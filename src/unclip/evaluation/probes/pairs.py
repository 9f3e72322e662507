"""Attribute binding and spatial relations (arXiv 2204.06125, section 7), read by the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Any

from unclip.common.images import Array, grid, to_uint8
from unclip.common.types import Progress
from unclip.data.scenes.dataset import Prompt
from unclip.data.scenes.render import COLOURS
from unclip.evaluation.oracle.oracle import judge, read
from unclip.evaluation.probes.probe import Probe
from unclip.evaluation.probes.prompts import RELATIONS, exchanged
from unclip.evaluation.statistics.shares import score
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings

OBJECTS = ("colour", "shape", "count")
"""The two objects asked for, each in its colour, and no third."""
SHOWN = 16  # images on the sheet


def probe_pairs(
    pipeline: Pipeline,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    shapes: Sequence[str],
    *,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Probe:
    """Draw two-object ``prompts`` and count: relations where they state one, else binding.

    ``shapes`` are all that an image could have shown, which decides what chance would give.
    """
    captions = [prompt.caption for prompt in prompts]
    found = pipeline.generate(captions, seeds, settings=settings, progress=progress)
    images = list(to_uint8(found.image))
    relations = "relation" in prompts[0].stated
    outcomes = (relation_outcomes if relations else binding_outcomes)(prompts, images)
    labels = [f"{outcome}: {text}" for outcome, text in zip(outcomes, captions)][:SHOWN]
    records = (relation_records if relations else binding_records)(prompts, outcomes, shapes)
    return Probe(grid(images[:SHOWN], labels), records)


def binding_outcomes(prompts: Sequence[Prompt], images: Sequence[Array]) -> list[str]:
    """Of each image (``uint8 [S, S, 3]``): right | exchanged | neither.

    Right is each colour on its own shape, exchanged on the other's, and no third object.
    """
    outcomes = []
    for prompt, seen in zip(prompts, map(read, images)):
        right = judge(seen, prompt.scene).shows(OBJECTS)
        wrong = judge(seen, exchanged(prompt.scene)).shows(OBJECTS)
        outcomes.append("right" if right else "exchanged" if wrong else "neither")
    return outcomes


def binding_records(
    prompts: Sequence[Prompt], outcomes: Sequence[str], shapes: Sequence[str]
) -> list[dict[str, Any]]:
    """The table of `binding_outcomes`.

    Chance, of all images: two objects drawn as the scenes' are, whatever the caption. Of those
    with both colours and both shapes: a colour falls on either shape.
    """
    n, guess = len(prompts), _guess(shapes)
    right, wrong = outcomes.count("right"), outcomes.count("exchanged")
    return [
        {"images": "colours on their own shapes", **score(right, n), "chance": guess},
        {"images": "colours exchanged", **score(wrong, n), "chance": guess},
        {
            "images": "own shapes, of those with both colours and both shapes",
            **score(right, right + wrong),
            "chance": 0.5,
        },
    ]


def relation_outcomes(prompts: Sequence[Prompt], images: Sequence[Array]) -> list[str]:
    """Of each image (``uint8 [S, S, 3]``): right | elsewhere | other objects."""
    outcomes = []
    for prompt, seen in zip(prompts, map(read, images)):
        verdict = judge(seen, prompt.scene)
        objects = verdict.shows(OBJECTS)
        outcomes.append(
            "right" if objects and verdict.relation else "elsewhere" if objects else "other objects"
        )
    return outcomes


def relation_records(
    prompts: Sequence[Prompt], outcomes: Sequence[str], shapes: Sequence[str]
) -> list[dict[str, Any]]:
    """The table of `relation_outcomes`: by relation, of all, and of those with the right objects.

    Chance is two objects drawn as the scenes' are: their four relations are equally likely.
    """
    groups = {
        name: [o for p, o in zip(prompts, outcomes) if p.scene.relation == name]
        for name in RELATIONS
        if any(p.scene.relation == name for p in prompts)
    }
    if len(groups) > 1:
        groups["all"] = list(outcomes)
    records = [
        {"images": name, **score(of.count("right"), len(of)), "chance": _guess(shapes) / 4}
        for name, of in groups.items()
    ]
    right = outcomes.count("right")
    objects = right + outcomes.count("elsewhere")
    title = "related as asked, of those with the right objects"
    return [*records, {"images": title, **score(right, objects), "chance": 0.25}]


def _guess(shapes: Sequence[str]) -> float:
    """Chance that two different objects are those asked for."""
    return 1 / comb(len(COLOURS) * len(shapes), 2)
