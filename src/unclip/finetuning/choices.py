"""What is chosen for a stage that is fine-tuned: length, rate, precision, memory, adapter."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from unclip.common import artifacts
from unclip.common.adapters import TOKEN
from unclip.common.counted import about
from unclip.common.errors import UserError
from unclip.common.terminal import say
from unclip.config.load import ResolvedExperiment, load_experiment, merge_overrides
from unclip.finetuning import learned_word
from unclip.finetuning.preservation import Preservation
from unclip.finetuning.request import Found, Request
from unclip.planning import devices
from unclip.planning.plan import plan
from unclip.runs.recipe import Task
from unclip.stages.row import CLIP, DECODER, PCA, PRIOR, UPSAMPLER

LARGE = 200 * 2**20  # bytes of weights from which an adapter is trained instead of all of them
BATCH = {DECODER: 8, PRIOR: 64, UPSAMPLER: 8}
STEPS = {DECODER: 1350, PRIOR: 1100, UPSAMPLER: 1000}
PATIENCE = 2  # of the five validations of a small set, without a better one
MFU = 0.4  # share of a device's peak at which it is taken to compute, before it is measured
ACCELERATORS = {"cpu": "cpu", "cuda": "gpu", "mps": "mps"}


def task_of(
    request: Request, part: str, found: Found, preserved: Preservation | None = None
) -> Task:
    """A stage to train, with every setting."""
    base, kind = Path(request.base), part.split("_")[0]
    artifact = artifacts.describe(base / part, key="--from")
    name = str(artifact.path / "config.yaml")
    before = load_experiment(name).config
    lora = request.adapter == "lora" or (
        request.adapter == "auto" and (artifact.path / artifacts.FILES[-1]).stat().st_size >= LARGE
    )
    steps = request.steps or STEPS[kind]
    chosen: dict[str, Any] = {
        "init": base / part,
        "init_teaches": None,
        "data.source": request.source,
        "data.caption": request.caption,
        "data.held_out": found.held_out,
        "data.limit": None,
        "data.batch_size": min(BATCH[kind], found.training),
        "data.embeddings": None,
        "data.cache_embeddings": "auto",
        "data.flip": found.small,
        "trainer.max_steps": steps,
        "trainer.val_every": max(1, steps // (5 if found.small else 4)),
        "trainer.early_stopping": PATIENCE if found.small else 0,
        "trainer.sample_every": 0,
        "trainer.checkpoint_every": max(1, steps // 4),
        "trainer.precision": _precision(request.device),
        "trainer.accelerator": ACCELERATORS[request.device],
        "trainer.strategy": "auto",
        "trainer.devices": 1,
        "trainer.nodes": 1,
        "optim.lr": before.optim.lr * _rate(before.optim.name, lora),
        "optim.warmup_steps": steps // 20,
        "ema.decay": min(before.ema.decay, 1 - 10 / (steps + 10)),
        "run.dir": folder_of(request, part),
    }
    for key in (CLIP, PCA):
        if (base / key).is_dir():
            chosen[key] = base / key
    if request.adapter == TOKEN:
        chosen |= learned_word.settings(request)
    if lora:
        chosen |= {"adapter.kind": "lora", "adapter.rank": 32}
    words = [
        f"{key}={_text(value)}"
        for key, value in chosen.items()
        if _has(before, key) and _get(before, key) != value
    ]
    if preserved is not None:
        taught = _has(before, "init_teaches")
        words = merge_overrides(words, preserved.overrides(request.source, taught=taught))
    words = merge_overrides(words, list(request.overrides))
    resolved = load_experiment(name, words)
    words += _memory(resolved, request.device)
    return Task(part, name, words, folder_of(request, part))


def side_by_side(request: Request) -> bool:
    """Whether small stages share the cores of a CPU: one of them cannot use two well."""
    files = Path(request.base).glob(f"**/{artifacts.FILES[-1]}")
    return request.device == "cpu" and all(file.stat().st_size < LARGE for file in files)


def folder_of(request: Request, part: str) -> Path:
    """Of the run; a stage by which a word is learned stays as it is in the cascade."""
    return Path(request.out) / (f"{TOKEN}_{part}" if request.adapter == TOKEN else part)


def _rate(optimizer: str, lora: bool) -> float:
    """Share of the rate that the stage began with. Muon's steps have one size, so it needs more."""
    muon = optimizer == "muon"
    if lora:
        return 1.3 if muon else 1.0
    return 0.6 if muon else 0.1


def _text(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


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
        found = plan(load_experiment(resolved.files[0], words), gpus=1, device=name, mfu=MFU)
        if found.chosen.fits:
            steps = resolved.config.trainer.max_steps
            say(
                f"{resolved.stage.kind}: planned at {about(steps * found.chosen.seconds)} "
                f"({MFU:.0%} of the peak of this {name}); its first steps will tell"
            )
            return [*more, *(o for o in found.overrides if not o.startswith("trainer.devices"))]
        accumulate = next((n for n in range(accumulate + 1, batch + 1) if batch % n == 0), 0)
        if not accumulate:
            need = found.chosen.need.memory.total / 2**30
            raise UserError(
                f"{resolved.name}: needs {need:.1f} GiB even with one sample at a time, more than "
                f"this {name} has; try --adapter lora, or a smaller cascade"
            )
