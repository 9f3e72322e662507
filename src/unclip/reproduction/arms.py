"""Trains what arms are made of: ordinary runs, in a folder named after what they depend on.

A run's folder ends in a hash of its experiment and of its parents' hashes, so changing an arm
trains that arm anew, with what depends on it, and nothing else. `unclip.runs.recipe` says what is
finished, what is resumed, and how runs share the cores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unclip.common import artifacts
from unclip.common.checks import nearest
from unclip.common.errors import UserError
from unclip.common.fields import keys_of
from unclip.config.files import find_experiment
from unclip.config.load import load_experiment, merge_overrides, parse_overrides, read_head
from unclip.reproduction.preset import FEWEST, Preset, Training
from unclip.reproduction.sizes import Sizes
from unclip.runs.recipe import Task, command_of
from unclip.stages import registry
from unclip.stages.row import PCA

OURS = {
    "run.dir": "each run has a folder of its own in --out",
    "run.root": "each run has a folder of its own in --out",
    "trainer.seed": "the preset has the seeds",
    "trainer.max_steps": "--budget and the preset say how long",
    "trainer.val_every": "nothing is validated before the end",
    "trainer.sample_every": "nothing is drawn before the judges do",
    "clip": "is trained here",
    "pca": "is trained here",
}
"""Fields that are set here."""

Key = tuple[str, int]
"""A training and its seed."""


@dataclass(frozen=True)
class Run:
    """A network to train, or one that is there."""

    key: Key
    folder: Path
    task: Task | None  # None: it was given

    @property
    def artifact(self) -> artifacts.Artifact:
        """What came of it."""
        return artifacts.describe(self.folder)


def plan_runs(
    preset: Preset,
    keys: Sequence[Key],
    sizes: Sizes,
    root: Path,
    *,
    given: Mapping[str, Path],
    overrides: Sequence[str] = (),
) -> dict[Key, Run]:
    """The runs of ``keys`` (parents first) in ``root``, every experiment validated.

    ``given`` are folders of networks that are there already, for seed 0. ``overrides`` are for
    every training that has the field.

    Raises:
        UserError: an experiment says what cannot be.
    """
    runs: dict[Key, Run] = {(name, 0): Run((name, 0), path, None) for name, path in given.items()}
    for name, seed in keys:
        training = preset.trainings[name]
        parents = {kind: runs[parent, seed] for kind, parent in training.parents.items()}
        words = _overrides(preset, training, sizes, seed, overrides)
        words += [f"{kind}={run.folder}" for kind, run in parents.items()]
        resolved = load_experiment(training.experiment, words)
        folder = root / f"{_part(name, seed)}-{_hash(resolved.as_dict(), parents)}"
        needs = tuple(_part(parent, seed) for parent in training.parents.values())
        words.append(f"run.dir={folder}")
        task = Task(_part(name, seed), training.experiment, words, folder, needs)
        runs[name, seed] = Run((name, seed), folder, task)
    return runs


def is_finished(run: Run) -> bool:
    """Whether its network is there."""
    return run.task is None or (run.folder / "artifact" / "artifact.json").is_file()


def commands_of(runs: Mapping[Key, Run]) -> dict[str, list[str]]:
    """What trains those that are not finished, by name."""
    tasks = [run.task for run in runs.values() if run.task is not None and not is_finished(run)]
    return {task.part: words for task in tasks if (words := command_of(task))}


def _part(name: str, seed: int) -> str:
    return f"{name}-{seed}"


def check_overrides(preset: Preset, overrides: Sequence[str]) -> None:
    """Refuse overrides that no training has, or by which the arms would be others.

    Raises:
        UserError: names the key, of ``overrides`` or of the preset.
    """
    every = {name: _fields_of(one.experiment) for name, one in preset.trainings.items()}
    known = {key for keys in every.values() for key in keys}
    apart = {}
    for name, training in preset.trainings.items():
        for key in parse_overrides(training.overrides):
            if key not in every[name]:
                near = nearest(key, every[name])
                raise UserError(f"the preset's trainings.{name}.overrides: {key}: unknown{near}")
            apart[key] = name
    for where, words in ("the preset's overrides: ", preset.overrides), ("", overrides):
        for key in parse_overrides(words):
            if key in OURS:
                raise UserError(f"{where}{key}: {OURS[key]}; leave it out")
            if key not in known:
                near = nearest(key, known)
                raise UserError(f"{where}{key}: no training here has this field{near}")
            if not where and key in apart:
                raise UserError(
                    f"{key}: the preset sets it for {apart[key]}, which would be another arm; "
                    "change it in a preset of your own"
                )


def experiment_of(preset: Preset, training: Training, overrides: Sequence[str]) -> Any:
    """What a training is of its own, without its parents, seed and length."""
    return load_experiment(training.experiment, _given(preset, training, overrides)).config


def _given(preset: Preset, training: Training, more: Sequence[str]) -> list[str]:
    known = _fields_of(training.experiment)
    given = merge_overrides(preset.overrides, training.overrides, more)
    return [word for word in given if word.partition("=")[0] in known]


def _fields_of(experiment: str) -> set[str]:
    stage = read_head(find_experiment(experiment)).stage
    return set(keys_of(registry.STAGES[stage].experiment))


def _overrides(
    preset: Preset, training: Training, sizes: Sizes, seed: int, more: Sequence[str]
) -> list[str]:
    given = merge_overrides(_given(preset, training, more), [f"trainer.seed={seed}"])
    if training.kind == PCA:
        return given
    config = load_experiment(training.experiment, given).config
    steps = max(FEWEST, round(sizes.share * config.trainer.max_steps))
    lengths = {"max_steps": steps, "val_every": steps, "sample_every": 0}
    lengths["checkpoint_every"] = min(config.trainer.checkpoint_every, max(1, steps // 4))
    shorter = [f"trainer.{name}={value}" for name, value in lengths.items()]
    if config.optim.warmup_steps > steps // 4:
        shorter.append(f"optim.warmup_steps={steps // 4}")
    return merge_overrides(given, shorter)


def _hash(content: dict[str, Any], parents: Mapping[str, Run]) -> str:
    """Of all that decides the run's weights: every field, and its parents' names for paths."""
    names = {kind: _name(run) for kind, run in parents.items()}
    decides = {k: v for k, v in content.items() if k not in ("run", "tracking", *names)}
    text = json.dumps([decides, names], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _name(run: Run) -> str:
    """A parent's own hash, or the checksum of a network that was given."""
    return run.folder.name if run.task else run.artifact.sha256
