"""A recipe trains a whole cascade, stage after stage, and shows what it can do.

A recipe is a YAML file in ``experiments/recipes``: which experiment of each kind, with which
overrides, and how many held-out captions to draw at the end. Every stage is trained by the command
that one would type, in a process of its own.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unclip.common import artifacts, yaml_text
from unclip.common.checks import nearest
from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.fields import leaves
from unclip.common.inputs import require_apart
from unclip.common.processes import environment, interruptible, starting, stop
from unclip.common.removed import without_removed
from unclip.common.stage_lines import StageLines
from unclip.common.terminal import say
from unclip.config.files import find_experiment
from unclip.config.load import ResolvedExperiment, load_experiment, merge_overrides, parse_overrides
from unclip.runs.ahead import print_table
from unclip.runs.inputs import inputs_of
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
    together: bool = False  # after the CLIP two stages at a time, with half of the cores each
    prompts: int = 64  # held-out single-object captions that are drawn and read by the oracle


@dataclass(frozen=True)
class Task:
    """A stage to train, or a PCA to fit."""

    part: str  # folder in the cascade's
    name: str  # of the experiment
    overrides: list[str]
    folder: Path


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
    return Recipe(**content)


def run_recipe(recipe: Recipe, overrides: list[str]) -> Path:
    """Train what is not trained yet, then draw and write the page; returns the page."""
    began = time.perf_counter()
    root = Path(recipe.dir)
    waves = plan(recipe, overrides)
    commands = [{t.part: words for t in tasks if (words := command_of(t))} for tasks in waves]
    _announce(recipe, waves, commands)
    new = [path for path in (root, *root.parents) if not path.exists()]
    try:
        for together in commands:
            run_together(together, at_once=AT_ONCE)
    finally:  # a stage that never began leaves what one beside it was in
        with contextlib.suppress(OSError):
            for path in new:
                path.rmdir()
    from unclip.evaluation.protocols import own_data, scenes
    from unclip.tracking.wandb import tracked

    stages = [task for tasks in waves for task in tasks if task.part != PCA]
    stages.sort(key=lambda task: KINDS.index(task.part.split("_")[0]))
    finished = [Finished.load(task.folder) for task in stages]
    first = load_experiment(stages[0].name, stages[0].overrides).config
    told: dict[str, Any] = {"prompts": recipe.prompts, "began": began}
    if first.data.source == "scenes":
        page = scenes.report(root, finished, shapes=first.data.scenes.shapes, **told)
    else:
        page = own_data.report(root, finished, data=first.data, **told)
    parts: dict[str, str | None] = {task.part: str(task.folder) for task in stages}
    about: dict[str, Any] = {"experiment": asdict(recipe), "parents": parts}
    name = f"pipeline/{root.name}"
    with tracked(first.tracking, folder=root, name=name, kind="pipeline", **about) as tracker:
        if tracker is not None:
            tracker.keep("pipeline", "pipeline", [page])
    return page


def _announce(
    recipe: Recipe, waves: list[list[Task]], commands: list[dict[str, list[str]]]
) -> None:
    """Say what will be trained, before it begins; stages of the same number run side by side."""
    ahead = [
        (f"{number}", task)
        for number, (tasks, words) in enumerate(zip(waves, commands), 1)
        for task in tasks
        if task.part in words
    ]
    if ahead:
        also = f"; those of a number run side by side, {AT_ONCE} at once" if recipe.together else ""
        say(f"{recipe.dir}: {counted(len(ahead), 'stage')} to train, in this order{also}:")
        experiments = [load_experiment(task.name, task.overrides) for _, task in ahead]
        print_table(experiments, [number for number, _ in ahead])


def plan(recipe: Recipe, overrides: Sequence[str]) -> list[list[Task]]:
    """Waves of stages; those of a wave depend on earlier waves only. Everything is validated."""
    root = Path(recipe.dir)
    for key in parse_overrides(overrides):
        if key in OURS:
            raise UserError(f"{key}: {OURS[key]}; leave it out")

    def task(part: str, name: str, *more: str) -> Task:
        given = merge_overrides(recipe.overrides, overrides)
        if part == PCA:  # which is not trained: what is said of training is not for it
            known = dict(leaves(load_experiment(name).as_dict()))
            given = [o for o in given if o.partition("=")[0] in known]
        given.append(f"run.dir={root / part}")
        resolved = load_experiment(name, [*given, *more])
        require_apart(root / part, inputs_of(resolved), option="--dir ")
        return Task(part, name, [*given, *more], root / part)

    clip = f"clip={root / 'clip'}"
    upsamplers = []
    for name in recipe.upsamplers:
        upsamplers.append(task(f"upsampler_{load_experiment(name).config.model.image_size}", name))
    first, prior = task("clip", recipe.clip), task("prior", recipe.prior, clip)
    decoder = task("decoder", recipe.decoder, clip)
    last = [[task("pca", recipe.pca, clip)]] if recipe.pca else []
    if recipe.together:
        rest = [stage for wave in last for stage in wave]
        return [[first], [decoder, prior, *upsamplers, *rest]]  # the longest first
    return [[first], [prior], [decoder], *([t] for t in upsamplers), *last]


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


def run_together(
    commands: dict[str, list[str]],
    variables: Mapping[str, str] | None = None,
    *,
    at_once: int | None = None,
    needs: Mapping[str, Sequence[str]] | None = None,
    ended: Callable[[], None] = lambda: None,
) -> None:
    """Run named commands at once; when one fails the others are stopped.

    Their environment is this one's with ``variables`` besides. With ``at_once`` so many run at a
    time, and the next begins as one ends: the first whose ``needs``, other commands, have ended.
    ``ended`` is called after each, in the place of a command, before the next one begins.

    Several share the cores of a CPU, and their lines begin with their names (`StageLines`); one
    alone has the terminal to itself.

    Raises:
        UserError: a command failed (it has said why).
        Interrupted: SIGTERM or SIGHUP came; the commands were passed it, and have ended.
    """
    at_once = min(at_once or len(commands), len(commands))
    env = environment(together=at_once) | dict(variables or {})
    many = len(commands) > 1
    pipe: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    running: dict[str, subprocess.Popen] = {}
    readers: list[threading.Thread] = []
    waiting = dict(commands)
    shown = StageLines()

    def ready() -> str | None:
        unfinished = {*waiting, *running}
        needed = needs or {}
        return next((n for n in waiting if unfinished.isdisjoint(needed.get(n, ()))), None)

    def start(name: str) -> None:
        with starting() as prepare:
            running[name] = process = subprocess.Popen(
                waiting.pop(name), env=env, preexec_fn=prepare, **(pipe if many else {})
            )
        if many:
            readers.append(
                threading.Thread(target=shown.read, args=(name, process.stdout), daemon=True)
            )
            readers[-1].start()

    with interruptible(), shown if many else contextlib.nullcontext():
        try:
            while waiting or running:
                while len(running) < at_once and (name := ready()):
                    start(name)
                time.sleep(0.1)
                for name in [n for n, process in running.items() if process.poll() is not None]:
                    if code := running[name].returncode:
                        raise UserError(f"{name}: training failed (exit {code}), see above")
                    del running[name]
                    ended()
        finally:
            stop(running.values())
            for reader in readers:
                reader.join()


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
