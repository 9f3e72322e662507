"""Fine-tuning a cascade on somebody's images: what to train, how, and by which commands.

Every choice is a setting of `unclip train`, so the whole is a few of its commands and a page.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from unclip.common import artifacts, atomic, json_text
from unclip.common.errors import UserError
from unclip.common.terminal import say
from unclip.config.load import ResolvedExperiment, load_experiment, merge_overrides, parse_overrides
from unclip.data.config import ReadingConfig
from unclip.data.sources import open_splits
from unclip.planning import devices
from unclip.planning.plan import plan
from unclip.runs.ahead import print_table
from unclip.runs.recipe import Task, command_of, run_together
from unclip.stages.row import CLIP, DECODER, PCA, PRIOR, UPSAMPLER

FILE = "finetune.json"
LARGE = 200 * 2**20  # bytes of weights from which an adapter is trained instead of all of them
SMALL_SET = 500  # samples below which more of them are held out
BATCH = {DECODER: 16, PRIOR: 64, UPSAMPLER: 8}
STEPS = {DECODER: 1000, PRIOR: 500, UPSAMPLER: 1000}
ACCELERATORS = {"cpu": "cpu", "cuda": "gpu", "mps": "mps"}
OURS = ("run.", "init", "clip", "pca", "data.source", "data.caption", "adapter.kind")
"""Fields that are decided here, or by options."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for."""

    source: str  # of images, as data.source
    base: str  # folder of the cascade that training begins from
    out: str  # folder of the new cascade
    caption: str | None = None  # of images without one
    stages: tuple[str, ...] = ()  # folders in the cascade; none: its decoder and its prior
    adapter: str = "auto"  # auto | lora | none
    steps: int | None = None  # of each stage
    device: str = "cpu"  # cpu | cuda | mps
    overrides: tuple[str, ...] = ()  # key=value for every stage


def prepare(request: Request) -> list[Task]:
    """The stages to train, in their order, with every setting; nothing is written.

    Raises:
        UserError: something of the request cannot be.
    """
    for key in parse_overrides(request.overrides):
        if key.startswith(OURS):
            raise UserError(f"{key}: is decided by `unclip finetune` and its options; leave it out")
    kept = _kept(request)
    if kept is not None:  # a machine with other memory would choose otherwise now
        return [Task(p, name, words, Path(request.out) / p) for p, name, words in kept]
    count = _count(request)
    return [_task(request, part, count) for part in _parts(request)]


def _kept(request: Request) -> list[list[Any]] | None:
    """The tasks of an earlier call of the same request in the same folder."""
    path = Path(request.out) / FILE
    if not path.exists():
        return None
    try:
        content = json_text.read_object(path)
        then = dict(content["request"])
        tasks = [[str(part), str(name), list(words)] for part, name, words in content["tasks"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is damaged ({error}); give another --out") from None
    for key, now in json.loads(json.dumps(asdict(request))).items():
        if then.get(key) != now:
            option = {"source": "PHOTOS", "base": "--from"}.get(key, f"--{key}")
            raise UserError(
                f"{path}: was begun with {option} {then.get(key)}, not {now}; give that, or "
                "another --out"
            )
    return tasks


def _count(request: Request) -> tuple[int, float]:
    """Training samples, and the share that is held out."""

    def split(held_out: float) -> Any:
        config = ReadingConfig(source=request.source, caption=request.caption, held_out=held_out)
        config.validate()
        return open_splits(config, image_size=1)

    try:
        found, share = split(ReadingConfig.held_out), ReadingConfig.held_out
        if len(found.train) + len(found.held_out) < SMALL_SET:
            share = 0.1
            found = split(share)
    except UserError as error:
        if "has a caption beside it" in str(error):
            raise UserError(
                f"{request.source}: its images have no captions; say what they show: --token "
                '"sks dog" or --caption "a photo of a {folder}", or put a .txt beside each'
            ) from None
        raise
    if not len(found.train):
        raise UserError(f"{request.source}: no sample is left for training")
    return len(found.train), share


def _parts(request: Request) -> list[str]:
    """The folders of the stages to train, checked."""
    base = Path(request.base)
    there = [p.parent.name for p in sorted(base.glob("*/artifact.json"))]
    there += [p.parent.parent.name for p in sorted(base.glob("*/artifact/artifact.json"))]
    trains = [p for p in there if p.startswith((DECODER, PRIOR, UPSAMPLER))]
    if DECODER not in there:
        raise UserError(f"--from {base}: is no cascade: {DECODER} missing in it")
    for part in request.stages:
        if part not in trains:
            raise UserError(f"--stages {part}: must be one of {', '.join(trains)}")
    return list(request.stages) or [p for p in (DECODER, PRIOR) if p in trains]


def _task(request: Request, part: str, count: tuple[int, float]) -> Task:
    base, kind = Path(request.base), part.split("_")[0]
    artifact = artifacts.describe(base / part, key="--from")
    name = str(artifact.path / "config.yaml")
    before = load_experiment(name).config
    lora = request.adapter == "lora" or (
        request.adapter == "auto" and (artifact.path / artifacts.FILES[-1]).stat().st_size >= LARGE
    )
    steps = request.steps or STEPS[kind]
    samples, held_out = count
    chosen: dict[str, Any] = {
        "init": base / part,
        "data.source": request.source,
        "data.caption": request.caption,
        "data.held_out": held_out,
        "data.limit": None,
        "data.batch_size": min(BATCH[kind], samples),
        "data.embeddings": None,
        "trainer.max_steps": steps,
        "trainer.val_every": max(1, steps // 4),
        "trainer.sample_every": 0,
        "trainer.checkpoint_every": max(1, steps // 4),
        "trainer.precision": _precision(request.device),
        "trainer.accelerator": ACCELERATORS[request.device],
        "trainer.strategy": "auto",
        "trainer.devices": 1,
        "trainer.nodes": 1,
        "optim.lr": before.optim.lr * (1.0 if lora else 0.1),
        "optim.warmup_steps": steps // 20,
        "ema.decay": min(before.ema.decay, 1 - 10 / (steps + 10)),
        "run.dir": Path(request.out) / part,
    }
    for key in (CLIP, PCA):
        if (base / key).is_dir():
            chosen[key] = base / key
    if lora:
        chosen |= {"adapter.kind": "lora", "adapter.rank": 16}
    words = [
        f"{key}={'null' if value is None else value}"
        for key, value in chosen.items()
        if _has(before, key) and _get(before, key) != value
    ]
    words = merge_overrides(words, list(request.overrides))
    resolved = load_experiment(name, words)
    words += _memory(resolved, request.device)
    return Task(part, name, words, Path(request.out) / part)


def _has(config: Any, key: str) -> bool:
    """Whether an experiment has a field."""
    name, _, rest = key.partition(".")
    there = name in getattr(config, "__dataclass_fields__", {})
    return there and (not rest or _has(getattr(config, name), rest))


def _get(config: Any, key: str) -> Any:
    return functools.reduce(getattr, key.split("."), config)


def _precision(device: str) -> str:
    """The fastest that training is sound in on this machine."""
    if device != "cuda":
        return "32"
    return "bf16-mixed" if torch.cuda.get_device_capability() >= (8, 0) else "16-mixed"


def _memory(resolved: ResolvedExperiment, device: str) -> list[str]:
    """What makes the step fit into this machine's memory; nothing on a GPU that is not known."""
    name = "cpu"
    if device != "cpu":
        card = devices.of_card(torch.cuda.get_device_name()) if device == "cuda" else None
        if card is None:
            return []
        name = card.name
    batch, accumulate = resolved.config.data.batch_size, 1
    while True:
        more = [] if accumulate == 1 else [f"trainer.accumulate={accumulate}"]
        words = merge_overrides(resolved.overrides, more)
        found = plan(load_experiment(resolved.files[0], words), gpus=1, device=name, mfu=0.4)
        if found.chosen.fits:
            return [*more, *(o for o in found.overrides if not o.startswith("trainer.devices"))]
        accumulate = next((n for n in range(accumulate + 1, batch + 1) if batch % n == 0), 0)
        if not accumulate:
            need = found.chosen.need.memory.total / 2**30
            raise UserError(
                f"{resolved.name}: needs {need:.1f} GiB even with one sample at a time, more than "
                f"this {name} has; try --adapter lora, or a smaller cascade"
            )


def announce(request: Request, tasks: Sequence[Task]) -> None:
    """Say what will be done, and each command that it stands for."""
    say(f"{request.out}: {len(tasks)} stages of {request.base} train on {request.source}:")
    print_table([load_experiment(task.name, task.overrides) for task in tasks])
    say("by these commands:")
    for task in tasks:
        say(f"  unclip train {shlex.join([task.name, *task.overrides])}")


def finetune(request: Request, tasks: Sequence[Task]) -> float:
    """Train what is not trained yet and complete the cascade; returns the seconds that it took.

    Raises:
        UserError: a stage failed, and has said why.
    """
    out, began = Path(request.out), time.perf_counter()
    commands = {task.part: words for task in tasks if (words := command_of(task))}
    out.mkdir(parents=True, exist_ok=True)
    with atomic.atomic_write(out / FILE) as scratch:
        kept = [[task.part, task.name, task.overrides] for task in tasks]
        content = {"request": asdict(request), "tasks": kept}
        scratch.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for part, words in commands.items():
        run_together({part: words})
    _complete(Path(request.base), out)
    return time.perf_counter() - began


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
