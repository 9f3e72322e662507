"""One HTML page of a cascade trained on scenes: images, the oracle's reading, curves."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from unclip.common.atomic import atomic_write
from unclip.common.html import render
from unclip.common.images import Array, grid, save, to_uint8
from unclip.common.terminal import say
from unclip.data.config import ScenesConfig
from unclip.data.scenes.dataset import Prompt, single_object_prompts, two_object_prompts
from unclip.evaluation.oracle.oracle import Verdict, check, objects_right, read
from unclip.evaluation.protocols.training import curves, stage_table
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings
from unclip.tracking.report import Finished


@dataclass(frozen=True)
class OracleReading:
    """A prompt, its image and what the oracle says of it."""

    prompt: Prompt
    small: Array  # the decoder's
    image: Array  # the last stage's
    verdict: Verdict

    @property
    def right(self) -> bool:
        """Colour and shape as asked, on the same object."""
        return self.verdict.colour and self.verdict.shape

    @property
    def objects(self) -> int:
        """How many objects are in colour and shape as asked."""
        return objects_right(read(self.image), self.prompt.scene)


def draw(
    pipeline: Pipeline,
    prompts: Sequence[Prompt],
    *,
    batch: int = 16,
    settings: Settings | None = None,
) -> list[OracleReading]:
    """One image per prompt, seed k for prompt k, read by the oracle."""
    drawn = []
    for first in tqdm(range(0, len(prompts), batch), desc="drawing", unit="batch"):
        chunk = prompts[first : first + batch]
        seeds = list(range(first, first + len(chunk)))
        found = pipeline.generate([p.caption for p in chunk], seeds, settings=settings)
        for prompt, small, image in zip(chunk, to_uint8(found.small), to_uint8(found.image)):
            drawn.append(OracleReading(prompt, small, image, check(image, prompt.scene)))
    return drawn


def share(drawn: Sequence[OracleReading], *what: str) -> float:
    """Share of images that hold in all of ``what``, where the caption states it."""
    judged = [d for d in drawn if all(w in ("count", *d.prompt.stated) for w in what)]
    return sum(d.verdict.shows(what) for d in judged) / len(judged) if judged else float("nan")


def report(
    root: Path,
    runs: Sequence[Finished],
    *,
    prompts: int,
    pairs: int,
    trained: ScenesConfig,
    began: float,
) -> Path:
    """Draw held-out captions with the cascade in ``root`` and write ``root/index.html``.

    ``prompts`` captions are of one object and ``pairs`` of two, with the shapes of the scenes that
    the cascade was ``trained`` on. The run has lasted since ``began``, of `time.perf_counter`.

    Also writes ``report.json`` and the sheets as PNGs.
    """
    pipeline = Pipeline.load(root, "auto", "auto")
    single = draw(pipeline, single_object_prompts(prompts, 1, trained.shapes))
    two = draw(pipeline, two_object_prompts(pairs, 1, trained.shapes))
    seconds = time.perf_counter() - began
    figures: dict[str, Any] = {
        "single_object": {
            "prompts": len(single),
            "colour_and_shape": share(single, "colour", "shape"),
            "colour": share(single, "colour"),
            "shape": share(single, "shape"),
            "size": share(single, "size"),
            "position": share(single, "position"),
            "background": share(single, "background"),
        },
        "two_objects": {
            "prompts": len(two),
            "objects": sum(each.objects for each in two) / (2 * len(two)),
            "both_objects": share(two, "colour", "shape"),
            "both_and_relation": share(two, "colour", "shape", "relation"),
        },
        "seconds": round(seconds, 1),
    }
    (root / "report.json").write_text(json.dumps(figures, indent=2) + "\n")
    sheets = {
        "single": save(sheet(single), root / "single.png"),
        "pairs": save(sheet(two), root / "pairs.png"),
        "cascade": save(_cascade(single[:8]), root / "cascade.png"),
        "curves": curves(runs, root / "curves.png"),
    }
    page = root / "index.html"
    with atomic_write(page) as scratch:
        scratch.write_text(render_page(runs, figures, sheets), encoding="utf-8")
    one, both = figures["single_object"], figures["two_objects"]
    say(
        f"single objects: colour and shape right in {one['colour_and_shape']:.0%} of {len(single)}"
        f" (colour {one['colour']:.0%}, shape {one['shape']:.0%}); whole run {seconds:.0f} s"
    )
    if trained.max_objects == 2:
        say(
            f"two objects: colour and shape right of {both['objects']:.0%} of {2 * len(two)}, of "
            f"both in {both['both_objects']:.0%} of {len(two)}, with their relation in "
            f"{both['both_and_relation']:.0%}"
        )
    return page


def sheet(drawn: Sequence[OracleReading]) -> Image.Image:
    """The images, each with whether it is right and its caption."""
    # Words, for the font that comes with Pillow has no ticks.
    marks = [("right: " if d.right else "wrong: ") + d.prompt.caption for d in drawn]
    return grid([d.image for d in drawn], marks, columns=8)


def _cascade(drawn: Sequence[OracleReading]) -> Image.Image:
    images = [d.small for d in drawn] + [d.image for d in drawn]
    sizes = [f"decoder, {d.small.shape[0]} px" for d in drawn]
    captions = [*sizes, *(f"{d.image.shape[0]} px: {d.prompt.caption}" for d in drawn)]
    return grid(images, captions, columns=len(drawn))


def render_page(runs: Sequence[Finished], figures: dict, sheets: dict[str, Path]) -> str:
    """The text of ``index.html``."""
    one, two = figures["single_object"], figures["two_objects"]
    single = [["single objects, held-out captions", "right"]]
    single += [[k.replace("_", " "), f"{one[k]:.0%}"] for k in list(one)[1:]]
    pairs = [[f"{two['prompts']} captions of two objects", "right"]]
    pairs += [[k.replace("_", " "), f"{two[k]:.0%}"] for k in list(two)[1:]]
    return render(
        Path(__file__).parent / "templates" / "scenes.html",
        seconds=figures["seconds"],
        folder=str(sheets["single"].parent),
        sheets=sheets,
        prompts=one["prompts"],
        single=single,
        pairs=pairs,
        stages=stage_table(runs),
    )
