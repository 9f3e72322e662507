"""Continuing a run: with which settings, and whether it can be; nothing is written here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from unclip.common import yaml_text
from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.fields import leaves
from unclip.config.load import ResolvedExperiment, load_experiment
from unclip.runs.resume_rules import is_refused, rule_of
from unclip.tracking import status
from unclip.tracking.files import EXPERIMENT, PROVENANCE, SUMMARY, read_json
from unclip.training.checkpoint_callback import run_of
from unclip.training.checkpoint_folders import newest_checkpoint, step_of

NEW_RUN = "start a new run (another run.dir)"


class Resumed(NamedTuple):
    """A run that is continued."""

    experiment: ResolvedExperiment  # the run's own, with what was typed now
    changed: dict[str, tuple[Any, Any]]  # dotted key -> (value so far, value from now on)

    @property
    def at_end(self) -> list[str]:
        """The changed keys that take effect in a run that has no step left to train."""
        return [key for key in self.changed if rule_of(key).at_end]

    def finished_line(self, folder: Path) -> str:
        """What to say where nothing is left to do."""
        summary = read_json(folder / SUMMARY)
        end = summary.get("steps", self.experiment.config.trainer.max_steps)
        line = f"{self.experiment.name}: {folder} has finished, at step {end}"
        if summary.get("stopped_early") is True:
            return f"{line}, where nothing became better; to train it further, {NEW_RUN}"
        idle = [key for key in self.changed if rule_of(key).effect == "takes effect"]
        more = f"; {', '.join(idle)}: takes effect with more steps (trainer.max_steps=N)"
        return line + more if idle else line


def continued(typed: ResolvedExperiment, folder: Path) -> Resumed:
    """The experiment of the run in ``folder``, with the overrides of ``typed``.

    Raises:
        UserError: it is of another stage, or an override cannot take effect.
    """
    file = folder / EXPERIMENT
    stage = yaml_text.read_file(file).get("stage")
    if stage != typed.stage.name:
        raise UserError(
            f"--resume: stage: {stage} -> {typed.stage.name}: {file} is of another stage; name its "
            "experiment, or another run.dir"
        )
    before = load_experiment(str(file)).config
    now = load_experiment(str(file), list(typed.overrides))
    config = now.config
    if config.run.dir is not None:
        config.run.dir = str(folder)  # wherever it is now
    if config.trainer.threads is None:
        config.trainer.threads = before.trainer.threads
    changed = _changes(before, now)
    refused = [key for key in changed if is_refused(key, before)]
    if refused:
        then, wanted = changed[refused[0]]
        more = f" (also {', '.join(refused[1:])})" if refused[1:] else ""
        raise UserError(
            f"--resume: {refused[0]}: {_shown(then)} -> {_shown(wanted)}{more}: a run keeps this "
            f"setting to its end; {NEW_RUN}, or resume without the override"
        )
    origin = read_json(folder / PROVENANCE)
    name = origin.get("experiment")
    return Resumed(
        dataclasses.replace(now, name=name if isinstance(name, str) else typed.name), changed
    )


def _changes(before: Any, now: ResolvedExperiment) -> dict[str, tuple[Any, Any]]:
    """What the overrides change; sizes that are filled in again, and where the run is, do not."""
    then, wanted = (dict(leaves(dataclasses.asdict(c))) for c in (before, now.config))
    filled = now.stage.filled_fields(now.config)
    return {
        key: (then.get(key), wanted.get(key))
        for key in then | wanted
        if then.get(key) != wanted.get(key)
        and not key.startswith("run.")
        and not (key in filled and wanted.get(key) is None)
    }


def _shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | bool) or value is None else str(value)


def check_length(checkpoint: Path, max_steps: int) -> None:
    """Refuse to end a run before its checkpoint."""
    step = step_of(checkpoint)
    if max_steps < step:
        raise UserError(
            f"--resume: trainer.max_steps={max_steps}: the run has taken {counted(step, 'step')} "
            f"({checkpoint}); give at least {step}, or {NEW_RUN}"
        )


def about_run(experiment: Any, origin: dict[str, Any]) -> dict[str, Any]:
    """What a run keeps to its end, for its checkpoints: settings, parents, data.

    ``origin`` is what `unclip.tracking.provenance.collect` says of now.
    """
    settings = leaves(dataclasses.asdict(experiment))
    return {
        "settings": {key: value for key, value in settings if is_refused(key, experiment)},
        "parents": origin["parents"],
        "data_fingerprint": origin["data_fingerprint"],
    }


def check_same(checkpoint: Path, folder: Path, experiment: Any, origin: dict[str, Any]) -> None:
    """Refuse to continue ``checkpoint`` with other settings, parents or data than it is of.

    The checkpoint says so itself, whatever became of the files beside it; where it is of an older
    version, the run's provenance.json tells of parents and data.
    """
    before = run_of(checkpoint) or read_json(folder / PROVENANCE)
    now = about_run(experiment, origin)
    settings = before.get("settings")
    for key, then in settings.items() if isinstance(settings, dict) else ():
        value = now["settings"].get(key, then)  # a field that this version lacks is as it was
        if value != then:
            raise UserError(
                f"--resume: {key}: {folder / EXPERIMENT} says {_shown(value)}, but {checkpoint} "
                f"was trained with {_shown(then)}; put that back, or {NEW_RUN}"
            )
    parents = before.get("parents")
    for key, weights in now["parents"].items():
        then = parents.get(key) if isinstance(parents, dict) else None
        if then not in (None, weights):
            raise UserError(
                f"--resume: {key}={getattr(experiment, key)}: has other weights ({weights[:12]}) "
                f"than the {key} that the run is trained with ({str(then)[:12]}); name that "
                f"one, or {NEW_RUN}"
            )
    then, found = before.get("data_fingerprint"), now["data_fingerprint"]
    if then not in (None, found):
        data = experiment.data
        embeddings = getattr(data, "embeddings", None)
        named = f"data.source={data.source}" + (
            f", data.embeddings={embeddings}" if embeddings else ""
        )
        raise UserError(
            f"--resume: {named}: other samples (fingerprint {found}) than the run is trained on "
            f"({then}); give the same data, or {NEW_RUN}"
        )


def is_whole(folder: Path, max_steps: int | None = None) -> bool:
    """Whether the run in ``folder`` has ended at ``max_steps`` and has all that a run leaves.

    Without ``max_steps``, or where it was stopped early, where its summary says that it ended.
    """
    newest = newest_checkpoint(folder)
    summary = read_json(folder / SUMMARY)
    if max_steps is None or summary.get("stopped_early") is True:
        max_steps = summary.get("steps")
    if type(max_steps) is not int:
        return False
    sheet = folder / "samples" / f"step_{max_steps:07d}.png"
    return (
        newest is not None
        and step_of(newest) == max_steps == summary.get("steps")
        and summary.get("loss") is not None
        and (sheet.is_file() or not summary.get("has_samples"))
        and (folder / "artifact" / "artifact.json").is_file()
        and status.status_of(folder).state == "finished"
    )


def resume_notes(typed: ResolvedExperiment, resumed: Resumed) -> list[str]:
    """What to say of a resume: settings that its file now has otherwise, a schedule that moves."""
    lines = []
    own = resumed.experiment
    filled = {*own.stage.filled_fields(own.config), *own.stage.parents, "about", "trainer.threads"}
    there = dict(leaves(typed.as_dict()))
    kept = [
        f"{key}={_shown(value)}"
        for key, value in leaves(own.as_dict())
        if value != there.get(key) and key not in filled and not key.startswith("run.")
    ]
    if kept:
        more = f" and {len(kept) - 4} more" if len(kept) > 4 else ""
        shown = ", ".join(kept[:4])
        lines.append(f"with the run's own settings, where {typed.files[0]} differs: {shown}{more}")
    if "trainer.max_steps" in resumed.changed and own.config.optim.schedule == "cosine":
        then, now = resumed.changed["trainer.max_steps"]
        lines.append(
            f"trainer.max_steps: {then} -> {now}: the cosine schedule now falls to 0 at step {now}"
        )
    return lines
