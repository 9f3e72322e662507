"""All of the paper's figures from a trained cascade, as one HTML page with everything in it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from unclip.common.atomic import atomic_write
from unclip.common.errors import UserError
from unclip.common.html import render
from unclip.common.progress import bar_interval
from unclip.evaluation.figures.drawings import FigureInputs
from unclip.evaluation.figures.figures import FIGURES, Figure, fields
from unclip.evaluation.probes.conditioning import check_settings
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import STAGES, Settings
from unclip.stages._part import Part
from unclip.stages.row import DECODER, PRIOR, UPSAMPLER


def write_figures(
    studio: FigureInputs, out: Path, *, command: str, common: Sequence[str], notes: Sequence[str]
) -> Path:
    """Draw `FIGURES` and write ``out/index.html``, a PNG of each and the images they start from.

    A figure that a missing part prevents says so on the page instead.

    Args:
        studio: The cascade and what it draws from.
        out: Folder, is made.
        command: That was given.
        common: Its options and settings as the commands of single figures need them.
        notes: What is to be known before looking.

    Returns:
        The page.

    Raises:
        UserError: settings that no stage can be sampled with; nothing is written.
    """
    own = studio.telling((), every_prior=False)
    check_settings(studio.pipeline.cascade, studio.ar_prior, studio.settings)
    sources = [out / "images" / f"{k}.png" for k in range(len(studio.images))]
    for image, path in zip(studio.images, sources):
        with atomic_write(path) as scratch:
            Image.fromarray(image).save(scratch, "png")
    named = fields(studio, sources)
    sections = []
    for figure in tqdm(FIGURES, desc="figures", unit="figure", mininterval=bar_interval()):
        told = studio.telling(figure.without, every_prior=figure.every_prior)
        words = [word for word in common if _holds(word, told.settings)]
        line = figure.command.format(**named, common=shlex.join(words))
        sections.append(_section(figure, line, told, out))
    page = out / "index.html"
    with atomic_write(page) as scratch:
        text = render(
            Path(__file__).parent / "templates" / "figures.html",
            sections=sections,
            sampling=sampling_table(studio.pipeline, own.settings),
            command=command,
            notes=[*notes, *_ddim_note(studio.settings)],
        )
        scratch.write_text(text, encoding="utf-8")
    return page


def _holds(word: str, settings: Settings) -> bool:
    """Whether ``word`` is one of ``settings``, such as ``decoder.steps=16``, or no setting."""
    stage, _, name = word.partition("=")[0].partition(".")
    return "=" not in word or stage not in STAGES or name in settings.changes.get(stage, {})


def _ddim_note(settings: Settings) -> list[str]:
    given = [f"decoder.{k}" for k in settings.changes.get("decoder", {}) if k in ("sampler", "eta")]
    if not given:
        return []
    return [f"figures 3 to 7 are drawn with DDIM, so {' and '.join(given)} does not apply to them"]


class Section(NamedTuple):
    """A figure on the page, or why it is missing."""

    figure: Figure
    command: str  # that draws it alone; empty if there is none
    path: Path | None = None
    lines: Sequence[Sequence[str]] = ()  # a table, titles first
    notes: Sequence[str] = ()
    missing: str = ""


def _section(figure: Figure, command: str, studio: FigureInputs, out: Path) -> Section:
    try:
        probe = figure.draw(studio)
    except UserError as error:
        return Section(figure, command, missing=str(error))
    path = probe.save(out, f"figure_{figure.number:02d}")
    return Section(figure, command, path, probe.lines if probe.records else (), probe.notes)


def sampling_table(pipeline: Pipeline, settings: Settings) -> list[list[str]]:
    """How each stage samples: its name, parameters and settings, titles first."""
    cascade = pipeline.cascade
    parts: list[tuple[str, Part]] = [(PRIOR, cascade.prior)] if cascade.prior else []
    parts += [(DECODER, cascade.decoder), *((UPSAMPLER, part) for part in cascade.upsamplers)]
    rows = [["stage", "parameters", "sampling"]]
    for stage, part in parts:
        chosen = asdict(settings.apply(stage, part))
        rows.append(
            [
                stage,
                f"{sum(p.numel() for p in part.net.parameters()):,}",
                ", ".join(f"{name} {value}" for name, value in chosen.items()),
            ]
        )
    return rows
