"""All of the paper's figures from a trained cascade, as one HTML page with everything in it."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from unclip.common.atomic import atomic_write
from unclip.common.errors import UserError
from unclip.common.html import STYLE, embedded, table
from unclip.common.progress import bar_interval
from unclip.evaluation.figures.drawings import FigureInputs
from unclip.evaluation.figures.figures import FIGURES, Figure, fields
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings
from unclip.stages._part import Part
from unclip.stages.row import DECODER, PRIOR, UPSAMPLER


def write_figures(
    studio: FigureInputs, out: Path, *, command: str, common: str, notes: Sequence[str]
) -> Path:
    """Draw `FIGURES` and write ``out/index.html``, a PNG of each and the images they start from.

    A figure that a missing part prevents says so on the page instead.

    Args:
        studio: The cascade and what it draws from.
        out: Folder, is made.
        command: That was given.
        common: Its options as the commands of single figures need them.
        notes: What is to be known before looking.

    Returns:
        The page.
    """
    sources = [out / "images" / f"{k}.png" for k in range(len(studio.images))]
    for image, path in zip(studio.images, sources):
        with atomic_write(path) as scratch:
            Image.fromarray(image).save(scratch, "png")
    named = fields(studio, sources, common)
    sections = []
    for figure in tqdm(FIGURES, desc="figures", unit="figure", mininterval=bar_interval()):
        drawn = _drawn(figure, studio, out)
        sections.append(_section(figure, drawn, figure.command.format(**named)))
    page = out / "index.html"
    with atomic_write(page) as scratch:
        text = _page(sections, studio, command=command, notes=notes)
        scratch.write_text(text, encoding="utf-8")
    return page


def _drawn(figure: Figure, studio: FigureInputs, out: Path) -> str:
    """The figure's image, table and notes as HTML; of one that cannot be, why."""
    try:
        probe = figure.draw(studio)
    except UserError as error:
        return f"<p><strong>Left out:</strong> {_text(str(error))}</p>"
    path = probe.save(out, f"figure_{figure.number:02d}")
    lines = f'<div class="scroll">{table(probe.lines)}</div>' if probe.records else ""
    notes = "".join(f"<p>{_text(note)}</p>" for note in probe.notes)
    return embedded(path, figure.title) + lines + notes


def _text(text: str) -> str:
    """Escaped, with what stands in backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _section(figure: Figure, drawn: str, command: str) -> str:
    title = f"Figure {figure.number}. {figure.title}"
    alone = f"<p>By itself: <code>{html.escape(command)}</code></p>" if command else ""
    return f"""<h2>{title}</h2>
<p><strong>In the paper:</strong> {_text(figure.shows)}</p>
<p><strong>Look for:</strong> {_text(figure.look)}</p>
{drawn}
{alone}
"""


def sampling_table(pipeline: Pipeline, settings: Settings | None) -> list[list[str]]:
    """How each stage samples: its name, parameters and settings, titles first."""
    settings = settings or Settings()
    cascade = pipeline.cascade
    parts: list[tuple[str, Part]] = [(PRIOR, cascade.prior)] if cascade.prior else []
    parts += [(DECODER, cascade.decoder), *((UPSAMPLER, part) for part in cascade.upsamplers)]
    rows = [["stage", "parameters", "sampling"]]
    for stage, part in parts:
        chosen = asdict(settings.apply(stage, part.sampler))
        rows.append(
            [
                stage,
                f"{sum(p.numel() for p in part.net.parameters()):,}",
                ", ".join(f"{name} {value}" for name, value in chosen.items()),
            ]
        )
    return rows


def _page(
    sections: Sequence[str], studio: FigureInputs, *, command: str, notes: Sequence[str]
) -> str:
    remarks = "".join(f"<p><strong>Note:</strong> {html.escape(note)}.</p>" for note in notes)
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>unclip: the paper's figures</title><style>{STYLE}
code{{overflow-wrap:anywhere}} .scroll td,.scroll th{{white-space:nowrap}}
@media(max-width:760px){{.scroll img{{max-width:none}}}}</style>
<h1>The paper's figures, from this cascade</h1>
<p>The counterparts of figures 3 to 9, 14 and 15 of
“Hierarchical Text-Conditional Image Generation with CLIP Latents” (arXiv 2204.06125). They show
what a small model makes of each idea; they are not the paper's results.
"Right" is the verdict of an oracle that reads scenes without learning; low and high are the ends of
the 95 % Wilson interval.</p>
<p>Made by <code>{html.escape(command)}</code></p>
{remarks}
<div class="scroll">{table(sampling_table(studio.pipeline, studio.settings))}</div>
<p>Manipulations of images decode with DDIM in the decoder's steps and guidance, after
an inversion with the same; they take no caption. The same cascade and command give the same
images, byte for byte, on the same machine.</p>
{"".join(sections)}</html>
"""
