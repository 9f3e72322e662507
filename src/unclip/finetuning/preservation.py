"""Prior preservation: images that the base has drawn itself stay among those that it trains on.

What a network could draw before, it forgets less (DreamBooth, arXiv 2208.12242, section 3.3). The
images are drawn once, by the restartable `unclip sample`, and are a source of a mixture. What the
base itself says of them, noised, is the target (`init_teaches`), rather than the images. They bring
the z_i that they were drawn from: encoded again, a drawn image is told from a real one more easily
than one shape from another, and the networks would learn that instead (docs/log.md).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unclip.common import artifacts
from unclip.common.adapters import TOKEN
from unclip.common.atomic import atomic_write
from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.data.readers.captions import read_captions
from unclip.data.scenes.dataset import Scenes
from unclip.finetuning.request import Found, Request
from unclip.stages.row import DECODER

SHARE = 0.5  # of each batch
LEAST, MOST = 200, 600  # images
EACH = 2  # of them for one of the user's
FOLDER = "preserved"  # in the new cascade's


@dataclass(frozen=True)
class Preservation:
    """Images of the base to be drawn, and how much of each batch they are."""

    share: float
    captions: tuple[str, ...]
    out: str
    base: str
    device: str
    fast: bool = False  # older calls had neither
    keep_z_i: bool = False

    @property
    def folder(self) -> Path:
        """Where they are drawn."""
        return Path(self.out) / FOLDER

    @property
    def words(self) -> list[str]:
        """The command that draws them."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        options = {
            "--captions": f"{self.folder}.jsonl",
            "--pipeline": self.base,
            "--out": str(self.folder),
            "--format": "tar",
            "--shard-size": "16",
            "--device": self.device,
            "--devices": str(cores if self.device == "cpu" else 1),
        }
        words = (word for option in options.items() for word in option)
        more = {"--fast": self.fast, "--keep-z-i": self.keep_z_i}
        return ["sample", *words, *(option for option, given in more.items() if given)]

    def command(self) -> list[str] | None:
        """What is to be run, after its captions are written; None where the images are there."""
        if (self.folder / "manifest.json").is_file():
            return None
        with atomic_write(self.folder.with_suffix(".jsonl")) as scratch:
            lines = [json.dumps({"caption": caption}) + "\n" for caption in self.captions]
            scratch.write_text("".join(lines), encoding="utf-8")
        return [sys.executable, "-m", "unclip", *self.words]

    def overrides(self, source: str, *, taught: bool) -> list[str]:
        """Of a stage that trains on ``source`` and on them, ``taught`` by the base if it can be."""
        return [
            *(["init_teaches=base"] if taught else []),
            "data.source=mixture",
            f"data.mixture.own.source={source}",
            f"data.mixture.own.weight={1 - self.share:g}",
            f"data.mixture.base.source={self.folder}",
            f"data.mixture.base.weight={self.share:g}",
        ]


def preservation(request: Request, found: Found, parts: Sequence[str]) -> Preservation | str:
    """What is drawn, or why nothing is.

    Raises:
        UserError: it was asked for and cannot be.
    """
    if request.preserve == 0:
        return "off, as --preserve 0 says"
    asked = request.preserve is not None or request.preserve_captions is not None
    if request.adapter == TOKEN and asked:
        raise UserError("--preserve: has no effect with --adapter token, which changes no weights")
    if request.adapter == TOKEN:
        return "off, since no weights change"
    if not (asked or found.small):
        return "off, since the images are many; --preserve 0.5 turns it on"
    captions = _captions(request, min(MOST, max(LEAST, EACH * found.training)))
    problem = ""
    if not captions:
        problem = "no captions are known that the base was trained on; give --preserve-captions"
    elif any(_mixed(request, part) for part in parts):
        problem = "the base was trained on a mixture, whose sources would stay in the batches"
    if problem and asked:
        raise UserError(f"--preserve: {problem}")
    if problem:
        return f"off: {problem}"
    share = SHARE if request.preserve is None else request.preserve
    decoder = load_experiment(str(_artifact(request, DECODER) / "config.yaml")).config
    keep = decoder.model.use_z_i and decoder.embedding == "image"
    out, base, device = request.out, request.base, request.device
    return Preservation(share, tuple(captions), out, base, device, True, keep)


def _captions(request: Request, count: int) -> list[str]:
    """Of a file, of the scenes that the base was trained on, or of the kind that a token names."""
    if request.preserve_captions is not None:
        option = "--preserve-captions"
        texts = [one.text for one in read_captions(Path(request.preserve_captions), option)]
        return [texts[k % len(texts)] for k in range(count)]
    data = load_experiment(str(_artifact(request, DECODER) / "config.yaml")).config.data
    if data.source == "scenes":  # a path would be a stranger's, perhaps
        scenes = Scenes(data.scenes, size=8, count=count)
        return [scenes[k].captions[0] for k in range(count)]
    return [f"a photo of a {request.kind}"] * count if request.kind else []


def _mixed(request: Request, part: str) -> bool:
    config = load_experiment(str(_artifact(request, part) / "config.yaml")).config
    return bool(config.data.mixture.keys() - {"own", "base"})  # of an earlier fine-tuning


def _artifact(request: Request, part: str) -> Path:
    return artifacts.describe(Path(request.base) / part, key="--from").path
