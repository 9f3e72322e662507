"""A recipe trains a whole cascade, stage after stage, and shows what it can do.

A recipe is a YAML file in ``experiments/recipes``: which experiment of each kind, with which
overrides, and how many held-out captions to draw at the end. Every stage is trained by the command
that one would type, in a process of its own.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unclip.common import artifacts, yaml_text
from unclip.common.checks import nearest
from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.fields import leaves
from unclip.common.inputs import require_apart
from unclip.common.removed import without_removed
from unclip.common.terminal import say
from unclip.config.files import find_experiment
from unclip.config.load import ResolvedExperiment, load_experiment, merge_overrides, parse_overrides
from unclip.runs.ahead import print_table
from unclip.runs.inputs import inputs_of
from unclip.runs.side_by_side import run_together
from unclip.stages.row import KINDS, PCA
from unclip.tracking.report import Finished
from unclip.training.checkpoint_folders import newest_checkpoint

OURS = {
    "run.dir": "each stage has a folder in the recipe's (--dir)",
    "run.root": "each stage has a folder in the recipe's (--dir)",
    "clip": "is the one that the recipe trains",
}
"""Fields that a recipe sets itself."""


AT_ONCE = 2
"""Stages that train side by side: more would not halve the time of the longest, the decoder."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The fields of a recipe file."""

    about: str = ""
    dir: str = "runs/quickstart"  # every stage's run is a folder in it
    clip: str = "clip/tiny"  # experiment
    prior: str = "prior/tiny"
    decoder: str = "decoder/tiny"
    upsamplers: list[str] = field(default_factory=list)
    pca: str = ""  # fitted to the CLIP's z_i at the end, for images of its components
    overrides: list[str] = field(default_factory=list)  # key=value for every stage
    together: bool = False  # two stages at a time, with half of the cores each
    prompts: int = 64  # held-out captions of one object that are drawn and read by the oracle
    pairs: int = 16  # of two objects


@dataclass(frozen=True)
class Task:
    """A stage to train, or a PCA to fit."""

    part: str  # folder in the cascade's
    name: str  # of the experiment
    overrides: list[str]
    folder: Path
    needs: tuple[str, ...] = ()  # parts that are trained before it


def load(name: str) -> Recipe:
    """The recipe called ``name``, or at a path; unknown keys are refused."""
    path = find_experiment(name if "/" in name or name.endswith(".yaml") else f"recipes/{name}")
    content = yaml_text.read_file(path)
    known = Recipe.__dataclass_fields__
    for key, value in content.items():
        if key not in known:
            raise UserError(f"{path}: {key}: unknown key{nearest(key, known)}")
        wanted = type(getattr(Recipe(), key))
        if type(value) is not wanted:
            raise UserError(f"{path}: {key}={value!r}: must be {wanted.__name__}")
        if wanted is int and value < 1:
            raise UserError(f"{path}: {key}={value}: must be at least 1")
    return Recipe(**content)


def run_recipe(recipe: Recipe, overrides: list[str]) -> Path:
    """Train what is not trained yet, then draw and write the page; returns the page."""
    began = time.perf_counter()
    root = Path(recipe.dir)
    tasks = plan(recipe, overrides)
    commands = {task.part: words for task in tasks if (words := command_of(task))}
    _announce(recipe, [task for task in tasks if task.part in commands])
    new = [path for path in (root, *root.parents) if not path.exists()]
    try:
        at_once = AT_ONCE if recipe.together else 1
        run_together(commands, at_once=at_once, needs={task.part: task.needs for task in tasks})
    finally:  # a stage that never began leaves what one beside it was in
        with contextlib.suppress(OSError):
            for path in new:
                path.rmdir()
    from unclip.evaluation.protocols import own_data, scenes
    from unclip.tracking.wandb import tracked

    stages = [task for task in tasks if task.part != PCA]
    stages.sort(key=lambda task: KINDS.index(task.part.split("_")[0]))
    finished = [Finished.load(task.folder) for task in stages]
    first = load_experiment(stages[0].name, stages[0].overrides).config
    told: dict[str, Any] = {"prompts": recipe.prompts, "began": began}
    if first.data.source == "scenes":
        trained = first.data.scenes
        page = scenes.report(root, finished, pairs=recipe.pairs, trained=trained, **told)
    else:
        page = own_data.report(root, finished, data=first.data, **told)
    parts: dict[str, str | None] = {task.part: str(task.folder) for task in stages}
    about: dict[str, Any] = {"experiment": asdict(recipe), "parents": parts}
    name = f"pipeline/{root.name}"
    with tracked(first.tracking, folder=root, name=name, kind="pipeline", **about) as tracker:
        if tracker is not None:
            tracker.keep("pipeline", "pipeline", [page])
    return page


def _announce(recipe: Recipe, ahead: Sequence[Task]) -> None:
    """Say what will be trained, before it begins; stages of the same number run side by side."""
    if not ahead:
        return
    numbers: dict[str, int] = {}
    for task in ahead:
        after = (numbers[part] for part in task.needs if part in numbers)
        numbers[task.part] = 1 + max(after, default=0) if recipe.together else 1 + len(numbers)
    also = f"; those of a number run side by side, {AT_ONCE} at once" if recipe.together else ""
    say(f"{recipe.dir}: {counted(len(ahead), 'stage')} to train, in this order{also}:")
    experiments = [load_experiment(task.name, task.overrides) for task in ahead]
    print_table(experiments, [str(number) for number in numbers.values()])


def plan(recipe: Recipe, overrides: Sequence[str]) -> list[Task]:
    """The stages in their order, each after what it needs. Everything is validated."""
    root = Path(recipe.dir)
    for key in parse_overrides(overrides):
        if key in OURS:
            raise UserError(f"{key}: {OURS[key]}; leave it out")

    def task(part: str, name: str, needs: Sequence[str] = ()) -> Task:
        given = merge_overrides(recipe.overrides, overrides)
        if part == PCA:  # which is not trained: what is said of training is not for it
            known = dict(leaves(load_experiment(name).as_dict()))
            given = [o for o in given if o.partition("=")[0] in known]
        given.append(f"run.dir={root / part}")
        given += [f"{parent}={root / parent}" for parent in needs]
        resolved = load_experiment(name, given)
        require_apart(root / part, inputs_of(resolved), option="--dir ")
        return Task(part, name, given, root / part, tuple(needs))

    upsamplers = [
        task(f"upsampler_{load_experiment(name).config.model.image_size}", name)
        for name in recipe.upsamplers
    ]
    clip = task("clip", recipe.clip)
    prior = task("prior", recipe.prior, ["clip"])
    decoder = task("decoder", recipe.decoder, ["clip"])
    last = [task("pca", recipe.pca, ["clip"])] if recipe.pca else []
    if recipe.together:  # what trains beside the CLIP, then the longest first
        return [clip, *upsamplers, decoder, prior, *last]
    return [clip, prior, decoder, *upsamplers, *last]


def command_of(task: Task) -> list[str] | None:
    """What trains the task, or None: a finished run of the same experiment is kept."""
    verb = load_experiment(task.name).stage.verb
    words = [sys.executable, "-m", "unclip", verb, task.name, *task.overrides]
    if (task.folder / "artifact" / "artifact.json").is_file():
        before = artifacts.describe(task.folder).config
        if not _same(before, load_experiment(task.name, task.overrides)):
            raise UserError(
                f"{task.folder}: holds a finished run with other settings; remove the folder, or "
                "give the recipe another --dir"
            )
        say(f"{task.name}: {task.folder} is finished, kept")
        return None
    if newest_checkpoint(task.folder):
        return [*words, "--resume"]
    return [*words, "--force"] if task.folder.exists() else words


def _same(before: dict[str, Any], now: ResolvedExperiment) -> bool:
    """Whether a finished run's experiment is this one, apart from what fills itself in.

    Where it was logged does not matter. A field that did not exist when the run was made had its
    default.
    """
    defaults = leaves(asdict(type(now.config)()))
    before = without_removed(type(now.config), before)
    a, b = dict([*defaults, *leaves(before)]), dict(leaves(now.as_dict()))
    by_itself = (*now.stage.filled_fields(now.config), "trainer.threads")
    filled = {k for k in by_itself if b.get(k) is None or k == "model.context"}
    filled |= {k for k in (*a, *b) if k.startswith("tracking.")}
    return all(a.get(k) == b.get(k) for k in {*a, *b} - filled)
