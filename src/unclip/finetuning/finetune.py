"""Fine-tuning a cascade on somebody's images: what to train, how, and by which commands.

Every choice is a setting of `unclip train`, so the whole is a few of its commands and a page.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from unclip.common import artifacts, atomic, json_text
from unclip.common.adapters import TOKEN
from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.terminal import say
from unclip.config.load import load_experiment, parse_overrides
from unclip.data.config import ReadingConfig
from unclip.data.sources import open_splits
from unclip.finetuning import learned_word
from unclip.finetuning.choices import folder_of, side_by_side, task_of
from unclip.finetuning.preservation import FOLDER, Preservation, preservation
from unclip.finetuning.request import Found, Request
from unclip.runs.ahead import print_table
from unclip.runs.recipe import Task, command_of
from unclip.runs.side_by_side import run_together
from unclip.stages.row import CLIP, DECODER, PCA, PRIOR, UPSAMPLER
from unclip.tracking.report import Finished

FILE = "finetune.json"
SMALL_SET = 500  # samples below which they are protected from
OURS = (
    "run.",
    "init",
    "clip",
    "pca",
    "data.source",
    "data.caption",
    "data.mixture",
    "adapter.kind",
    "adapter.token",
)
"""Fields that are decided here, or by options."""


class Prepared(NamedTuple):
    """What will be done."""

    tasks: list[Task]  # the stages to train, in their order, with every setting
    preservation: Preservation | str  # or why there is none


def prepare(request: Request) -> Prepared:
    """What will be done, whole; nothing is written.

    Raises:
        UserError: something of the request cannot be.
    """
    for key in parse_overrides(request.overrides):
        if key.startswith(OURS):
            raise UserError(f"{key}: is decided by `unclip finetune` and its options; leave it out")
    kept = _kept(request)
    if kept is not None:  # a machine with other memory would choose otherwise now
        return kept
    parts, found = _parts(request), _count(request)
    chosen = preservation(request, found, parts)
    preserved = None if isinstance(chosen, str) else chosen
    return Prepared([task_of(request, part, found, preserved) for part in parts], chosen)


def _kept(request: Request) -> Prepared | None:
    """What an earlier call of the same request has decided in the same folder."""
    path = Path(request.out) / FILE
    if not path.exists():
        return None
    try:
        content = json_text.read_object(path)
        then = dict(content["request"])
        tasks = [
            Task(str(part), str(name), list(words), folder_of(request, str(part)))
            for part, name, words in content["tasks"]
        ]
        chosen = content.get("preservation", "off")  # of an older version
        if not isinstance(chosen, str):
            chosen = Preservation(**chosen | {"captions": tuple(map(str, chosen["captions"]))})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is damaged ({error}); give another --out") from None
    for key, now in json.loads(json.dumps(asdict(request))).items():
        if then.get(key) != now:
            named = {"source": "PHOTOS", "base": "--from", "initial": "--initialise-from"}
            option = named.get(key, f"--{key.replace('_', '-')}")
            raise UserError(
                f"{path}: was started with {option} {then.get(key)}, now {now}; give the same as "
                "before, or another --out"
            )
    return Prepared(tasks, chosen)


def _count(request: Request) -> Found:
    """The samples, opened once."""
    caption = request.caption
    if request.captioner is not None:
        if not Path(request.source).is_dir():
            raise UserError(f"--captioner: {request.source} is not a local folder of images")
        caption = "to be written"

    def split(held_out: float) -> Any:
        config = ReadingConfig(source=request.source, caption=caption, held_out=held_out)
        config.validate()
        return open_splits(config, image_size=1)

    try:
        given = parse_overrides(list(request.overrides)).get("data.held_out")
        share = ReadingConfig.held_out
        with suppress(TypeError, ValueError):  # of no number the experiment says what is wrong
            share = float(str(given))
        found = split(share)
        small = len(found.train) + len(found.held_out) < SMALL_SET
        if small and given is None:
            share = 0.1
            found = split(share)
    except UserError as error:
        if "has a caption beside it" in str(error):
            raise UserError(
                f"{request.source}: its images have no captions; say what they show: --token "
                '"sks dog", --caption "a photo of a {folder}" or --captioner MODEL, or put a .txt '
                "beside each"
            ) from None
        raise
    if not len(found.train):
        raise UserError(f"{request.source}: no sample is left for training")
    if not len(found.held_out) and given is None:
        say(
            f"unclip: note: none of the {counted(len(found.train), 'sample')} is held out at "
            f"data.held_out={share:g}, so none is validated; data.held_out=0.3 holds out more",
            error=True,
        )
    if request.adapter == TOKEN:
        learned_word.require_in_captions(request, found.train)
    return Found(len(found.train), share, small)


def _parts(request: Request) -> list[str]:
    """The folders of the stages to train, checked."""
    base = Path(request.base)
    there = [p.parent.name for p in sorted(base.glob("*/artifact.json"))]
    there += [p.parent.parent.name for p in sorted(base.glob("*/artifact/artifact.json"))]
    trains = [p for p in there if p.startswith((DECODER, PRIOR, UPSAMPLER))]
    if DECODER not in there:
        raise UserError(f"--from {base}: is not a cascade: {DECODER} missing in it")
    for part in request.stages:
        if part not in trains:
            raise UserError(f"--stages {part}: must be one of {', '.join(trains)}")
    if request.adapter == TOKEN:
        return [learned_word.stage_of(request, trains)]
    chosen = list(request.stages) or [p for p in (DECODER, PRIOR) if p in trains]
    if any(p.startswith((DECODER, PRIOR)) for p in chosen) and not (base / CLIP).exists():
        raise UserError(
            f"--from {base}: has no {CLIP}, which training needs; add one: `unclip import SOURCE "
            f"--out {base}`"
        )
    return chosen


def announce(request: Request, prepared: Prepared) -> None:
    """Say what will be done, and each command that it stands for."""
    tasks, chosen = prepared
    experiments = [load_experiment(task.name, task.overrides) for task in tasks]
    stages = counted(len(tasks), "stage")
    say(f"{request.out}: {stages} of {request.base} to be trained on {request.source}:")
    print_table(experiments, times=False)
    if isinstance(chosen, str):
        say(f"prior preservation: {chosen}")
    else:
        say(
            f"prior preservation: {chosen.share:.0%} of each batch is taken from "
            f"{counted(len(chosen.captions), 'image')} that {request.base} draws first; their "
            f"captions are in {chosen.folder}.jsonl"
        )
    first = experiments[0].config
    stop, data = first.trainer.early_stopping, first.data
    say(f"early stopping: {f'after {stop} validations without a better one' if stop else 'off'}")
    mirrored = "half of the images, not where the caption names a side or writing"
    say(f"mirrored (data.flip): {mirrored if data.flip else 'no'}")
    say("by these commands:")
    if request.captioner is not None:
        say(f"  unclip {shlex.join(_captioning(request))}")
    if isinstance(chosen, Preservation):
        say(f"  unclip {shlex.join(chosen.words)}")
    for task in tasks:
        say(f"  unclip train {shlex.join([task.name, *task.overrides])}")


def finetune(request: Request, prepared: Prepared) -> float:
    """Train what is not trained yet and complete the cascade; returns the seconds that it took.

    Raises:
        UserError: a stage failed, and has said why.
    """
    tasks, chosen = prepared
    out, began = Path(request.out), time.perf_counter()
    commands = {task.part: words for task in tasks if (words := command_of(task))}
    out.mkdir(parents=True, exist_ok=True)
    with atomic.atomic_write(out / FILE) as scratch:
        kept = [[task.part, task.name, task.overrides] for task in tasks]
        how = chosen if isinstance(chosen, str) else asdict(chosen)
        content = {"request": asdict(request), "tasks": kept, "preservation": how}
        scratch.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if commands and request.captioner is not None:
        run_together({"captions": [sys.executable, "-m", "unclip", *_captioning(request)]})
    if commands and isinstance(chosen, Preservation) and (words := chosen.command()):
        run_together({FOLDER: words})
    for some in [commands] if side_by_side(request) else [{p: w} for p, w in commands.items()]:
        run_together(some)
    _complete(Path(request.base), out)
    if request.adapter == TOKEN:
        learned_word.write(request, tasks[0].folder)
    return time.perf_counter() - began


def _captioning(request: Request) -> list[str]:
    """The command that captions the images, which is done at once where all have captions."""
    assert request.captioner is not None
    return [
        "data",
        "caption",
        request.source,
        "--with",
        request.captioner,
        "--device",
        request.device,
    ]


def compared(tasks: Sequence[Task], runs: Sequence[Finished]) -> list[str]:
    """How long each stage took to train, beside what its first steps had said."""
    lines = []
    for task, run in zip(tasks, runs):
        said, took = run.summary.get("forecast"), run.summary.get("training_seconds")
        if run.summary.get("stopped_early"):
            steps, best = run.summary["steps"], run.summary["best_step"]
            lines.append(f"{task.part}: stopped at step {steps}; its weights are of step {best}")
        elif said and took:
            off = f"{100 * (said / took - 1):+.0f} %"
            lines.append(f"{task.part}: told {said:.0f} s, took {took:.0f} s ({off})")
    return lines


def _complete(base: Path, out: Path) -> None:
    """The stages that were not trained, linked where that is possible and copied elsewhere."""
    for folder in sorted(path for path in base.iterdir() if path.is_dir()):
        part = folder.name
        if not part.startswith((CLIP, PRIOR, DECODER, UPSAMPLER, PCA)) or (out / part).exists():
            continue
        try:
            source = artifacts.describe(folder).path
        except UserError:  # a folder of something else
            continue
        scratch = out / f".{part}"
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(source, scratch, copy_function=_link)
        scratch.rename(out / part)


def _link(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
