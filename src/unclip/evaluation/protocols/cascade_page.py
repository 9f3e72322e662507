"""What `unclip evaluate cascade` leaves in its folder: JSON, Markdown, and a page with images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unclip.common import tables
from unclip.common.atomic import atomic_write
from unclip.common.html import render
from unclip.common.images import Array, grid, save
from unclip.data.shard_folder import write_json
from unclip.evaluation.features.images import ImageSet
from unclip.evaluation.metrics.conditions import ImagesEvaluation, lines_of
from unclip.evaluation.protocols.captioned import Protocol
from unclip.evaluation.protocols.paper import beside_the_paper, not_comparable

SHOWN = 32  # samples on the page
EVALUATION, TABLE, PAGE, SHEET = "evaluation.json", "evaluation.md", "index.html", "samples.png"


def write(
    out: Path,
    found: Sequence[ImagesEvaluation],
    protocol: Protocol,
    record: dict[str, Any],
    images: ImageSet,
) -> list[tuple[str, list[list[str]]]]:
    """Write the folder's results; the titles and tables that are in them.

    Args:
        out: The folder, which has the samples.
        found: A figure set per network.
        protocol: That was followed.
        record: How: opens the JSON.
        images: The samples.
    """
    described = {
        "name": protocol.name,
        "captions": protocol.chosen,
        "reference": protocol.compared,
        "size": protocol.size,
    }
    content = {
        **record,
        "protocol": described,
        "evaluations": [one.as_dict() for one in found],
        "not_comparable_with_the_paper": [not_comparable(one, protocol) for one in found],
    }
    sections = [
        (f"Features of {one.conditions.features}, against {one.reference}", lines_of([one]))
        for one in found
    ]
    if protocol.name == "coco30k":
        sections += [
            (f"Beside the paper, {one.conditions.features}", beside_the_paper(one, protocol))
            for one in found
        ]
    about = f"Captions: {protocol.chosen}. Reference: {protocol.compared}."
    text = f"# {found[0].title}: {protocol.name}\n\n{about}\n"
    text += "".join(f"\n## {title}\n\n{tables.markdown(lines)}" for title, lines in sections)
    notes = list(dict.fromkeys(note for one in found for note in one.notes))
    with atomic_write(out / TABLE) as scratch:
        scratch.write_text(text + "".join(f"\n{note}\n" for note in notes), encoding="utf-8")
    sheet = save(_sheet(images), out / SHEET)
    page = render(
        Path(__file__).parent / "templates" / "cascade.html",
        title=found[0].title,
        protocol=described,
        sections=sections,
        notes=notes,
        sheet=sheet,
        cascade=record["cascade"]["source"],
    )
    with atomic_write(out / PAGE) as scratch:
        scratch.write_text(page, encoding="utf-8")
    write_json(out / EVALUATION, content)
    return sections


def _sheet(images: ImageSet) -> Any:
    shown: list[Array] = []
    captions: list[str] = []
    for number in range(min(SHOWN, len(images))):
        one = images(number)
        shown.append(one.image)
        captions.append(one.caption or "")
    return grid(shown, captions)
