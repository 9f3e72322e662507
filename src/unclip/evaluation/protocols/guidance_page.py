"""What `unclip evaluate guidance` leaves in its folder: curves, rows of images, tables, JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from unclip.common import tables
from unclip.common.atomic import atomic_write
from unclip.common.fonts import drawable
from unclip.common.html import render
from unclip.common.images import Array, save, table
from unclip.data.shard_folder import write_json
from unclip.evaluation.features.images import ImageSet
from unclip.evaluation.metrics.guided import Line, as_dict, slopes
from unclip.evaluation.protocols.captioned import Protocol

ROWS = 4  # captions shown
GUIDANCE, TABLE, PAGE, CURVES, SHEET = (
    *("guidance.json", "guidance.md", "index.html", "curves.png", "rows.png"),
)


def lines_of(lines: Sequence[Line]) -> list[list[str]]:
    """Every figure: a row per measure and line, a column per scale."""
    found = [["", "", *(f"scale {scale:g}" for scale in lines[0].scales)]]
    for name in lines[0].names:
        found += [[name, line.title, *map(str, line.figures(name))] for line in lines]
    return found


def slope_lines(lines: Sequence[Line]) -> list[list[str]]:
    """Changes per doubling of the scale."""
    titles = ["per doubling of the scale", *(line.title for line in lines)]
    if len(lines) > 1:
        titles.append(f"{lines[0].title} less {lines[1].title}")
    rows = [[name, *map(str, each)] for name, each in slopes(lines).items()]
    return [titles, *rows] if rows else []


def write(
    out: Path,
    lines: Sequence[Line],
    protocol: Protocol,
    record: dict[str, Any],
    images: Sequence[Sequence[ImageSet]],
    notes: Sequence[str],
) -> list[tuple[str, list[list[str]]]]:
    """Write the folder's results; titles and tables that are in them.

    Args:
        out: The folder, which has the samples below it.
        lines: Figures.
        protocol: That was followed.
        record: Opens the JSON.
        images: Samples of each line at each scale.
        notes: Warnings that belong to the figures.
    """
    sections = [("Figures, with 95 % of resamples", lines_of(lines))]
    if slope := slope_lines(lines):
        sections.append(("Change with the scale", slope))
    about = f"Captions: {protocol.chosen}. Reference: {protocol.compared}."
    text = f"# Guidance: {protocol.name}\n\n{about}\n"
    text += "".join(f"\n## {title}\n\n{tables.markdown(rows)}" for title, rows in sections)
    with atomic_write(out / TABLE) as scratch:
        scratch.write_text(text + "".join(f"\n{note}\n" for note in notes), encoding="utf-8")
    sheets = {
        "curves": curves(lines, out / CURVES),
        "rows": save(_sheet(lines, images), out / SHEET),
    }
    page = render(
        Path(__file__).parent / "templates" / "guidance.html",
        protocol=protocol.name,
        about=about,
        sections=sections,
        notes=notes,
        sheets=sheets,
    )
    with atomic_write(out / PAGE) as scratch:
        scratch.write_text(page, encoding="utf-8")
    write_json(out / GUIDANCE, {**record, **as_dict(lines, slopes(lines))})
    return sections


def curves(lines: Sequence[Line], path: Path) -> Path:
    """A panel per measure over the scale; with a probe also recall against its score."""
    names = lines[0].names
    pairs = [(n, m) for n in names if n.startswith("predicted ") for m in names if "recall" in m]
    panels = [*((None, name) for name in names), *pairs]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.2 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (across, name) in zip(axes.flat, panels):
        for number, line in enumerate(lines):
            _curve(axis, line, across, name, beside=0.02 * number)
        if across is None:
            axis.set_xscale("log", base=2)
            axis.set_xticks(lines[0].scales, [f"{scale:g}" for scale in lines[0].scales])
            axis.minorticks_off()
        axis.set_xlabel(across or "guidance scale of the decoder")
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _curve(axis: Any, line: Line, across: str | None, name: str, beside: float) -> None:
    """``beside`` keeps the bars of several lines apart, in doublings of the scale."""
    found = line.figures(name)
    if across is None:
        x = [scale * 2**beside for scale in line.scales]
    else:
        x = [figure.value for figure in line.figures(across)]
    label = drawable(line.title)
    (drawn,) = axis.plot(x, [figure.value for figure in found], "o-", label=label, markersize=4)
    known = [(at, f.low, f.high) for at, f in zip(x, found) if f.low is not None]
    if known:
        axis.vlines(*zip(*known), color=drawn.get_color(), alpha=0.5)
    if across is not None:
        for at, figure, scale in zip(x, found, line.scales):
            axis.annotate(f"{scale:g}", (at, figure.value), fontsize=7)


def _sheet(lines: Sequence[Line], images: Sequence[Sequence[ImageSet]]) -> Any:
    """The first captions: a row per caption and line, a column per scale, the same seed."""
    rows: list[list[Array]] = []
    headings = []
    for number in range(min(ROWS, len(images[0][0]))):
        for line, sets in zip(lines, images):
            shown = [each(number) for each in sets]
            rows.append([one.image for one in shown])
            headings.append(f"{line.title}: {shown[0].caption}")
    columns = [f"scale {scale:g}" for scale in lines[0].scales]
    return table(rows, rows=headings, columns=columns)
