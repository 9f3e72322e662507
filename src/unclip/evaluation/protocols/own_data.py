"""One HTML page of a cascade trained on somebody's own data: images of held-out captions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from unclip.common.atomic import atomic_write
from unclip.common.counted import counted
from unclip.common.html import render
from unclip.common.images import Array, grid, save, to_uint8
from unclip.common.terminal import say
from unclip.data.config import ReadingConfig
from unclip.data.decode import BadSample
from unclip.data.sources import open_splits
from unclip.evaluation.protocols.training import curves, stage_table
from unclip.pipeline.pipeline import Pipeline
from unclip.tracking.report import Finished

BATCH = 16  # images at a time


def held_out_captions(data: ReadingConfig, n: int) -> list[str]:
    """The first captions of ``n`` held-out samples of ``data``, or of as many as there are."""
    source = open_splits(data, image_size=1).held_out
    captions: list[str] = []
    for index in range(len(source)):
        if len(captions) == n:
            break
        try:
            captions.append(source[index].captions[0])
        except BadSample:
            continue
    return captions


def report(
    root: Path, runs: Sequence[Finished], *, prompts: int, data: ReadingConfig, began: float
) -> Path:
    """Draw ``prompts`` held-out captions of ``data`` and write ``root/index.html``.

    Nothing reads the images: the oracle knows scenes alone. The run has lasted since ``began``, of
    `time.perf_counter`. Also writes the sheets as PNGs.
    """
    pipeline = Pipeline.load(root, "auto", "auto")
    captions = held_out_captions(data, prompts)
    images: list[Array] = []
    for first in tqdm(range(0, len(captions), BATCH), desc="drawing", unit="batch"):
        some = captions[first : first + BATCH]
        images += list(to_uint8(pipeline.generate(some, range(first, first + len(some))).image))
    seconds = time.perf_counter() - began
    sheets = {"curves": curves(runs, root / "curves.png")}
    if images:
        sheets["samples"] = save(grid(images, captions, columns=8), root / "samples.png")
    page = root / "index.html"
    with atomic_write(page) as scratch:
        text = render(
            Path(__file__).parent / "templates" / "own_data.html",
            source=data.source,
            folder=str(root),
            count=len(images),
            seconds=seconds,
            sheets=sheets,
            stages=stage_table(runs),
        )
        scratch.write_text(text, encoding="utf-8")
    say(f"{counted(len(images), 'held-out caption')} drawn; whole run {seconds:.0f} s")
    return page
