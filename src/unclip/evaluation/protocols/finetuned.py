"""One HTML page of a cascade that was fine-tuned: the same captions and seeds before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from unclip.common.atomic import atomic_write
from unclip.common.html import render
from unclip.common.images import Array, grid, save, table, to_uint8
from unclip.common.progress import bar_interval
from unclip.data.config import ReadingConfig
from unclip.data.decode import BadSample
from unclip.data.sources import open_splits
from unclip.evaluation.protocols.training import curves, stage_table
from unclip.pipeline.pipeline import Pipeline
from unclip.tracking.report import Finished

SHOWN = 8  # of the images that it was trained on
SIDE = 192  # pixels at most, of an image on the page


def report(
    before: Path,
    after: Path,
    runs: Sequence[Finished],
    *,
    captions: Sequence[str],
    each: int,
    data: ReadingConfig,
    commands: Sequence[str],
    device: str = "auto",
) -> Path:
    """Draw ``each`` images of every caption with both cascades and write ``after/index.html``.

    The n-th image of a caption has the same seed in both. Also writes the sheets as PNGs.
    """
    drawn = [_drawn(folder, captions, each, device) for folder in (before, after)]
    images = [row for pair in zip(*drawn) for row in pair]
    headings = [f"{when}: {c}" for c in captions for when in ("before", "after")]
    seeds = [f"seed {seed}" for seed in range(each)]
    side = min(SIDE, max(64, images[0][0].shape[0]))
    sheet = table(images, rows=headings, columns=seeds, side=side)
    sheets = {
        "comparison": save(sheet, after / "before_and_after.png"),
        "curves": curves(runs, after / "curves.png"),
    }
    if samples := _samples(data):
        shown, said = zip(*samples)
        sheets["samples"] = save(grid(shown, said), after / "trained_on.png")
    page = after / "index.html"
    with atomic_write(page) as scratch:
        text = render(
            Path(__file__).parent / "templates" / "finetuned.html",
            source=data.source,
            before=str(before),
            folder=str(after),
            sheets=sheets,
            stages=stage_table(runs),
            commands=commands,
        )
        scratch.write_text(text, encoding="utf-8")
    return page


def _drawn(folder: Path, captions: Sequence[str], each: int, device: str) -> list[list[Array]]:
    """``each`` images of every caption; one cascade is in memory at a time."""
    pipeline = Pipeline.load(folder, device, "auto")
    bar = tqdm(captions, f"drawing {folder}", unit="caption", mininterval=bar_interval())
    return [list(to_uint8(pipeline.generate([c] * each, range(each)).image)) for c in bar]


def _samples(data: ReadingConfig) -> list[tuple[Array, str]]:
    """The first few training images, as large as the page shows them."""
    source = open_splits(data, image_size=SIDE).train
    found: list[tuple[Array, str]] = []
    for index in range(len(source)):
        if len(found) == SHOWN:
            break
        try:
            sample = source[index]
        except BadSample:
            continue
        image = Image.fromarray(sample.image)
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))
        found.append((np.asarray(square), sample.captions[0]))
    return found
